"""Meta-learning: learn on episodes of the pretraining categories how to learn from few images, then do so.

The episodes are made of phantoms of the support set's modality, of categories that the embedded CLIP saw too.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdmad_lite.alignment import inter_anomaly_loss
from sdmad_lite.clip.backbone import Backbone
from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.baselines import Predictor, Query, Support, Temperature, descend, prototypes, seeded
from sdmad_lite.signs.bank import SignBank
from sdmad_phantoms import MODALITIES, modality_named, sample_phantoms

SEED = 314_159
"""Of the phantoms to meta-learn on; no support or test set of this project is drawn with it."""


@dataclass(frozen=True, eq=False)
class MetaTable:
    """What is meta-learnt on: u (M, D) unit-length embeddings and labels (M, C') of other categories."""

    u: Tensor
    labels: np.ndarray

    def standardised(self, u: Tensor) -> Tensor:
        """Features (N, D) in units of this table: mean 0 and deviation 1 in each dimension."""
        return (u - self.u.mean(0)) / (self.u.std(0) + 1e-6)


@lru_cache(maxsize=8)
def phantom_table(backbone: Backbone, modality: str, count: int = 1500, seed: int = SEED, size: int = 128) -> MetaTable:
    """`count` phantoms of the pretraining categories of one modality, drawn and embedded once.

    Args:
        backbone: without adapters installed.
        modality: chest, brain or fundus.
        count, seed, size: number of phantoms, of the draw, pixels per side.

    Raises:
        DataError: an unknown modality.
    """
    kind = modality_named(modality)
    drawn = list(sample_phantoms(count, seed, kind.seen, images_per_patient=1, size=size, modality=modality))
    labels = np.array([[int(c in phantom.categories) for c in kind.seen] for phantom in drawn])
    return MetaTable(backbone.encode_images([phantom.image for phantom in drawn], color=kind.bank.color), labels)


def modality_of(bank: SignBank) -> str:
    """Name of the phantom modality of a bank: the one whose description is part of the bank's.

    Raises:
        DataError: there are no phantoms of it.
    """
    for name, kind in MODALITIES.items():
        if kind.bank.modality in bank.modality:
            return name
    raise DataError(
        f"bank {bank.name!r}: there are no phantoms of modality {bank.modality!r} to meta-learn on; "
        "give the method a table of other categories"
    )


def episode(
    labels: np.ndarray, shots: int, ways: int, queries: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a small task as support sets are drawn: `ways` categories, positives of each, and normal images.

    Args:
        labels: (M, C').
        shots, queries: images of each category, and normal ones, to learn from and to be judged on.
        ways: categories, or as many as have enough images.

    Returns:
        rows of the support set, rows of the query set (disjoint), and the columns of the categories.

    Raises:
        DataError: fewer than shots + 1 normal images, or no category with as many.
    """
    enough = np.flatnonzero(labels.sum(0) > shots)
    normal = np.flatnonzero(labels.sum(1) == 0)
    if not len(enough) or len(normal) <= shots:
        raise DataError(f"the table to meta-learn on has too few images for episodes of {shots} shots; draw more")
    columns = rng.permutation(enough)[:ways]
    groups = [rng.permutation(rows) for rows in (*(np.flatnonzero(labels[:, c]) for c in columns), normal)]
    support = np.unique(np.concatenate([rows[:shots] for rows in groups]))
    query = np.setdiff1d(np.concatenate([rows[shots : shots + queries] for rows in groups]), support)
    return support, query, columns


class _Meta:
    """What both methods share: a table, given or drawn, and episodes with the shots of the support set."""

    table: MetaTable | None
    ways: int
    queries: int

    def _table(self, support: Support) -> MetaTable:
        return self.table or phantom_table(support.backbone, modality_of(support.bank))

    def _episode(self, support: Support, labels: np.ndarray, rng: np.random.Generator):
        return episode(labels, int(support.labels.sum(0).min()), self.ways, self.queries, rng)


@dataclass(frozen=True)
class PrototypicalEpisodes(_Meta):
    """A residual layer on the features is trained so that prototypes of few images tell new ones.

    Source: prototypical networks, Snell et al. 2017 (arXiv 1703.05175): episodes with the shots of the task
    to come; one-against-rest, on frozen features, standardised by the table [ours]. On the support set only
    means are taken.
    """

    what: ClassVar[str] = "prototypes in a space learnt on other categories"
    table: MetaTable | None = None
    """To meta-learn on; phantoms of the bank's modality when left out."""
    episodes: int = 200
    ways: int = 3
    queries: int = 8
    hidden: int = 64
    lr: float = 3e-3

    def __call__(self, support: Support) -> Predictor:
        table, rng = self._table(support), np.random.default_rng(support.seed)
        labels, width = torch.from_numpy(table.labels).float(), table.u.shape[1]
        with seeded(support.seed):
            layers = nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, width))
        nn.init.zeros_(layers[2].weight)  # the first prototypes are those of the standardised features
        nn.init.zeros_(layers[2].bias)
        temperature = Temperature(1)

        def head(u: Tensor) -> Tensor:
            x = table.standardised(u)
            return F.normalize(x + layers(x), dim=-1)

        def loss() -> Tensor:
            a, b, columns = self._episode(support, table.labels, rng)
            margin = prototypes(head(table.u[a]), table.labels[a][:, columns], head(table.u[b]))
            return inter_anomaly_loss(temperature(margin), labels[b][:, columns])

        descend([*layers.parameters(), *temperature.parameters()], loss, self.episodes, self.lr)

        @torch.no_grad()
        def predict(query: Query) -> np.ndarray:
            return prototypes(head(support.u), support.labels, head(query.u)).numpy()

        return predict


@dataclass(frozen=True)
class FirstOrderMAML(_Meta):
    """A small network's start is trained so that a few gradient steps on few images make it tell new ones.

    Source: Finn et al. 2017 (arXiv 1703.03400), first-order as in Nichol et al. 2018 (arXiv 1803.02999): the
    query gradient is taken where the inner steps end. Every category is a task of its own against the rest
    of its episode, on frozen features, standardised by the table [ours].
    """

    what: ClassVar[str] = "network whose start was learnt on other categories"
    table: MetaTable | None = None
    """To meta-learn on; phantoms of the bank's modality when left out."""
    episodes: int = 200
    ways: int = 3
    queries: int = 8
    hidden: int = 32
    lr: float = 1e-2
    """Of the start (Adam)."""
    inner_lr: float = 0.3
    """Of the steps within a task (plain gradient descent)."""
    inner_steps: int = 5
    adapt_steps: int = 10
    """Steps on the support set."""

    def __call__(self, support: Support) -> Predictor:
        table, rng = self._table(support), np.random.default_rng(support.seed)
        labels, width = torch.from_numpy(table.labels).float(), table.u.shape[1]
        x = table.standardised(table.u)
        with seeded(support.seed):
            start = nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))
        optimizer = torch.optim.Adam(start.parameters(), lr=self.lr)
        for _ in range(self.episodes):
            a, b, columns = self._episode(support, table.labels, rng)
            optimizer.zero_grad()
            for c in columns:
                net = self._adapted(start, x[a], labels[a][:, [c]], self.inner_steps)
                gradients = torch.autograd.grad(inter_anomaly_loss(net(x[b]), labels[b][:, [c]]), [*net.parameters()])
                for parameter, gradient in zip(start.parameters(), gradients, strict=True):
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            optimizer.step()
        u = table.standardised(support.u)
        nets = [self._adapted(start, u, y[:, None], self.adapt_steps) for y in support.target.T]

        @torch.no_grad()
        def predict(query: Query) -> np.ndarray:
            return torch.cat([net(table.standardised(query.u)) for net in nets], 1).numpy()

        return predict

    def _adapted(self, start: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
        """A copy of the start after some steps on x (N, D) and y (N, 1)."""
        net = copy.deepcopy(start)
        optimizer = torch.optim.SGD(net.parameters(), lr=self.inner_lr)
        for _ in range(steps):
            optimizer.zero_grad()
            inter_anomaly_loss(net(x), y).backward()
            optimizer.step()
        return net
