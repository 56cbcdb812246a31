"""Stage 1: align signs with their categories and push the categories apart.

Losses are pure functions of unit embeddings u (N, D), v (S, D), labels Y (N, C) and signed weights
W (C, S) or membership M (C+1, S), whose row 0 is normal. `align` runs them over the adapters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .adapters import installed, split_image_tower
from .errors import SDMADError
from .evidence import pooled

if TYPE_CHECKING:
    from .backbone import Backbone


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of stage 1. [ours] Chosen on validation phantoms and draws of their own (`scripts/ablations.py`)."""

    steps: int = 100
    """Optimiser steps; 0 leaves the model frozen (the training-free mode)."""
    lr: float = 2e-2
    """Peak learning rate of Adam."""
    batch_size: int = 32
    """Support images in a step."""
    views: int = 8
    """Versions of each support image: itself and views - 1 variations of exposure, position and noise."""
    mix: float = 1.0
    """Both parameters of the beta distribution of `mixed`; 0 for no mixing."""
    discrepancy: float = 0.1
    """Weight of `discrepancy_loss`."""
    intra: float = 0.1
    """Weight of `intra_anomaly_loss`."""
    hardness: float = 0.0
    """Focusing exponent of `inter_anomaly_loss`; above 0 the hardest pairs weigh most."""

    def __post_init__(self):
        if self.steps < 0 or self.mix < 0 or self.lr <= 0 or self.batch_size < 1 or self.views < 1:
            raise SDMADError(f"{self}: steps and mix must be at least 0, lr above 0, batch_size and views at least 1")


def uniform_weights(membership: Tensor) -> Tensor:
    """W (C, S) from M (C+1, S): the signs of a category weigh the same, sum 1; so do the normal signs, sum -1."""
    shares = membership / membership.sum(1, keepdim=True)
    return shares[1:] - shares[:1]


def category_margins(u: Tensor, v: Tensor, weights: Tensor) -> Tensor:
    """g: (N, C) weighted cosine of each category's signs minus that of the normal signs, in [-2, 2].

    [ours] In a pilot study stage 1 lost 0.10 to 0.18 AUROC without the normal signs. On a frozen model the
    difference can help or hurt, depending on the category; notebook 02 measures it.
    """
    z = u @ v.T  # (N, S)
    return z @ weights.T


def inter_anomaly_loss(logits: Tensor, labels: Tensor, hardness: float = 0.0) -> Tensor:
    """Multi-label loss: pull an image to the signs of all it has, push it from those of all it has not.

    [paper] inter-anomaly alignment; [ours] as balanced binary cross-entropy, so that a co-occurring
    category is never a negative. Positives and negatives of a category weigh the same in total.

    Args:
        logits: (N, C), unbounded.
        labels: (N, C) in {0, 1}, or between where images are mixed.
        hardness: exponent g of the factor (1 - p_correct)^g; 0 for none.
    """
    positive = labels.sum(0).clamp(min=1)
    negative = (1 - labels).sum(0).clamp(min=1)
    balance = labels / positive + (1 - labels) / negative
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    if hardness:
        loss = loss * (1 - torch.exp(-loss)) ** hardness
    return (balance * loss).sum() / (2 * labels.shape[1])


def discrepancy_loss(v: Tensor, membership: Tensor) -> Tensor:
    """Mean squared cosine between the categories' sign centroids, after their common mean is taken off.

    [paper] "amplify the inter-anomaly discrepancy"; [ours] this form. Shared signs are left out of
    the centroids, so that sharing a sign is not punished; a category without a sign of its own, and
    a bank with fewer than two other categories, give 0.
    """
    own = membership[1:] * (membership[1:].sum(0, keepdim=True) == 1)
    own = own[own.sum(1) > 0]
    if len(own) < 2:
        return v.new_zeros(())
    centroids = own @ v / own.sum(1, keepdim=True)
    centroids = F.normalize(centroids - centroids.mean(0), dim=-1)
    cosine = centroids @ centroids.T
    off = ~torch.eye(len(own), dtype=torch.bool, device=v.device)
    # directions of n centred points cannot all be orthogonal: -1/(n-1) is as far apart as they get
    return ((cosine[off] + 1 / (len(own) - 1)).clamp(min=0) ** 2).mean()


def intra_anomaly_loss(v: Tensor, frozen: Tensor, membership: Tensor) -> Tensor:
    """How much closer the signs of one category have come to each other than in the frozen model.

    [paper] names an intra-anomaly alignment; [ours] this form, which keeps a category's signs from
    collapsing into one point, because stage 2 needs them to differ.

    Args:
        v, frozen: (S, D) unit embeddings now and before training.
        membership: (C+1, S).
    """
    same = (membership.T @ membership > 0).float().fill_diagonal_(0)
    gain = (v @ v.T - frozen @ frozen.T).clamp(min=0) ** 2
    return (gain * same).sum() / same.sum().clamp(min=1)


def augment(images: Tensor, generator: torch.Generator, shift: float = 1 / 32) -> Tensor:
    """Vary exposure, position (up to `shift` of the side) and noise of images (N, ch, H, W) in [0, 1]."""
    count, size = len(images), images.shape[-1]
    reach = max(1, round(shift * size))

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low).to(images.device)

    images = images.clamp_min(1e-4) ** uniform(0.75, 1.33)
    images = (images - 0.4) * uniform(0.8, 1.25) + 0.4 + uniform(-0.06, 0.06)
    noise = torch.randn(count, 1, *images.shape[2:], generator=generator)  # grey: the same in every channel
    noise = noise.to(images.device)
    padded = F.pad(images + noise * uniform(0, 0.03), [reach] * 4, mode="replicate")
    corner = torch.randint(0, 2 * reach + 1, (count, 2), generator=generator).tolist()
    moved = [p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, corner, strict=True)]
    return torch.stack(moved).clamp(0, 1)


