"""Stage 2: which signs to trust, judged on the support set alone.

[paper] With few shots some signs stay under-fitted and some uncertain; the aligned ones are selected
automatically and the others left out of the score. [ours] How: ranking signs one by one after stage 1
costs accuracy, since they work as an ensemble whose errors cancel, so the weights of a category's signs and
of the normal signs are fitted *together*, by a discriminant that allows no sign to speak against its own
category; where it would, it is dropped. A pull towards equal weights fades as shots grow.

Everything here is a function of z (N, S), the cosines of images and signs, Y (N, C) and M (C+1, S).
Weights W (C, S) are signed: above 0 a sign speaks for the category, below 0 it is a normal sign and speaks
against it, 0 is a sign that is dropped or another category's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import nnls
from sklearn.metrics import precision_recall_curve, roc_auc_score

from ..errors import NotFittedError, SDMADError


@dataclass(frozen=True)
class SelectionConfig:
    """Settings of stage 2 [ours], chosen on validation draws (`tools/ablations.py`)."""

    rule: Literal["discriminant", "rank", "all"] = "discriminant"
    """discriminant: joint non-negative weights. rank: the best `keep` share by support AUROC. all: none dropped."""
    keep: float = 0.5
    """Share of each category's signs that `rank` keeps (at least one)."""
    shrink: float = 0.2
    """Share of the covariance of signs that is replaced by a sphere of the same size, in [0, 1]."""
    pull: float = 256.0
    """Strength of the pull towards equal weights; it is divided by the square of the number of positives."""
    least_positives: int = 2
    """With fewer positives or negatives than this all signs of a category stay, with equal weights."""
    drop_below: float = 0.25
    """A sign whose weight is under this share of the mean weight is dropped."""
    threshold_prior: float = 8.0
    """Positives' worth of pull of each decision threshold towards 0.5."""

    def __post_init__(self):
        if self.rule not in ("discriminant", "rank", "all"):
            raise SDMADError(f"rule is {self.rule!r}: use discriminant, rank or all")
        if not 0 < self.keep <= 1 or not 0 <= self.shrink <= 1:
            raise SDMADError(f"{self}: keep must be in (0, 1], shrink in [0, 1]")
        if self.pull < 0 or self.least_positives < 1:
            raise SDMADError(f"{self}: pull must be at least 0, least_positives at least 1")


TRAINING_FREE = SelectionConfig(pull=1.0, least_positives=1)
"""For a frozen model: it has not seen the support set, so what signs show there is worth more."""


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
    """W (C, S): all signs of a category weigh the same, sum 1; so do the normal signs, sum -1."""
    shares = membership / membership.sum(1, keepdims=True)
    return shares[1:] - shares[:1]


