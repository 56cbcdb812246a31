"""Sums over images from which stage 2 follows; those of several sites, or days, add up.

[ours] What a discriminant asks of a set of images are counts, means and products. Summed, they are the same numbers as
those of the pooled images, wherever these lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..selection import Spread


@dataclass(frozen=True)
class Moments:
    """Sums over the positives of each category and, in the last row, over all images; `+` joins those of two sites.

    count: (C + 1,) images. total: (C + 1, F), sums of features x. square: (1, F, F), sums of x x' over all images; or
    without products (C + 1, F), those of x x.
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
        return cls(groups.sum(1), groups @ rows, (rows.T @ rows)[None] if products else groups @ rows**2)

    @classmethod
    def none(cls, features: int, categories: int, products: bool = True) -> Moments:
        """Of no image."""
        return cls.of(np.zeros((0, features)), np.zeros((0, categories)), products)

    def __add__(self, other: Moments) -> Moments:
        return Moments(*map(np.add, vars(self).values(), vars(other).values()))

    def means(self, of: np.ndarray | None = None) -> np.ndarray:
        """(2, C, F): over each category's positives, and over its negatives; of x, or of other sums (C + 1, F)."""
        sums = self.total if of is None else of
        both, count = (np.stack([part[:-1], part[-1] - part[:-1]]) for part in (sums, self.count))
        return both / count[..., None]

    def spread(self, c: int, columns: np.ndarray, side: np.ndarray) -> Spread:
        """Of category c in some columns (s,), each times its side, 1 or -1."""
        (positive, negative), n, all_images = self.means()[:, c, columns] * side, self.count, self.total[-1]
        square = self.square[-1][np.ix_(columns, columns)] * np.outer(side, side)
        share = n[c] / n[-1]
        inside = square / n[-1] - share * np.outer(positive, positive) - (1 - share) * np.outer(negative, negative)
        middle = all_images[columns] * side / n[-1]
        return Spread(positive - negative, inside, float((np.diag(square) / n[-1] - middle**2).mean()))
