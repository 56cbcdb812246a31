"""Sums over images from which stage 2 follows: those of several sites add up, so that no image need leave its house.

[ours] What a discriminant asks of a set of images are counts, means and products. Summed, they are the same numbers as
those of the pooled images, wherever these lie.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from scipy.stats import norm


@dataclass(frozen=True)
class Spread:
    """What tells positives from negatives in signs as columns, each expected to be higher on positives."""

    difference: np.ndarray  # (s,) of the class means
    covariance: np.ndarray  # (s, s) within the classes
    variance: float  # mean over the columns, of all images together

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Spread:
        """From x (N, s) and y (N,) in {0, 1}, both there."""
        positive, negative = x[y == 1], x[y == 0]
        inside = np.concatenate([positive - positive.mean(0), negative - negative.mean(0)])
        return cls(positive.mean(0) - negative.mean(0), inside.T @ inside / len(inside), x.var(0).mean())


@dataclass(frozen=True)
class Moments:
    """Sums over the positives of each category and, in the last row, over all images; `+` joins those of two sites.

    count: (C + 1,) images. total: (C + 1, F), sums of features x. square: (C + 1, F, F), sums of x x', or (C + 1, F)
    those of x x alone.
    """

    count: np.ndarray
    total: np.ndarray
    square: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, labels: np.ndarray, products: bool = True) -> Moments:
        """Of features x (N, F), or (A, N, F) in A augmentations, and labels Y (N, C); `products`: whether of two."""
        rows = np.asarray(x, dtype=np.float64).reshape(-1, x.shape[-1])
        groups = np.column_stack([labels, np.ones(len(labels))])
        groups = np.tile(groups, (len(rows) // max(1, len(groups)), 1)).T
        square = np.stack([(rows * g[:, None]).T @ rows for g in groups]) if products else groups @ rows**2
        return cls(groups.sum(1), groups @ rows, square)

    @classmethod
    def none(cls, features: int, categories: int, products: bool = False) -> Moments:
        """Of no image."""
        return cls.of(np.zeros((0, features)), np.zeros((0, categories)), products)

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(ours + theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))

    def _classes(self, sums: np.ndarray) -> np.ndarray:
        """(2, C, ...): means over each category's positives, and over its negatives, which are all others."""
        both = np.stack([sums[:-1], sums[-1] - sums[:-1]])
        count = np.stack([self.count[:-1], self.count[-1] - self.count[:-1]])
        return both / count.reshape(count.shape + (1,) * (both.ndim - 2))

    def means(self) -> np.ndarray:
        """(2, C, F): of each category's positives, and of its negatives."""
        return self._classes(self.total)

    def margins(self, weights: np.ndarray) -> np.ndarray:
        """(2, C): means of x W' in the same classes, for W (C, F), each category's of its own."""
        return np.einsum("kcf,cf->kc", self.means(), weights)

    def deviations(self) -> np.ndarray:
        """(2, C, F): standard deviations in the same classes."""
        own = self.square if self.square.ndim == 2 else np.diagonal(self.square, axis1=1, axis2=2)
        return np.sqrt(np.maximum(self._classes(own) - self.means() ** 2, 0))

    def auroc(self) -> np.ndarray:
        """(C, F): of each feature for each category, as if it were normal in both classes."""
        (positive, negative), deviations = self.means(), self.deviations()
        return norm.cdf((positive - negative) / np.sqrt((deviations**2).sum(0) + 1e-18))

    def spread(self, c: int, columns: np.ndarray, side: np.ndarray) -> Spread:
        """Of category c in some columns (s,), each times its side, 1 or -1."""
        (positive, negative), n, all_images = self.means()[:, c, columns] * side, self.count, self.total[-1]
        square = self.square[-1][np.ix_(columns, columns)] * np.outer(side, side)
        share = n[c] / n[-1]
        inside = square / n[-1] - share * np.outer(positive, positive) - (1 - share) * np.outer(negative, negative)
        middle = all_images[columns] * side / n[-1]
        return Spread(positive - negative, inside, float((np.diag(square) / n[-1] - middle**2).mean()))
