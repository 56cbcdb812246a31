"""Baselines on the frozen embeddings alone: images u (N, D), signs v (S, D), labels Y (N, C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...alignment.losses import category_margins, inter_anomaly_loss, uniform_weights
from ...selection.image_evidence import logistic
from .base import Calibration, Predictor, Support, descend, seeded


def zero_shot(u_test: Tensor, v: Tensor, membership: Tensor) -> np.ndarray:
    """(T, C) mean cosine of all signs of a category minus that of the normal signs, nothing trained.

    Source: CLIP's prompt ensembling (Radford et al. 2021, arXiv 2103.00020), with signs for prompts.

    Args:
        u_test: (T, D). v: (S, D). membership: M (C+1, S), row 0 normal.
    """
    return category_margins(u_test, v, uniform_weights(membership)).numpy()


def prototype_margins(u: Tensor, labels: np.ndarray, u_test: Tensor) -> Tensor:
    """(T, C) cosine with the mean positive of a category minus that with the mean of its negatives, in [-2, 2].

    Source: Snell et al. 2017 (arXiv 1703.05175), one-against-rest because categories co-occur.

    Args:
        u: (N, D) and u_test: (T, D), unit length. labels: (N, C); each category has both values.
    """
    out = []
    for y in labels.T:
        positive, negative = (F.normalize(u[torch.from_numpy(y == value)].mean(0), dim=0) for value in (1, 0))
        out.append(u_test @ (positive - negative))
    return torch.stack(out, 1)


def prototypes(u: Tensor, labels: np.ndarray, u_test: Tensor) -> np.ndarray:
    """`prototype_margins` as an array."""
    return prototype_margins(u, labels, u_test).numpy()


@dataclass(frozen=True)
class ZeroShotNames:
    """Cosine with the name of the category minus that with the word for normal.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.
    """

    what: ClassVar[str] = "frozen model, category names"
    template: str = "{}"
    """Prompt, with {} for the name, e.g. "a chest radiograph with {}"."""
    normal: str = "normal"
    """What stands in the prompt for a normal image."""

    def __call__(self, support: Support) -> Predictor:
        names = (self.normal, *support.bank.categories)
        v = support.backbone.encode_texts([self.template.format(name) for name in names])  # (C+1, D)
        return lambda query: (query.u @ (v[1:] - v[:1]).T).numpy()


@dataclass(frozen=True)
class ZeroShotSigns:
    """`zero_shot`: all signs of the bank."""

    what: ClassVar[str] = "frozen model, all signs"

    def __call__(self, support: Support) -> Predictor:
        membership = torch.from_numpy(support.bank.membership())
        return lambda query: zero_shot(query.u, support.v, membership)


@dataclass(frozen=True)
class Prototypes:
    """`prototypes`: the nearest mean of the support features."""

    what: ClassVar[str] = "mean support features"

    def __call__(self, support: Support) -> Predictor:
        return lambda query: prototypes(support.u, support.labels, query.u)


@dataclass(frozen=True)
class LinearProbe:
    """`logistic` on the features.

    Source: the linear probe of Radford et al. 2021 (arXiv 2103.00020).
    """

    what: ClassVar[str] = "logistic regression on image features"
    strength: float = 1.0
    """Inverse penalty. [ours] On validation draws, choosing it by cross-validation for each category was worse."""

    def __call__(self, support: Support) -> Predictor:
        features, target = support.many
        weights, bias = logistic(features.double().numpy(), target.numpy(), self.strength)
        return lambda query: query.u.double().numpy() @ weights.T + bias


@dataclass(frozen=True)
class TextProbe:
    """A linear probe that starts as the margin of each category's signs and is held there by a penalty.

    Source: the zero-shot initialisation of Silva-Rodríguez et al. 2024 (arXiv 2312.12730); the quadratic
    penalty, which weakens as shots grow, is our choice.
    """

    what: ClassVar[str] = "linear probe that starts at the sign texts"
    steps: int = 200
    lr: float = 3e-2
    pull: float = 0.01
    """Weight of the relative squared distance to the start, divided by the mean number of positives."""

    def __call__(self, support: Support) -> Predictor:
        start = support.weights @ support.v  # (C, D)
        pull = self.pull / support.labels.sum(0).mean() / start.square().sum().clamp(min=1e-12)
        w, calibration = nn.Parameter(start.clone()), Calibration(len(start))

        u, target = support.many

        def loss() -> Tensor:
            return inter_anomaly_loss(calibration(u @ w.T), target) + pull * (w - start).square().sum()

        descend([w, *calibration.parameters()], loss, self.steps, self.lr)
        return lambda query: calibration(query.u @ w.T).detach().numpy()


@dataclass(frozen=True)
class TipAdapter:
    """Tip-Adapter-F: a cache of support features whose keys are trained, added to the zero-shot margin.

    Source: Zhang et al. 2021 (arXiv 2111.03930): affinity exp(-beta (1 - u keys^T)), times alpha. Its
    one-hot values become balanced multi-label ones (+1 over the positives, -1 over the negatives) [ours].
    """

    what: ClassVar[str] = "cache of support features with trained keys"
    alpha: float = 10.0
    """Weight of the cache beside the margin."""
    beta: float = 5.5
    """Sharpness of the affinity."""
    steps: int = 100
    lr: float = 1e-3

    def __call__(self, support: Support) -> Predictor:
        (features, target), weights = support.many, support.weights
        values = target / target.sum(0) - (1 - target) / (1 - target).sum(0)  # (N, C)
        keys, calibration = nn.Parameter(features.clone()), Calibration(target.shape[1])

        def logits(u: Tensor) -> Tensor:
            affinity = torch.exp(-self.beta * (1 - u @ keys.T))  # (T, N)
            return calibration(category_margins(u, support.v, weights) + self.alpha * affinity @ values)

        descend(
            [keys, *calibration.parameters()],
            lambda: inter_anomaly_loss(logits(features), target),
            self.steps,
            self.lr,
        )
        return lambda query: logits(query.u).detach().numpy()


@dataclass(frozen=True)
class ClipAdapter:
    """A residual bottleneck on the image feature, scored against the fixed sign texts.

    Source: CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544); the multi-label loss is that of stage 1.
    """

    what: ClassVar[str] = "residual adapter on image features"
    ratio: float = 0.6
    """The adapter's share of the feature; 0.2 in the paper, 0.6 was better on validation draws."""
    reduction: int = 4
    steps: int = 150
    lr: float = 1e-2
    decay: float = 1e-2

    def __call__(self, support: Support) -> Predictor:
        (features, target), weights, width = support.many, support.weights, support.u.shape[1]
        narrow = max(1, width // self.reduction)
        with seeded(support.seed):
            layers = nn.Sequential(nn.Linear(width, narrow), nn.ReLU(), nn.Linear(narrow, width), nn.ReLU())
        calibration = Calibration(target.shape[1])

        def logits(u: Tensor) -> Tensor:
            mixed = F.normalize(self.ratio * layers(u) + (1 - self.ratio) * u, dim=-1)
            return calibration(category_margins(mixed, support.v, weights))

        descend(
            [*layers.parameters(), *calibration.parameters()],
            lambda: inter_anomaly_loss(logits(features), target),
            self.steps,
            self.lr,
            self.decay,
        )
        return lambda query: logits(query.u).detach().numpy()
