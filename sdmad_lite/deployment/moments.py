"""Sums over images from which stage 2 follows: those of several sites add up, so that no image need leave its house.

[ours] What a discriminant asks of a set of images are counts, means and products. Summed, they are the same numbers as
those of the pooled images, wherever these lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from ..selection import EvidenceConfig, ImageEvidence, SelectionConfig, SignSelector, Spread
from ..selection.sign_selector import toward_half


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


def fit_signs(config: SelectionConfig, plain: Moments, versions: Moments, membership: np.ndarray) -> SignSelector:
    """`SignSelector.fit` from sums over images, unchanged and in all versions; AUROCs are estimated."""
    auroc = np.where(membership[1:] > 0, toward_half(plain.auroc(), plain.count[:-1, None]), np.nan)
    known = plain.count[:-1], plain.count[-1]
    return SignSelector(config).choose(auroc, *known, membership.astype(np.float64), versions.spread)


def fit_image_evidence(
    config: EvidenceConfig, plain: Moments, versions: Moments, wanted: np.ndarray, at: Callable
) -> ImageEvidence:
    """`ImageEvidence.fit` from sums over images, unchanged and in all versions.

    Args:
        wanted: class means (2, C) of the signs' logits.
        at: called with weights, centre, spread and balance by name it gives `logistic_sums` over all images; L-BFGS
            asks some dozen times.
    """
    (c, d), n, positives = plain.total[1:].shape, versions.count[-1], versions.count[:-1]
    centre = versions.total[-1] / n
    spread = np.sqrt(np.maximum(versions.square[-1] / n - centre**2, 0)) + 1e-6
    balance, penalty = n / 2 / np.stack([positives, n - positives]), np.full(d + 1, 1 / config.strength)
    penalty[-1] = 0  # none on the bias

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(c, d + 1)
        sums = at(weights=weights, centre=centre, spread=spread, balance=balance)
        gradient = sums[:, 1:] + penalty * weights
        return (sums[:, 0].sum() + (penalty * weights**2).sum() / 2) / n, gradient.ravel() / n

    best = np.zeros(c * (d + 1))
    if config.share:
        best = minimize(loss, best, jac=True, method="L-BFGS-B", options={"gtol": 1e-4}).x
    weights, bias = best.reshape(c, d + 1)[:, :-1] / spread, best.reshape(c, d + 1)[:, -1]
    bias = bias - weights @ centre
    return ImageEvidence(config).scaled(weights, bias, plain.margins(weights) + bias, wanted)


def logistic_sums(weights: np.ndarray, scaled: np.ndarray, labels: np.ndarray, balance: np.ndarray) -> np.ndarray:
    """(C, d + 2): the loss of that regression and its gradient, summed over images; those of several sites add up.

    Args:
        weights: (C, d + 1), the bias last. scaled: (N, d) standardised. labels: (N, C). balance: (2, C) what a
            positive and a negative of each category weigh.
    """
    wide = np.column_stack([scaled, np.ones(len(scaled))])
    logits, share = wide @ weights.T, np.where(labels == 1, *balance[:, None])
    loss = (share * np.logaddexp(0, np.where(labels == 1, -logits, logits))).sum(0)
    return np.column_stack([loss, (share * (expit(logits) - labels)).T @ wide])


def normal_f1_thresholds(logits: Moments, prior: float = 0.0) -> np.ndarray:
    """(C,) thresholds of best F1, from sums over logits (N, C) alone, as if they were normal in both classes.

    It is looked for between the means of the classes; `prior` as in `best_f1_thresholds`.
    """
    thresholds = np.empty(len(logits.count) - 1)
    for c, positives in enumerate(logits.count[:-1]):
        mean, deviation = logits.means()[:, c, c], logits.deviations()[:, c, c] + 1e-9
        steps = np.linspace(mean.min(), mean.max(), 201)
        hit, alarm = norm.sf((steps - mean[:, None]) / deviation[:, None])
        detected = positives * hit + (logits.count[-1] - positives) * alarm
        thresholds[c] = expit(steps[np.argmax(2 * positives * hit / (positives + detected))])
    positives = logits.count[:-1]
    return (positives * thresholds + prior * 0.5) / (positives + prior)
