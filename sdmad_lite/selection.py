"""Stage 2: which signs to trust, judged on the support set alone.

[paper] With few shots some signs stay under-fitted and some uncertain; the aligned ones are selected
automatically and the others left out of the score. [ours] How: ranking signs one by one after stage 1
costs accuracy, since they work as an ensemble whose errors cancel, so weights are fitted *together* on
the simplex, their freedom is set by cross-fitting, and without a cross-fitted gain all signs stay.

Everything here is a function of z (N, S), the cosines of images and signs, Y (N, C) and M (C+1, S).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, softmax
from sklearn.metrics import precision_recall_curve, roc_auc_score

from .errors import NotFittedError, SDMADError


@dataclass(frozen=True)
class SelectionConfig:
    """Settings of stage 2 [ours]."""

    rule: Literal["simplex", "rank", "all"] = "simplex"
    """simplex: cross-fitted joint weights. rank: the best `keep` share by support AUROC. all: none dropped."""
    keep: float = 0.5
    """Share of each category's signs that `rank` keeps (at least one)."""
    folds: int = 4
    """Cross-fitting folds over support images."""
    strengths: tuple[float, ...] = (10.0, 3.0, 1.0, 0.3, 0.1)
    """Pulls towards equal weights that cross-fitting chooses from, strongest first; each is divided by
    the number of positives, so that it weakens as shots grow."""
    least_gain: float = 1.0
    """Standard errors over folds by which the cross-fitted gain must exceed zero, or all signs stay."""
    drop_below: float = 0.25
    """A sign whose weight is under this share of an equal weight is dropped."""
    threshold_prior: float = 8.0
    """Positives' worth of pull of each decision threshold towards 0.5."""

    def __post_init__(self):
        if self.rule not in ("simplex", "rank", "all"):
            raise SDMADError(f"rule is {self.rule!r}: use simplex, rank or all")
        if not 0 < self.keep <= 1 or self.folds < 2:
            raise SDMADError(f"{self}: keep must be in (0, 1], folds at least 2")


def support_auroc(z: np.ndarray, labels: np.ndarray, membership: np.ndarray, prior: float = 2.0) -> np.ndarray:
    """How well each sign separates its category on the support set, shrunk towards chance.

    [ours] AUROC is moved towards 0.5 as if `prior` further positives had shown nothing, because with
    one shot it is nearly noise.

    Args:
        z: (N, S) cosines. labels: (N, C). membership: (C+1, S).

    Returns:
        (C, S) in [0, 1]; nan where the sign is not the category's, 0.5 without positives or negatives.
    """
    out = np.full((labels.shape[1], z.shape[1]), np.nan)
    for c, s in zip(*np.nonzero(membership[1:]), strict=True):
        positives = int(labels[:, c].sum())
        out[c, s] = 0.5
        if 0 < positives < len(labels):
            raw = roc_auc_score(labels[:, c], z[:, s])
            out[c, s] = 0.5 + (raw - 0.5) * positives / (positives + prior)
    return out


def equal_weights(membership: np.ndarray) -> np.ndarray:
    """(C+1, S): all signs of a category weigh the same; rows sum to 1."""
    return membership / membership.sum(1, keepdims=True)


