"""Stage 2: which signs to trust, judged on the support set alone.

[paper] With few shots some signs stay under-fitted and some uncertain; the aligned ones are selected automatically and
the others left out of the score. [ours] How: ranking signs one by one costs accuracy, since they work as an ensemble
whose errors cancel. So the weights of a category's signs and of the normal signs are fitted *together*, by a
discriminant that drops a sign which would speak against its own category. The pull to equal weights fades with shots.

Everything here is a function of cosines z (N, S) of images and signs, labels Y (N, C) in {0, 1} and membership
M (C + 1, S). Weights W (C, S) are signed: above 0 a sign speaks for the category, below 0 it is a normal sign and
speaks against it, 0 is a sign that is dropped or another category's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import numpy as np
from pydantic import Field
from scipy.optimize import nnls
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from ..settings import AtLeastOne, NotNegative, Settings, Share

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class SelectionConfig(Settings):
    """Settings of stage 2 [ours], chosen on validation draws (`tools/ablations.py`)."""

    rule: Literal["discriminant", "rank", "all"] = "discriminant"
    """discriminant: joint non-negative weights. rank: the best `keep` share by support AUROC. all: none dropped."""
    keep: Annotated[Share, Field(gt=0)] = 0.5  # share of each category's signs that `rank` keeps (at least one)
    shrink: Share = 0.2  # share of the covariance of signs that becomes a sphere of the same size
    pull: NotNegative = 256.0  # strength of the pull towards equal weights, divided by the square of the positives
    least_positives: AtLeastOne = 2  # with fewer positives or negatives all signs stay, with equal weights
    drop_below: NotNegative = 0.25  # a sign whose weight is under this share of the mean weight is dropped
    threshold_prior: NotNegative = 8.0  # positives' worth of pull of each decision threshold towards 0.5


TRAINING_FREE = SelectionConfig(pull=1.0, least_positives=1)
"""For a frozen model: it has not seen the support set, so what signs show there is worth more."""


def support_auroc(cosines: np.ndarray, labels: np.ndarray, membership: np.ndarray, prior: float = 2.0) -> np.ndarray:
    """(C, S) how well each sign separates its category: an AUROC, nan where the sign is not the category's.

    [ours] It is moved towards 0.5 as if `prior` further positives had shown nothing, for with one shot it is nearly
    noise. Without positives or negatives it is 0.5.
    """
    out = np.full((labels.shape[1], cosines.shape[1]), np.nan)
    for c, s in zip(*np.nonzero(membership[1:]), strict=True):
        positives = int(labels[:, c].sum())
        out[c, s] = 0.5
        if 0 < positives < len(labels):
            out[c, s] = toward_half(roc_auc_score(labels[:, c], cosines[:, s]), positives, prior)
    return out


def toward_half(auroc, positives, prior: float = 2.0):
    """An AUROC moved towards 0.5 as if `prior` further positives had shown nothing."""
    return 0.5 + (auroc - 0.5) * positives / (positives + prior)


def equal_weights(membership: Array) -> Array:
    """W (C, S) from M (C+1, S): the signs of a category weigh the same, sum 1; so do the normal signs, sum -1."""
    shares = membership / membership.sum(1)[:, None]
    return shares[1:] - shares[:1]


def sign_scores(views: torch.Tensor, v: torch.Tensor, local: float, patches: int) -> torch.Tensor:
    """z (N, S) in [-1, 1]: how much of each sign an image shows, as a whole and where it looks most like the sign.

    [ours] A sign names a place, and one embedding of the whole image loses small findings:
    z = (1 - local) z_global + local z_local, where z_local is the mean over the patches most like the sign.

    Args:
        views: (N, 1 + P, D) unit embeddings, see `Backbone.views`; without patches z is z_global. v: (S, D).
        local: in [0, 1]. patches: how many of P count.
    """
    if not local or views.shape[1] == 1:
        return views[:, 0] @ v.T
    cosines = views @ v.T
    best = cosines[:, 1:].topk(min(patches, views.shape[1] - 1), dim=1, sorted=False).values
    return cosines[:, 0].lerp(best.mean(1), local)


def margins(cosines: Array, weights: Array) -> Array:
    """g (N, C) in [-2, 2]: weighted cosine of each category's signs minus that of the normal signs, from z and W.

    [ours] In a pilot study stage 1 lost 0.10 to 0.18 AUROC without the normal signs. On a frozen model the
    difference can help or hurt, depending on the category; notebook 02 measures it.
    """
    return cosines @ weights.T


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


def discriminant_weights(found: Spread, equal: np.ndarray, positives: int, shrink: float, pull: float) -> np.ndarray:
    """w (s,), 0 or more, under which positives and negatives lie furthest apart, for their spread.

    Minimises `w A w / 2 - b w` over w >= 0, with A = S + p v I and b = d + p v e. S (s, s) is the covariance within
    the classes, shrunk to a sphere of variance v; d (s,) the difference of the class means; p = pull / positives^2;
    e the best multiple of `equal`. Without pull and bounds this is Fisher's linear discriminant. All weights are 0
    where no sign is higher on positives and nothing pulls.

    Args:
        found: the classes in s signs, each expected to be higher on positives (so normal signs come negated).
        equal: (s,) non-negative weights to pull to.
        positives: images that show the category, for several augmentations of an image are no more evidence than one.
    """
    difference, covariance = found.difference, found.covariance
    sphere = np.eye(len(covariance))
    floor = 1e-3 * found.variance + 1e-12  # so that the equation can be solved from a single image too
    variance = np.trace(covariance) / len(covariance) + floor
    covariance = (1 - shrink) * covariance + (shrink * variance + floor) * sphere
    start = equal * max(difference @ equal / (equal @ covariance @ equal), 0)
    strength = pull / positives**2 * variance
    root = np.linalg.cholesky(covariance + strength * sphere)
    # |root' w - root^-1 b|^2 differs from what is minimised by a constant factor and a constant
    return nnls(root.T, np.linalg.solve(root, difference + strength * start))[0]


class SignSelector:
    """Fit weights W on the support set; scikit-learn's shape.

    After `fit`: weights_ W (C, S), where a category's own signs sum to 1; auroc_ (C, S), see `support_auroc`; reasons_,
    for each category the number of an own or normal sign -> why it was kept or dropped.
    """

    def __init__(self, config: SelectionConfig | None = None):
        self.config = config or SelectionConfig()

    def fit(self, cosines: np.ndarray, labels: np.ndarray, membership: np.ndarray) -> SignSelector:
        """Choose signs; cosines are z (N, S), or (A, N, S) in A augmentations of the images, the first unchanged."""
        cosines = np.array(cosines, dtype=np.float64, ndmin=3)
        labels, membership = np.asarray(labels), np.asarray(membership, dtype=np.float64)

        def spread(c: int, signs: np.ndarray, side: np.ndarray) -> Spread:
            return Spread.of((cosines[:, :, signs] * side).reshape(-1, len(side)), np.tile(labels[:, c], len(cosines)))

        auroc = support_auroc(cosines[0], labels, membership)
        return self.choose(auroc, labels.sum(0), len(labels), membership, spread)

    def choose(
        self, auroc: np.ndarray, positives: np.ndarray, images: int, membership: np.ndarray, spread: Callable
    ) -> SignSelector:
        """`fit` from what is known of the support set: weigh the signs of each category, drop light ones, say why.

        Args:
            auroc: (C, S). positives: (C,) images of each category, of so many `images`.
            spread: from a category's number, (s,) numbers of signs and (s,) their sides, 1 or -1, to their Spread.
        """
        self.auroc_ = auroc
        self.weights_, self.reasons_ = np.zeros((len(membership) - 1, membership.shape[1])), []
        for c, equal in enumerate(equal_weights(membership)):
            own, normal = (np.flatnonzero(membership[row]) for row in (c + 1, 0))
            signs = np.concatenate([own, normal])
            # normal signs come negated: every column is expected to be higher on positives
            found = partial(spread, c, signs, np.sign(equal[signs]))
            w, note = self._weigh(found, equal[signs], int(positives[c]), images, auroc[c, own])
            # a sign that weighs next to nothing beside its like is dropped; the heaviest one always stays
            for part in (slice(None, len(own)), slice(len(own), None)):
                size = np.abs(w[part])
                w[part] = np.where((size < self.config.drop_below * size.mean()) & (size < size.max()), 0, w[part])
            self.weights_[c, signs] = w / w[: len(own)].sum()
            why = [_reason(weight, auroc[c, s], note) for s, weight in zip(signs, w, strict=True)]
            self.reasons_.append(dict(zip(signs.tolist(), why, strict=True)))
        return self

    def _weigh(self, spread: Callable[[], Spread], equal: np.ndarray, positives: int, images: int, auroc: np.ndarray):
        """Signed weights (s,) of own and normal signs, before small ones are dropped; why."""
        config, count = self.config, len(auroc)
        if config.rule == "all":
            return equal, "all signs are kept"
        if config.rule == "rank":
            best = np.argsort(-auroc, kind="stable")[: max(1, round(config.keep * count))]
            weights = np.where(equal < 0, equal, 0)
            weights[best] = 1 / len(best)
            return weights, f"ranked by support AUROC, best {len(best)} of {count} kept"
        fewer = min(positives, images - positives)
        if fewer < config.least_positives:
            what = "positive" if positives == fewer else "negative"
            return equal, f"all signs are kept: {fewer} {what}{'s' * (fewer != 1)} to judge by, too few"
        weights = discriminant_weights(spread(), np.abs(equal), positives, config.shrink, config.pull)
        if not weights[:count].any():
            return equal, "all signs are kept: none is higher on the positives"
        return weights * np.sign(equal), "weighed together on the support set"

    def transform(self, cosines: np.ndarray) -> np.ndarray:
        """Cosines z (N, S) to margins g (N, C) with the selected weights."""
        if not hasattr(self, "weights_"):
            raise NotFittedError("SignSelector: call fit(cosines, labels, membership) first")
        return margins(cosines, self.weights_)


def _reason(weight: float, auroc: float, note: str) -> str:
    if weight:
        return f"kept; {note}"
    if np.isnan(auroc):
        return f"dropped: as a normal sign it tells nothing from this category; {note}"
    if auroc < 0.55:
        return f"dropped: under-fitted, support AUROC {auroc:.2f} (shrunk); {note}"
    return f"dropped: adds nothing beside the others (support AUROC {auroc:.2f}, shrunk); {note}"
