"""Stage 2 from sums over images, in the steps of `SDMAD.fit`; no image is seen here. [ours]"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from sdmad_lite.deployment.moments import Moments
from sdmad_lite.selection import EvidenceConfig, ImageEvidence, SelectionConfig, SignSelector
from sdmad_lite.selection.sign_selector import toward_half


def mean_margins(sums: Moments, weights: np.ndarray) -> np.ndarray:
    """(2, C): means of x W' over each category's positives and negatives, for its own row of W (C, F)."""
    return np.einsum("kcf,cf->kc", sums.means(), weights)


def deviations(sums: Moments) -> np.ndarray:
    """(2, C, F): standard deviations over the same images, from sums without products."""
    return np.sqrt(np.maximum(sums.means(sums.square) - sums.means() ** 2, 0))


def normal_auroc(sums: Moments) -> np.ndarray:
    """(C, F): of each feature for each category, as if it were normal in both classes."""
    (positive, negative), spread = sums.means(), deviations(sums)
    return norm.cdf((positive - negative) / np.sqrt((spread**2).sum(0) + 1e-18))


def fit_signs(config: SelectionConfig, plain: Moments, versions: Moments, membership: np.ndarray) -> SignSelector:
    """`SignSelector.fit` from sums over images, unchanged and in all versions; AUROCs are estimated."""
    auroc = np.where(membership[1:] > 0, toward_half(normal_auroc(plain), plain.count[:-1, None]), np.nan)
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
    return ImageEvidence(config).scaled(weights, bias, mean_margins(plain, weights) + bias, wanted)


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
        mean, deviation = logits.means()[:, c, c], deviations(logits)[:, c, c] + 1e-9
        steps = np.linspace(mean.min(), mean.max(), 201)
        hit, alarm = norm.sf((steps - mean[:, None]) / deviation[:, None])
        detected = positives * hit + (logits.count[-1] - positives) * alarm
        thresholds[c] = expit(steps[np.argmax(2 * positives * hit / (positives + detected))])
    positives = logits.count[:-1]
    return (positives * thresholds + prior * 0.5) / (positives + prior)
