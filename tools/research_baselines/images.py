"""Baselines that look at the images again: at pixels, with adapters in the tower, with a network of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor, nn

from sdmad_lite.alignment import augment, installed, inter_anomaly_loss, iter_augmented, split_image_tower
from sdmad_lite.clip.towers import block_width, needed_blocks
from sdmad_lite.data import read_images
from sdmad_lite.evaluation.baselines import LinearProbe, Predictor, Query, Support, Temperature, descend, seeded
from sdmad_lite.selection import logistic, margins


def thumbnails(images: Sequence, size: int, color: bool = False) -> Tensor:
    """(N, ch, size, size) in [0, 1]: images resized to squares; ch is 3 where `color` is true, else 1."""
    small = [np.asarray(i.resize((size, size)), dtype=np.float32) / 255 for i in read_images(images, color)]
    x = torch.from_numpy(np.stack(small))
    return x.permute(0, 3, 1, 2).contiguous() if color else x[:, None]


def batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Rows of one batch after the other without end; every row comes once before any comes again."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while True:
        if len(order) < min(size, count):
            order = rng.permutation(count).tolist()
        rows, order = order[:size], order[size:]
        yield torch.tensor(rows)


def _chunks(images: Sequence, size: int = 64) -> Iterator[Sequence]:
    return (images[i : i + size] for i in range(0, len(images), size))


@dataclass(frozen=True)
class Pixels(LinearProbe):
    """No CLIP at all: principal components of small images, then the linear probe.

    What a score owes to overall brightness and framing shows here. Eigenfaces (Turk and Pentland 1991) with
    another classifier; 32 x 32 pixels and at most 64 components are our choice.
    """

    what: ClassVar[str] = "principal components of pixels, logistic regression"
    size: int = 32
    components: int = 64

    def __call__(self, support: Support) -> Predictor:
        def flat(images: Sequence) -> np.ndarray:
            return thumbnails(images, self.size, support.bank.color).flatten(1).double().numpy()

        x = flat(support.images)
        pca = PCA(min(self.components, len(x) - 1), whiten=True, svd_solver="full").fit(x)
        weights, bias = logistic(pca.transform(x), support.labels, self.strength)
        return lambda query: pca.transform(flat(query.images)) @ weights.T + bias


class PatchAdapter(nn.Module):
    """Residual bottleneck behind a layer; `tokens` (N, L, D) is what the bottleneck gave in the last pass."""

    def __init__(self, width: int, dimension: int, residual: float):
        super().__init__()
        self.down, self.up = nn.Linear(width, dimension, bias=False), nn.Linear(dimension, width, bias=False)
        self.residual = residual

    def forward(self, h: Tensor, layer_output: Tensor) -> Tensor:
        """Mix the layer's output (N, L, width) with what comes back through the bottleneck."""
        self.tokens = F.leaky_relu(self.down(layer_output.to(self.down.weight.dtype)))
        back = F.leaky_relu(self.up(self.tokens)).to(layer_output.dtype)
        return (1 - self.residual) * layer_output + self.residual * back


@dataclass(frozen=True)
class VisualAdapter:
    """Residual adapters at several layers of the frozen image tower, whose patch tokens are scored against the signs.

    Source: MVFA, Huang et al. 2024 (arXiv 2403.12570): bottlenecks as wide as the joint space, their tokens
    compared with the texts, layers averaged. Ours: signs for prompts, several categories, no masks, augmentation.
    """

    what: ClassVar[str] = "residual adapters on patch tokens (as MVFA)"
    layers: int = 4
    """Adapters, evenly spaced up to the last layer; no more than the tower has layers."""
    residual: float = 0.3
    top: float = 1.0
    """Share of the patches, best first, whose margins are averaged; 1 for all, as in the paper."""
    augmentations: int = 4
    steps: int = 100
    lr: float = 1e-3
    batch: int = 16

    def __call__(self, support: Support) -> Predictor:
        backbone, device = support.backbone, support.backbone.device
        v, weights, target = (x.to(device) for x in (support.v, support.weights, support.target))
        blocks = needed_blocks(backbone.model, "image")
        count = min(self.layers, len(blocks))
        places = [(i + 1) * len(blocks) // count - 1 for i in range(count)]
        with seeded(support.seed):
            adapters = nn.ModuleDict(
                {f"image_{i}": PatchAdapter(block_width(blocks[i]), v.shape[1], self.residual) for i in places}
            ).to(device)
        temperature = Temperature(target.shape[1]).to(device)
        prefix = getattr(getattr(backbone.model.visual, "trunk", None), "num_prefix_tokens", 1)

        def logits(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
            run(x)  # leaves its tokens in the adapters
            tokens = torch.stack([F.normalize(a.tokens[:, prefix:], dim=-1) for a in adapters.values()])
            margin = margins(tokens @ v.T, weights)  # (layers, N, patches, C)
            kept = margin.topk(max(1, round(self.top * margin.shape[2])), dim=2).values
            return temperature(kept.mean((0, 2)))

        prepared = backbone.prepare(support.images, support.bank.color)
        augmented = list(iter_augmented(backbone, prepared, self.augmentations, support.seed))
        draw = batches(self.augmentations * len(target), self.batch, support.seed)
        with installed(backbone, adapters):
            below, embed = split_image_tower(backbone, patches=True)
            with torch.no_grad():
                x = torch.cat([below(part) for part in torch.cat(augmented).split(64)])  # below the first adapter

            def loss() -> Tensor:
                rows = next(draw)
                return inter_anomaly_loss(logits(embed, x[rows]), target[rows % len(target)])

            descend([*adapters.parameters(), *temperature.parameters()], loss, self.steps, self.lr)

        @torch.no_grad()
        def predict(query: Query) -> np.ndarray:
            with installed(backbone, adapters):
                prepared = (backbone.prepare(part, support.bank.color) for part in _chunks(query.images))
                return torch.cat([logits(backbone.views, part).cpu() for part in prepared]).numpy()

        return predict


@dataclass(frozen=True)
class SmallCNN:
    """A small convolutional network trained from nothing on the support set, with augmentation.

    Source: after the small networks of Raghu et al. 2019 (arXiv 1902.07208), which on medical images come
    near large pretrained ones; group normalisation because batches are small [ours].
    """

    what: ClassVar[str] = "small network trained from scratch"
    size: int = 64
    width: int = 16
    """Channels of the first of four layers; each next one has twice as many."""
    steps: int = 400
    lr: float = 3e-3
    decay: float = 1e-2
    batch: int = 32

    def __call__(self, support: Support) -> Predictor:
        device, color = support.backbone.device, support.bank.color
        pixels, target = thumbnails(support.images, self.size, color), support.target
        with seeded(support.seed):
            net = self._network(pixels.shape[1], target.shape[1]).to(device)
        chance = torch.Generator().manual_seed(support.seed)
        draw = batches(len(pixels), self.batch, support.seed)

        def loss() -> Tensor:
            rows = next(draw)
            return inter_anomaly_loss(net(augment(pixels[rows], chance).to(device)), target[rows].to(device))

        descend(net.parameters(), loss, self.steps, self.lr, self.decay)

        @torch.no_grad()
        def predict(query: Query) -> np.ndarray:
            small = (thumbnails(part, self.size, color) for part in _chunks(query.images))
            return torch.cat([net(part.to(device)).cpu() for part in small]).numpy()

        return predict

    def _network(self, channels: int, categories: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(4):
            wide = self.width * 2**i
            layers += [nn.Conv2d(channels, wide, 3, 2, 1), nn.GroupNorm(4, wide), nn.ReLU()]
            channels = wide
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, categories))
