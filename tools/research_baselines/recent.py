"""Baselines of recent years, built from their formulas, one category against the rest because categories co-occur."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdmad_lite.alignment import inter_anomaly_loss, iter_augmented
from sdmad_lite.clip.backbone import Backbone
from sdmad_lite.evaluation.baselines import (
    Predictor,
    Query,
    Support,
    Temperature,
    TextProbe,
    Trained,
    descend,
    prototypes,
)
from sdmad_lite.selection import margins

from .images import batches


@dataclass(frozen=True)
class GaussianDiscriminant:
    """Two normal distributions of one covariance for each category, added to the zero-shot margin.

    Source: "A Hard-to-Beat Baseline for Training-free CLIP-Based Adaptation" (ICLR 2024): w = S (m1 - m0) with the
    precision S = D pinv((n - 1) C + tr(C) I).
    """

    what: ClassVar[str] = "Gaussian discriminant beside the sign margin"
    alpha: float = 30.0  # weight of the discriminant beside 100 times the margin

    def __call__(self, support: Support) -> Predictor:
        x, target = (part.double() for part in support.examples)
        weights, biases = [], []
        for y in target.T.bool():
            high, low = x[y].mean(0), x[~y].mean(0)
            inside = x - torch.where(y[:, None], high, low)
            covariance = inside.T @ inside / (len(x) - 1)
            shrunk = (len(x) - 1) * covariance + covariance.trace() * torch.eye(x.shape[1])
            weights.append(x.shape[1] * torch.linalg.pinv(shrunk, hermitian=True) @ (high - low))
            biases.append(-weights[-1] @ (high + low) / 2)
        w, b = torch.stack(weights), torch.stack(biases)
        return lambda query: (100 * support.margins(query.u) + self.alpha * (query.u.double() @ w.T + b)).numpy()


@dataclass(frozen=True)
class KernelRidge:
    """Kernel ridge regression on what the signs leave over.

    Source: ProKeR (CVPR 2025): f(x) = s g(x) + k(x, S) (K + l I)^-1 (Y - s g(S)), g the margin of the signs.
    """

    what: ClassVar[str] = "kernel ridge on what the sign margin leaves over (as ProKeR)"
    scale: float = 1.0  # s
    ridge: float = 1.0  # l
    beta: float = 2.0  # k(a, b) = exp(-beta (1 - a b))

    def __call__(self, support: Support) -> Predictor:
        x, target = support.examples

        def kernel(u: Tensor) -> Tensor:
            return torch.exp(-self.beta * (1 - u @ x.T)).double()

        left = (2 * target - 1 - self.scale * support.margins(x)).double()
        dual = torch.linalg.solve(kernel(x) + self.ridge * torch.eye(len(x)), left - left.mean(0))
        return lambda query: (self.scale * support.margins(query.u) + kernel(query.u) @ dual).numpy()


@dataclass(frozen=True)
class BlendedProbe(Trained):
    """A linear probe on image features plus a learnt share of the signs' margin, for each category.

    Source: LP++ (arXiv 2404.02285): l = x (w + alpha t), w starts at the class means, alpha is learnt.
    """

    what: ClassVar[str] = "linear probe with a learnt share of the signs (as LP++)"
    start: float = 1.0  # of alpha

    def __call__(self, support: Support) -> Predictor:
        means = prototypes(support.u, support.labels, torch.eye(support.u.shape[1])).T  # (C, D)
        w, alpha = nn.Parameter(means.clone()), nn.Parameter(torch.full((len(means),), self.start))
        return self.train(support, lambda u: u @ w.T + alpha * support.margins(u), [w, alpha])


@dataclass(frozen=True)
class Concepts(Trained):
    """Signs chosen before training, by how well they tell categories apart and cover the rest; then a linear layer.

    Source: LaBo (arXiv 2211.11158): greedily the sum of negative entropies of P(category | sign) and the coverage of
    all signs of the category by the nearest chosen one; the layer starts at the membership of the chosen.
    """

    what: ClassVar[str] = "signs chosen before training, then a linear layer (as LaBo)"
    lr: float = 3e-2
    keep: float = 0.6  # share of each category's signs
    cover: float = 1.0  # weight of the coverage

    def __call__(self, support: Support) -> Predictor:
        v, member = support.v, torch.from_numpy(support.bank.membership()).float()
        # (C, S) how near the images of a category are to a sign
        means = F.normalize(support.target.T @ support.u, dim=1) @ v.T
        share = (20 * means).softmax(0)
        sharp = (share * share.log()).sum(0)  # 0 for a sign of one category, lower for one of all
        chosen = member[0].bool()  # normal signs stay
        for row in member[1:]:
            chosen |= self._greedy(row.nonzero()[:, 0].tolist(), sharp, v @ v.T, len(v))
        start = support.weights * chosen
        w = nn.Parameter(start.clone())
        return self.train(support, lambda u: (u @ v.T) @ (w * chosen).T, [w])

    def _greedy(self, signs: list[int], sharp: Tensor, near: Tensor, count: int) -> Tensor:
        picked: list[int] = []
        while len(picked) < max(1, round(self.keep * len(signs))):
            gains = {
                s: float(sharp[s]) + self.cover * float(near[signs][:, [*picked, s]].max(1).values.mean())
                for s in signs
                if s not in picked
            }
            picked.append(max(gains, key=lambda s: gains[s]))
        return torch.isin(torch.arange(count), torch.tensor(picked))


@dataclass(frozen=True)
class TwoStages:
    """First the norms of both towers are tuned, then, on what they give, a linear readout that starts at the signs.

    Source: 2SFS (arXiv 2503.11609): parameter-efficient tuning of both towers for 60 % of the steps, then the
    classifier alone. Which parameters (layer norms) and the loss (that of stage 1) are our choice.
    """

    what: ClassVar[str] = "both towers' norms tuned, then a linear readout (as 2SFS)"
    steps: int = 100  # of the first part
    lr: float = 1e-2
    batch: int = 32
    augmentations: int = 8

    def __call__(self, support: Support) -> Predictor:
        clip, color = support.backbone, support.bank.color
        model = copy.deepcopy(clip.model)
        tuned = Backbone(model, clip.tokenizer, clip.name, clip.pretrained, clip.shape)
        norms = [p for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()]
        temperature, tokens = Temperature(support.labels.shape[1]).to(clip.device), tuned.tokenize(support.bank.texts)
        weights, target = support.weights.to(clip.device), support.target.to(clip.device)
        pixels = clip.prepare(support.images, color)
        every = torch.cat(list(iter_augmented(clip, pixels, self.augmentations, support.seed)))
        draw = batches(len(every), self.batch, support.seed)

        def loss() -> Tensor:
            rows = next(draw)
            z = tuned.image_features(every[rows]) @ tuned.text_features(tokens).T
            return inter_anomaly_loss(temperature(margins(z, weights)), target[rows % len(target)])

        for parameter in norms:
            parameter.requires_grad_(True)
        descend([*norms, *temperature.parameters()], loss, self.steps, self.lr)
        for parameter in norms:
            parameter.requires_grad_(False)

        def embedded(images: Sequence) -> Tensor:
            return tuned.encode_images(images, color=color)

        with torch.no_grad():
            versions = torch.cat([tuned.image_features(part).cpu() for part in every.split(64)])
        versions = versions.unflatten(0, (self.augmentations, -1))
        second = Support(
            support.images,
            support.labels,
            versions[0],
            tuned.encode_texts(support.bank.texts),
            support.bank,
            tuned,
            support.seed,
            versions,
        )
        predict = TextProbe()(second)
        return lambda query: np.asarray(predict(Query(query.images, embedded(query.images))))
