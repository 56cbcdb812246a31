"""What a course will ask to compare with: same backbone, same support set, same metrics.

    predictor = ON_FEATURES["linear probe"](Support(images, labels, u, v, bank, backbone, seed=0))
    predictor(Query(new_images, u_new))  # scores (T, C), higher means more likely

A method is a frozen dataclass of its hyper-parameters: `dataclasses.replace(method, lr=...)` is another one. Those here
need the frozen embeddings alone: images u (N, D), signs v (S, D), labels Y (N, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..alignment import in_batches, inter_anomaly_loss, iter_augmented
from ..data.labels import labels_by_name
from ..errors import DataError, SDMADError
from ..selection import equal_weights, logistic, margins
from ..signs.bank import SignBank

if TYPE_CHECKING:
    from ..clip.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Support:
    """All that a method may learn from; embeddings are of unit length, by the frozen backbone."""

    images: Sequence  # N paths, arrays or PIL images
    labels: np.ndarray  # Y (N, C) in {0, 1}
    u: Tensor  # (N, D), of the images
    v: Tensor  # (S, D), of the bank's signs
    bank: SignBank
    backbone: Backbone
    seed: int = 0  # of everything random
    augmented: Tensor | None = None  # (A, N, D): several versions of the images, the first unchanged

    def __post_init__(self):
        object.__setattr__(self, "labels", labels_by_name(self.labels, self.bank.categories))
        count, width = len(self.images), self.u.shape[1]
        augmented = self.u[None] if self.augmented is None else self.augmented
        wanted: dict[str, tuple] = {"labels": (count, len(self.bank.categories)), "u": (count, width)}
        wanted |= {"v": (len(self.bank.texts), width), "augmented": (len(augmented), count, width)}
        for name, shape in wanted.items():
            if (found := tuple(np.shape(augmented if name == "augmented" else getattr(self, name)))) != shape:
                raise DataError(f"support: {name} has shape {found}, expected {shape}")
        if not np.isin(self.labels, (0, 1)).all():
            raise DataError("support: only labels 0 and 1 are allowed")
        for name, positives in zip(self.bank.categories, np.sum(self.labels, axis=0), strict=True):
            if not 0 < positives < count:
                missing = "negative" if positives else "positive"
                raise DataError(f"support: no {missing} image of {name!r} to learn from; add one")

    @property
    def target(self) -> Tensor:
        """Y as (N, C) floats."""
        return torch.as_tensor(self.labels, dtype=torch.float32)

    @property
    def examples(self) -> tuple[Tensor, Tensor]:
        """Features (A N, D) and targets (A N, C) of all versions of the images: stage 1 sees them too."""
        every = self.u[None] if self.augmented is None else self.augmented
        return every.flatten(0, 1), self.target.repeat(len(every), 1)

    @cached_property
    def weights(self) -> Tensor:
        """W (C, S): all signs of a category weigh the same, and so do the normal signs, against it."""
        return equal_weights(torch.from_numpy(self.bank.membership()))

    def margins(self, u: Tensor) -> Tensor:
        """(T, C) mean cosine of u (T, D) with a category's signs, minus that with the normal signs, in [-2, 2]."""
        return margins(u @ self.v.T, self.weights)


@dataclass(frozen=True, eq=False)
class Query:
    """T images to score, with unit-length embeddings u (T, D) and cosines z (T, S) by the same frozen backbone."""

    images: Sequence
    u: Tensor
    z: np.ndarray | None = None


Predictor = Callable[[Query], np.ndarray]
"""Gives scores (T, C), unbounded; higher means more likely."""


class Method(Protocol):
    """A baseline: called with a support set it returns a predictor."""

    what: ClassVar[str]  # in a few words, for tables

    def __call__(self, support: Support) -> Predictor: ...


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's CPU generator follows the seed; nobody else's randomness is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def descend(parameters: Iterable[Tensor], loss: Callable[[], Tensor], steps: int, lr: float, decay: float = 0) -> None:
    """Minimise `loss()` by AdamW, the learning rate falling from `lr` to 0 along a cosine."""
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


class Temperature(nn.Module):
    """From margins (N, C) to logits: exp(scale) * margin + bias. [ours] Starts as stage 1 does, at scale 10."""

    def __init__(self, categories: int):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.zeros(categories))

    def forward(self, margin: Tensor) -> Tensor:
        return margin * self.scale.exp() + self.bias


@dataclass(frozen=True)
class Trained:
    """A method that `descend` trains: steps, learning rate, weight decay."""

    steps: int = 100
    lr: float = 1e-2
    decay: float = 0

    def train(self, support: Support, margin: Callable, parameters: Iterable, penalty: Callable = float) -> Predictor:
        """Fit what `margin` (features -> (N, C)) depends on and a Temperature, by the loss of stage 1 and a penalty."""
        features, target = support.examples
        temperature = Temperature(target.shape[1])

        def loss() -> Tensor:
            return inter_anomaly_loss(temperature(margin(features)), target) + penalty()

        descend([*parameters, *temperature.parameters()], loss, self.steps, self.lr, self.decay)
        return lambda query: temperature(margin(query.u)).detach().numpy()


def prototypes(u: Tensor, labels: np.ndarray, u_test: Tensor) -> Tensor:
    """(T, C) cosine with the mean positive of a category minus that with the mean of its negatives, in [-2, 2].

    Source: Snell et al. 2017 (arXiv 1703.05175), one-against-rest because categories co-occur. u (N, D) and u_test
    (T, D) are of unit length; each category of labels (N, C) has both values.
    """
    y = torch.as_tensor(labels, dtype=u.dtype).T  # (C, N); a sum has the direction of the mean
    return u_test @ (F.normalize(y @ u, dim=1) - F.normalize((1 - y) @ u, dim=1)).T