def margins(z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """g (N, C): weighted cosine of each category's signs minus that of the normal signs."""
    return z @ (weights[1:] - weights[:1]).T


def fit_simplex(z: np.ndarray, normal: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Weights on the simplex for one category, by balanced logistic regression.

    Minimises the balanced log loss of `a (z w - normal) + b` plus `strength / positives` times
    KL(w || equal weights), over w, a > 0 and b (and 0.01 log(a)^2, which keeps a finite).

    Args:
        z: (N, s) cosines of the category's own signs. normal: (N,) score of the normal signs.
        y: (N,) in {0, 1}. strength: pull towards equal weights.

    Returns:
        w (s,), non-negative, sum 1.
    """
    count, positives = z.shape[1], y.sum()
    if count == 1:
        return np.ones(1)
    balance = np.where(y == 1, 0.5 / positives, 0.5 / (len(y) - positives))
    sign = 2.0 * y - 1
    spread = np.std(z.mean(1) - normal) + 1e-6
    pull = strength / positives

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        w, a, b = softmax(theta[:count]), np.exp(theta[-2]) / spread, theta[-1]
        margin = z @ w - normal
        logit = a * margin + b
        log_w = np.log(w + 1e-12)
        kl = float(w @ log_w) + np.log(count)
        value = -(balance * log_expit(sign * logit)).sum() + pull * kl + 0.01 * theta[-2] ** 2
        d_logit = -balance * sign * expit(-sign * logit)
        d_w = a * (z.T @ d_logit) + pull * log_w
        d_theta = w * (d_w - w @ d_w)
        return value, np.concatenate([d_theta, [a * (d_logit @ margin) + 0.02 * theta[-2], d_logit.sum()]])

    start = np.zeros(count + 2)
    start[-1] = -np.mean(z.mean(1) - normal) / spread
    return softmax(minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x[:count])


def _folds(y: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold number of each image, positives and negatives dealt out evenly."""
    fold = np.zeros(len(y), dtype=int)
    for value in (0, 1):
        rows = rng.permutation(np.flatnonzero(y == value))
        fold[rows] = np.arange(len(rows)) % folds
    return fold


class SignSelector:
    """Fit weights W on the support set; scikit-learn's shape.

    After `fit`:
        weights_: W (C+1, S); rows sum to 1, zero for a dropped sign and outside M.
        auroc_: (C, S) shrunk support AUROC, nan outside M.
        reasons_: C dicts from sign number to the reason it was kept or dropped.
        gains_: (C,) cross-fitted gain in AUROC over all signs (nan where it could not be judged).
    """

    def __init__(self, config: SelectionConfig | None = None, seed: int = 0):
        self.config = config or SelectionConfig()
        self.seed = seed

    def fit(self, z: np.ndarray, labels: np.ndarray, membership: np.ndarray) -> SignSelector:
        """Choose signs.

        Args:
            z: (views, N, S) or (N, S) cosines; the views of an image stay in one fold.
            labels: (N, C) in {0, 1}.
            membership: M (C+1, S).
        """
        z = np.asarray(z, dtype=np.float64)
        z = z[None] if z.ndim == 2 else z
        labels, membership = np.asarray(labels), np.asarray(membership, dtype=np.float64)
        self.weights_ = equal_weights(membership)
        self.auroc_ = support_auroc(z[0], labels, membership)
        self.gains_ = np.full(labels.shape[1], np.nan)
        self.reasons_: list[dict[int, str]] = []
        normal = z @ self.weights_[0]
        rng = np.random.default_rng(self.seed)
        for c in range(labels.shape[1]):
            own = np.flatnonzero(membership[c + 1])
            weights, note = self._choose(z[:, :, own], normal, labels[:, c], self.auroc_[c, own], rng, c)
            small = weights < self.config.drop_below / len(own)
            small[np.argmax(weights)] = False  # every category keeps one sign
            final = np.where(small, 0.0, weights)
            self.weights_[c + 1, own] = final / final.sum()
            self.reasons_.append(self._reasons(own, small, note, c))
        return self

    def _choose(self, z, normal, y, auroc, rng, c) -> tuple[np.ndarray, str]:
        count = z.shape[2]
        equal = np.full(count, 1 / count)
        if self.config.rule == "all" or count == 1:
            return equal, "all signs are kept" if count > 1 else "the only sign"
        if self.config.rule == "rank":
            best = np.argsort(-auroc, kind="stable")[: max(1, round(self.config.keep * count))]
            weights = np.zeros(count)
            weights[best] = 1 / len(best)
            return weights, f"ranked by support AUROC, best {len(best)} of {count} kept"
        fewer = int(min(y.sum(), len(y) - y.sum()))
        if fewer < 2:
            side = "positive" if y.sum() == fewer else "negative"
            return equal, f"all signs are kept: {fewer} {side}{'s' * (fewer != 1)} to judge by, too few"
        return self._cross_fit(z, normal, y, equal, rng, c)

    def _cross_fit(self, z, normal, y, equal, rng, c) -> tuple[np.ndarray, str]:
        views = len(z)
        fold = _folds(y, min(self.config.folds, int(y.sum()), int(len(y) - y.sum())), rng)
        names = [None, *self.config.strengths]
        rank = {name: [] for name in names}  # held-out AUROC of each fold
        for f in np.unique(fold):
            train, test = fold != f, fold == f
            flat = z[:, train].reshape(-1, z.shape[2])
            for name in names:
                w = equal
                if name is not None:
                    w = fit_simplex(flat, normal[:, train].ravel(), np.tile(y[train], views), name * views)
                rank[name].append(roc_auc_score(y[test], z[0, test] @ w - normal[0, test]))
        best = max(self.config.strengths, key=lambda name: np.mean(rank[name]))  # strongest pull wins a tie
        gain = np.subtract(rank[best], rank[None])
        self.gains_[c] = gain.mean()
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        if self.gains_[c] <= self.config.least_gain * error:
            return equal, f"all signs are kept: no clear cross-fitted gain ({self.gains_[c]:+.3f} AUROC)"
        flat = z.reshape(-1, z.shape[2])
        weights = fit_simplex(flat, normal.ravel(), np.tile(y, views), best * views)
        return weights, f"weights fitted, cross-fitted gain {self.gains_[c]:+.3f} AUROC"

    def _reasons(self, own: np.ndarray, small: np.ndarray, note: str, c: int) -> dict[int, str]:
        reasons = {}
        for s, dropped in zip(own, small, strict=True):
            auroc = self.auroc_[c, s]
            if not dropped:
                reasons[int(s)] = f"kept; {note}"
            elif auroc < 0.55:
                reasons[int(s)] = f"dropped: under-fitted, support AUROC {auroc:.2f} (shrunk); {note}"
            else:
                reasons[int(s)] = f"dropped: adds nothing beside the others (support AUROC {auroc:.2f}, shrunk); {note}"
        return reasons

    def transform(self, z: np.ndarray) -> np.ndarray:
        """Cosines (N, S) to margins g (N, C) with the selected weights."""
        if not hasattr(self, "weights_"):
            raise NotFittedError("SignSelector: call fit(z, labels, membership) first")
        return margins(z, self.weights_)


def best_f1_thresholds(scores: np.ndarray, labels: np.ndarray, prior: float = 0.0) -> np.ndarray:
    """(C,) the threshold of best F1 for each category, midway to the next lower score, or to 0.

    [ours] It is shrunk towards 0.5 as if `prior` positives had asked for that, because the support
    images also trained the scores: on them they look better separated than on new ones.

    Args:
        scores: (N, C) probabilities, of the support set only. labels: (N, C), a positive per category.
        prior: weight of 0.5, in positives.
    """
    thresholds = np.full(scores.shape[1], 0.5)
    for c in range(scores.shape[1]):
        precision, recall, cut = precision_recall_curve(labels[:, c], scores[:, c])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = int(np.argmax(f1[:-1]))
        thresholds[c] = (cut[best] + scores[:, c].max(initial=0, where=scores[:, c] < cut[best])) / 2
    positives = labels.sum(0)
    return (positives * thresholds + prior * 0.5) / (positives + prior)
