"""Versions of the support images for stage 1: varied exposure, position and noise, and blends of two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..running.run import sent

if TYPE_CHECKING:
    from ..clip.backbone import Backbone


ON_DEVICE = 2**30
"""Bytes of a version of the support images up to which it is made on the device; that takes some times as many."""


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


def mixup(x: Tensor, y: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blend each row with another one, in random shares, and its labels in the same: few images become many.

    Source: manifold mixup, Verma et al. 2019 (arXiv 1806.05236), here on the activations below the first
    adapter. [ours] On validation draws it gave the most where shots are few.

    Args:
        x: (N, ...) activations. y: (N, C) labels. alpha: both parameters of the beta distribution of shares, above 0.
    """
    other = sent(torch.from_numpy(rng.permutation(len(x))), x.device)
    share = sent(torch.from_numpy(rng.beta(alpha, alpha, len(x))).to(x.dtype), x.device)
    wide = share.view(-1, *[1] * (x.ndim - 1))
    return wide * x + (1 - wide) * x[other], share[:, None] * y + (1 - share[:, None]) * y[other]


def iter_augmented(backbone: Backbone, pixels: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    """`count` versions of prepared images (N, 3, H, W), one at a time; the first is unchanged.

    They are made on the model's device, a GPU being far quicker at it, but in main memory where they are many.
    """
    yield pixels
    config, small = backbone.model.visual.preprocess_cfg, pixels.nbytes <= ON_DEVICE
    pixels = pixels.to(backbone.device if small else "cpu")
    mean, std = (torch.tensor(config[name], device=pixels.device)[:, None, None] for name in ("mean", "std"))
    generator = torch.Generator().manual_seed(seed)
    plain = pixels * std + mean
    for _ in range(count - 1):
        yield (augment(plain, generator) - mean) / std