def margins(z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """g (N, C): weighted cosine of each category's signs minus that of the normal signs."""
    return z @ weights.T


def discriminant_weights(
    x: np.ndarray, y: np.ndarray, equal: np.ndarray, positives: int, shrink: float, pull: float
) -> np.ndarray:
    """Non-negative weights under which positives and negatives lie furthest apart, for their spread.

    Minimises `w A w / 2 - b w` over w >= 0, with A = S + p v I and b = d + p v e. S (s, s) is the covariance within
    the classes, shrunk to a sphere of variance v; d (s,) the difference of the class means; p = pull / positives^2;
    e the best multiple of `equal`. Without pull and bounds this is Fisher's linear discriminant.

    Args:
        x: (N, s) signs as columns, each expected to be higher on positives (so normal signs come negated).
        y: (N,) in {0, 1}, both there. equal: (s,) non-negative weights to pull to.
        positives: images that y counts, for several views of an image are no more evidence than one.
        shrink, pull: see `SelectionConfig`.

    Returns:
        w (s,), all 0 where no sign is higher on positives and nothing pulls.
    """
    groups = [x[y == value] for value in (1, 0)]
    difference = groups[0].mean(0) - groups[1].mean(0)
    inside = np.concatenate([group - group.mean(0) for group in groups])
    covariance = inside.T @ inside / len(inside)
    sphere = np.eye(len(covariance))
    floor = 1e-3 * x.var(0).mean() + 1e-12  # so that the equation can be solved from a single image too
    variance = np.trace(covariance) / len(covariance) + floor
    covariance = (1 - shrink) * covariance + (shrink * variance + floor) * sphere
    start = equal * max(difference @ equal / (equal @ covariance @ equal), 0)
    strength = pull / positives**2 * variance
    root = np.linalg.cholesky(covariance + strength * sphere)
    # |root' w - root^-1 b|^2 differs from what is minimised by a constant factor and a constant
    return nnls(root.T, np.linalg.solve(root, difference + strength * start))[0]


class SignSelector:
    """Fit weights W on the support set; scikit-learn's shape.

    After `fit`:
        weights_: W (C, S); a category's own signs sum to 1, dropped signs and those of others are 0.
        auroc_: (C, S) shrunk support AUROC, nan outside M.
        reasons_: C dicts from the number of an own or normal sign to the reason it was kept or dropped.
    """

    def __init__(self, config: SelectionConfig | None = None):
        self.config = config or SelectionConfig()

    def fit(self, z: np.ndarray, labels: np.ndarray, membership: np.ndarray) -> SignSelector:
        """Choose signs.

        Args:
            z: (views, N, S) or (N, S) cosines.
            labels: (N, C) in {0, 1}.
            membership: M (C+1, S).
        """
        z = np.asarray(z, dtype=np.float64)
        z = z[None] if z.ndim == 2 else z
        labels, membership = np.asarray(labels), np.asarray(membership, dtype=np.float64)
        self.weights_ = equal_weights(membership)
        self.auroc_ = support_auroc(z[0], labels, membership)
        self.reasons_: list[dict[int, str]] = []
        for c, equal in enumerate(self.weights_.copy()):
            own, normal = (np.flatnonzero(membership[row]) for row in (c + 1, 0))
            signs = np.concatenate([own, normal])
            w, note = self._choose(z[:, :, signs], labels[:, c], equal[signs], self.auroc_[c, own])
            for part in (slice(None, len(own)), slice(len(own), None)):
                size = np.abs(w[part])
                w[part] = np.where((size < self.config.drop_below * size.mean()) & (size < size.max()), 0, w[part])
            self.weights_[c, signs] = w / w[: len(own)].sum()
            self.reasons_.append(
                {int(s): self._reason(w_s, self.auroc_[c, s], note) for s, w_s in zip(signs, w, strict=True)}
            )
        return self

    def _choose(self, z: np.ndarray, y: np.ndarray, equal: np.ndarray, auroc: np.ndarray) -> tuple[np.ndarray, str]:
        """Signed weights of own and normal signs, z (views, N, s), before small ones are dropped."""
        count, positives = len(auroc), int(y.sum())
        if self.config.rule == "all":
            return equal, "all signs are kept"
        if self.config.rule == "rank":
            best = np.argsort(-auroc, kind="stable")[: max(1, round(self.config.keep * count))]
            weights = np.where(equal < 0, equal, 0)
            weights[best] = 1 / len(best)
            return weights, f"ranked by support AUROC, best {len(best)} of {count} kept"
        fewer = min(positives, len(y) - positives)
        if fewer < self.config.least_positives:
            side = "positive" if positives == fewer else "negative"
            return equal, f"all signs are kept: {fewer} {side}{'s' * (fewer != 1)} to judge by, too few"
        side, views = np.sign(equal), len(z)
        x, y = (z * side).reshape(-1, len(equal)), np.tile(y, views)
        weights = discriminant_weights(x, y, np.abs(equal), positives, self.config.shrink, self.config.pull)
        if not weights[:count].any():
            return equal, "all signs are kept: none is higher on the positives"
        return weights * side, "weighed together on the support set"

    def _reason(self, weight: float, auroc: float, note: str) -> str:
        if weight:
            return f"kept; {note}"
        if np.isnan(auroc):
            return f"dropped: as a normal sign it tells nothing from this category; {note}"
        if auroc < 0.55:
            return f"dropped: under-fitted, support AUROC {auroc:.2f} (shrunk); {note}"
        return f"dropped: adds nothing beside the others (support AUROC {auroc:.2f}, shrunk); {note}"

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
