"""The one shape of every baseline: `method(support)` gives a predictor, `predictor(query)` gives scores.

Fitting has no parameter by which a test image could come in. A method is a frozen dataclass of its
hyper-parameters, so that `dataclasses.replace(method, lr=...)` is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...alignment.losses import uniform_weights
from ...errors import DataError, SDMADError
from ...signs.bank import SignBank

if TYPE_CHECKING:
    from ...clip.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Support:
    """All that a method may learn from.

    images: N paths, arrays or PIL images. labels: Y (N, C) in {0, 1}. u: (N, D) and v: (S, D) unit-length
    embeddings of the images and of the bank's signs by the frozen backbone. seed: of everything random. views:
    (V, N, D) embeddings of several versions of the images, the first unchanged; u alone when left out.

    Raises:
        DataError: shapes or labels do not fit, or a category has no positive or no negative image.
    """

    images: Sequence
    labels: np.ndarray
    u: Tensor
    v: Tensor
    bank: SignBank
    backbone: Backbone
    seed: int = 0
    views: Tensor | None = None

    def __post_init__(self):
        names = self.bank.categories
        expected = (len(self.images), len(names))
        if np.shape(self.labels) != expected or len(self.u) != len(self.images):
            raise DataError(f"support: labels {np.shape(self.labels)}, {len(self.u)} features; expected {expected}")
        if self.views is not None and self.views.shape[1:] != self.u.shape:
            raise DataError(
                f"support: views {tuple(self.views.shape)}, expected (any, {len(self.u)}, {self.u.shape[1]})"
            )
        if len(self.v) != len(self.bank.texts):
            raise DataError(f"support: {len(self.v)} sign embeddings for {len(self.bank.texts)} signs of the bank")
        if not np.isin(self.labels, (0, 1)).all():
            raise DataError("support: only labels 0 and 1 are allowed")
        for name, positives in zip(names, np.sum(self.labels, axis=0), strict=True):
            if not 0 < positives < len(self.labels):
                missing = "negative" if positives else "positive"
                raise DataError(f"support: no {missing} image of {name!r} to learn from; add one")

    @property
    def target(self) -> Tensor:
        """Y as (N, C) floats."""
        return torch.as_tensor(self.labels, dtype=torch.float32)

    @property
    def many(self) -> tuple[Tensor, Tensor]:
        """Features (V N, D) and targets (V N, C) of all versions of the images: stage 1 sees them too."""
        views = self.u[None] if self.views is None else self.views
        return views.flatten(0, 1), self.target.repeat(len(views), 1)

    @property
    def weights(self) -> Tensor:
        """W (C, S): all signs of a category weigh the same, and so do the normal signs, against it."""
        return uniform_weights(torch.from_numpy(self.bank.membership()))


@dataclass(frozen=True, eq=False)
class Query:
    """T images to score, with their unit-length embeddings u (T, D) by the same frozen backbone."""

    images: Sequence
    u: Tensor


Predictor = Callable[[Query], np.ndarray]
"""Gives scores (T, C), unbounded; higher means more likely."""


class Method(Protocol):
    """A baseline: called with a support set it returns a predictor."""

    what: ClassVar[str]
    """In a few words, for tables."""

    def __call__(self, support: Support) -> Predictor: ...


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's CPU generator follows the seed; nobody else's randomness is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Rows of one batch after the other without end; every row comes once before any comes again."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while True:
        if len(order) < min(size, count):
            order = rng.permutation(count).tolist()
        rows, order = order[:size], order[size:]
        yield torch.tensor(rows)


def descend(parameters: Iterable[Tensor], loss: Callable[[], Tensor], steps: int, lr: float, decay: float = 0) -> None:
    """Minimise `loss()` by AdamW, the learning rate falling from `lr` to 0 along a cosine.

    Raises:
        SDMADError: fewer than one step, or a learning rate that is not above 0.
    """
    if steps < 1 or lr <= 0:
        raise SDMADError(f"steps is {steps} and lr {lr}: there must be at least one step, and lr must be above 0")
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


class Calibration(nn.Module):
    """From margins (N, C) to logits: exp(scale) * margin + bias. [ours] Starts as stage 1 does, at scale 10."""

    def __init__(self, categories: int):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.zeros(categories))

    def forward(self, margin: Tensor) -> Tensor:
        return margin * self.scale.exp() + self.bias