def mixed(x: Tensor, y: Tensor, mix: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blend each row with another one, in random shares, and its labels in the same: few images become many.

    Source: manifold mixup, Verma et al. 2019 (arXiv 1806.05236), here on the activations below the first
    adapter. [ours] On validation draws it gave the most where shots are few.

    Args:
        x: (N, ...) activations. y: (N, C) labels. mix: of the beta distribution of shares, above 0.
    """
    other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    share = torch.from_numpy(rng.beta(mix, mix, len(x))).to(x)
    wide = share.view(-1, *[1] * (x.ndim - 1))
    return wide * x + (1 - wide) * x[other], share[:, None] * y + (1 - share[:, None]) * y[other]


def make_views(backbone: Backbone, images, count: int, seed: int, color: bool = False) -> list[Tensor]:
    """`count` versions of prepared images, each (N, 3, H, W) normalised; the first is unchanged."""
    pixels = backbone.prepare(images, color)
    config = backbone.model.visual.preprocess_cfg
    mean, std = torch.tensor(config["mean"])[:, None, None], torch.tensor(config["std"])[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    plain = pixels * std + mean
    return [pixels] + [(augment(plain, generator) - mean) / std for _ in range(count - 1)]


def embedded_views(backbone: Backbone, images, count: int, seed: int, color: bool = False) -> Tensor:
    """(count, N, D) unit embeddings of `make_views`, on the CPU: for methods that train on the frozen features."""
    return _chunked(backbone.image_features, make_views(backbone, images, count, seed, color)).cpu()


@dataclass
class Aligned:
    """What stage 1 leaves behind.

    scale: temperature 1/tau. bias: (C,). u: (views, N, D) support embeddings. v: (S, D). h: (views, N, d) image
    evidence of them, see `evidence`. history: the losses of each step.
    """

    scale: float
    bias: Tensor
    u: Tensor
    v: Tensor
    h: Tensor
    history: list[dict[str, float]]


def align(
    backbone: Backbone,
    adapters: nn.ModuleDict,
    images,
    labels: np.ndarray,
    texts: list[str],
    membership: Tensor,
    config: AlignmentConfig,
    seed: int = 0,
    color: bool = False,
    progress: bool = False,
    watch: Callable[[int], None] | None = None,
) -> Aligned:
    """Train the adapters, the temperature and a bias per category on the support set.

    Activations below the first adapter never change and are computed once.

    Args:
        images: N support images.
        labels: (N, C) in {0, 1}.
        texts, membership: S sign texts and M (C+1, S).
        seed: of variations and batches.
        color: whether images are read in colour.
        watch: called after each step with its number, from 1, while the adapters stand in the backbone: what
            `backbone` embeds then is embedded as they shift it by now (gradients are on).
    """
    device = backbone.device
    tokens = backbone.tokenize(texts)
    membership = membership.to(device)
    weights = uniform_weights(membership)
    target = torch.as_tensor(labels, dtype=torch.float32, device=device)
    views = make_views(backbone, images, config.views, seed, color)
    with torch.no_grad():
        frozen = backbone.text_features(tokens)
    scale = torch.tensor(np.log(10.0), dtype=torch.float32, device=device, requires_grad=True)
    bias = torch.zeros(target.shape[1], device=device, requires_grad=True)
    optimizer = torch.optim.Adam([*adapters.parameters(), scale, bias], lr=config.lr)
    warm = max(1, config.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(0, step - warm) / max(1, config.steps - warm)))
        ),
    )
    rng = np.random.default_rng(seed)
    history: list[dict[str, float]] = []
    count, size = len(target), min(config.batch_size, len(target))
    order: list[int] = []
    with installed(backbone, adapters):
        below, embed = split_image_tower(backbone)
        cached = _chunked(below, views)
        flat = cached.flatten(0, 1)
        for _ in tqdm(range(config.steps), desc="stage 1", disable=not progress, leave=False):
            if len(order) < size:
                order = rng.permutation(count).tolist()
            rows, order = order[:size], order[size:]
            view = rng.integers(0, config.views, size)
            x, y = flat[torch.from_numpy(view * count + np.asarray(rows)).to(device)], target[rows]
            if config.mix:
                x, y = mixed(x, y, config.mix, rng)
            u, v = embed(x), backbone.text_features(tokens)
            logits = category_margins(u, v, weights) * scale.exp() + bias
            parts = {
                "inter-anomaly": inter_anomaly_loss(logits, y, config.hardness),
                "discrepancy": discrepancy_loss(v, membership),
                "intra-anomaly": intra_anomaly_loss(v, frozen, membership),
            }
            loss = (
                parts["inter-anomaly"]
                + config.discrepancy * parts["discrepancy"]
                + config.intra * parts["intra-anomaly"]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            history.append({name: value.item() for name, value in parts.items()})
            if watch:
                watch(len(history))
        with torch.no_grad():
            u = torch.stack([torch.cat([embed(part) for part in view.split(64)]) for view in cached])
            v = backbone.text_features(tokens)
    h = pooled(cached) if cached.ndim == 4 else cached  # without image adapters what lies below is u itself
    return Aligned(float(scale.detach().exp()), bias.detach().cpu(), u.cpu(), v.cpu(), h.cpu(), history)


@torch.no_grad()
def _chunked(function, views: list[Tensor], size: int = 64) -> Tensor:
    """Apply a function to each view in chunks: (views, N, ...)."""
    return torch.stack([torch.cat([function(part) for part in view.split(size)]) for view in views])