@dataclass(frozen=True)
class ZeroShotNames:
    """Cosine with the name of the category minus that with the word for normal.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.
    """

    what: ClassVar[str] = "frozen model, category names"
    template: str = "{}"  # prompt, with {} for the name, e.g. "a chest radiograph with {}"
    normal: str = "normal"  # what stands in the prompt for a normal image

    def __call__(self, support: Support) -> Predictor:
        names = (self.normal, *support.bank.categories)
        v = support.backbone.encode_texts([self.template.format(name) for name in names])  # (C+1, D)
        return lambda query: (query.u @ (v[1:] - v[:1]).T).numpy()


@dataclass(frozen=True)
class ZeroShotSigns:
    """`Support.margins`, nothing trained: CLIP's prompt ensembling (arXiv 2103.00020), with signs for prompts."""

    what: ClassVar[str] = "frozen model, all signs"

    def __call__(self, support: Support) -> Predictor:
        return lambda query: support.margins(query.u).numpy()


@dataclass(frozen=True)
class Prototypes:
    """`prototypes`: the nearest mean of the support features."""

    what: ClassVar[str] = "mean support features"

    def __call__(self, support: Support) -> Predictor:
        return lambda query: prototypes(support.u, support.labels, query.u).numpy()


@dataclass(frozen=True)
class LinearProbe:
    """`logistic` on the features: the linear probe of Radford et al. 2021 (arXiv 2103.00020)."""

    what: ClassVar[str] = "logistic regression on image features"
    strength: float = 1.0  # inverse penalty; [ours] one for all: cross-validation was worse on validation draws

    def __call__(self, support: Support) -> Predictor:
        features, target = support.examples
        weights, bias = logistic(features.double().numpy(), target.numpy(), self.strength)
        return lambda query: query.u.double().numpy() @ weights.T + bias


@dataclass(frozen=True)
class TextProbe(Trained):
    """A linear probe that starts as the margin of each category's signs and is held there by a penalty.

    Source: the zero-shot initialisation of Silva-Rodríguez et al. 2024 (arXiv 2312.12730); [ours] the quadratic
    penalty, which weakens as shots grow.
    """

    what: ClassVar[str] = "linear probe that starts at the sign texts"
    steps: int = 200
    lr: float = 3e-2
    pull: float = 0.01  # weight of the relative squared distance to the start, divided by the mean number of positives

    def __call__(self, support: Support) -> Predictor:
        start = support.weights @ support.v  # (C, D)
        pull = self.pull / support.labels.sum(0).mean() / start.square().sum().clamp(min=1e-12)
        w = nn.Parameter(start.clone())
        return self.train(support, lambda u: u @ w.T, [w], penalty=lambda: pull * (w - start).square().sum())


@dataclass(frozen=True)
class TipAdapter(Trained):
    """Tip-Adapter-F: a cache of support features whose keys are trained, added to the zero-shot margin.

    Source: Zhang et al. 2021 (arXiv 2111.03930): affinity exp(-beta (1 - u keys^T)), times alpha. Its
    one-hot values become balanced multi-label ones (+1 over the positives, -1 over the negatives) [ours].
    """

    what: ClassVar[str] = "cache of support features with trained keys"
    lr: float = 1e-3
    alpha: float = 10.0  # weight of the cache beside the margin
    beta: float = 5.5  # sharpness of the affinity

    def __call__(self, support: Support) -> Predictor:
        features, target = support.examples
        values = target / target.sum(0) - (1 - target) / (1 - target).sum(0)  # (N, C)
        keys = nn.Parameter(features.clone())

        def margin(u: Tensor) -> Tensor:
            affinity = torch.exp(-self.beta * (1 - u @ keys.T))  # (T, N)
            return support.margins(u) + self.alpha * affinity @ values

        return self.train(support, margin, [keys])


@dataclass(frozen=True)
class ClipAdapter(Trained):
    """A residual bottleneck on the image feature, scored against the fixed sign texts.

    Source: CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544); the multi-label loss is that of stage 1.
    """

    what: ClassVar[str] = "residual adapter on image features"
    steps: int = 150
    decay: float = 1e-2
    ratio: float = 0.6  # the adapter's share of the feature; 0.2 in the paper, 0.6 was better on validation draws
    reduction: int = 4

    def __call__(self, support: Support) -> Predictor:
        width = support.u.shape[1]
        narrow = max(1, width // self.reduction)
        with seeded(support.seed):
            layers = nn.Sequential(nn.Linear(width, narrow), nn.ReLU(), nn.Linear(narrow, width), nn.ReLU())

        def margin(u: Tensor) -> Tensor:
            return support.margins(F.normalize(self.ratio * layers(u) + (1 - self.ratio) * u, dim=-1))

        return self.train(support, margin, layers.parameters())


ON_FEATURES: dict[str, Method] = {
    "zero-shot names": ZeroShotNames(),
    "zero-shot signs": ZeroShotSigns(),
    "prototypes": Prototypes(),
    "linear probe": LinearProbe(),
    "text-initialised probe": TextProbe(),
    "Tip-Adapter-F": TipAdapter(),
    "CLIP-Adapter": ClipAdapter(),
}
"""By the name that tables show. Each runs in seconds; those that train on images stand in tools/research_baselines."""


@torch.no_grad()
def embed_augmented(backbone: Backbone, images, count: int, seed: int, color: bool = False) -> Tensor:
    """(count, N, D) unit embeddings of augmented images, on the CPU: for methods that train on the frozen features."""
    versions = iter_augmented(backbone, backbone.prepare(images, color), count, seed)
    return torch.stack([in_batches(backbone.image_features, version).cpu() for version in versions])
