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
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import SDMADError
from .activations import pool_tokens, split_image_tower
from .adapters import installed
from .augment import in_batches, iter_augmented, mixup
from .checkpoint import Checkpoints
from .compute import Kept, RunConfig, compiled, piecewise
from .losses import category_margins, discrepancy_loss, inter_anomaly_loss, intra_anomaly_loss, uniform_weights
from .processes import Processes
from .training import Training, run_identity

if TYPE_CHECKING:
    from ..clip.backbone import Backbone


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of stage 1. [ours] Chosen on validation phantoms and draws of their own (`tools/ablations.py`)."""

    steps: int = 100
    """Optimiser steps; 0 leaves the model frozen (the training-free mode)."""
    lr: float = 2e-2
    """Peak learning rate of Adam."""
    batch_size: int = 32
    """Support images in a step."""
    augmentations: int = 8
    """Versions of each support image: itself and augmentations - 1 variations of exposure, position and noise."""
    mixup: float = 1.0
    """Both parameters of the beta distribution of `mixup`; 0 for no mixing."""
    discrepancy: float = 0.1
    """Weight of `discrepancy_loss`."""
    intra: float = 0.1
    """Weight of `intra_anomaly_loss`."""
    hardness: float = 0.0
    """Focusing exponent of `inter_anomaly_loss`; above 0 the hardest pairs weigh most."""

    def __post_init__(self):
        if self.steps < 0 or self.mixup < 0 or self.lr <= 0 or self.batch_size < 1 or self.augmentations < 1:
            raise SDMADError(
                f"{self}: steps and mixup must be at least 0, lr above 0, batch_size and augmentations at least 1"
            )


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
    run: RunConfig | None = None,
    checkpoints: Checkpoints | None = None,
) -> Aligned:
    """Train the adapters, the temperature and a bias per category on the support set.

    Images are read once. Activations below the first adapter never change and are computed once. The signs are
    encoded once in a step. Under a launcher of several processes these share the encoding, see `processes`.

    Args:
        images: N support images.
        labels: (N, C) in {0, 1}.
        texts, membership: S sign texts and M (C+1, S).
        seed: of variations and batches.
        color: whether images are read in colour.
        watch: called after each step with its number, from 1, while the adapters stand in the backbone: what
            `backbone` embeds then is embedded as they shift it by now (gradients are on). Steps that a checkpoint
            holds already are not called again.
        run: how it is computed.
        checkpoints: where the run is kept, and goes on from if it was stopped. They are not removed at the end.

    Raises:
        DataError: an image cannot be read.
        CheckpointError: the checkpoints are broken or those of another run.
        OutputError: checkpoints cannot be written.
    """
    run, device = run or RunConfig(), backbone.device
    processes = Processes(device)
    tokens = backbone.tokenize(texts)
    member = membership.to(device)
    weights = uniform_weights(member)
    target = torch.as_tensor(labels, dtype=torch.float32, device=device)
    pixels = backbone.prepare(images, color)
    with torch.no_grad():
        frozen = backbone.text_features(tokens)
    training = Training(adapters, target.shape[1], config, seed, device)
    if checkpoints:
        identity = run_identity(backbone, adapters, pixels, labels, texts, membership, config, seed, run.bf16(device))
        content = processes.from_main(lambda: checkpoints.latest(identity))
        if content is not None:
            training.restore(content)
    count, name = len(target), "stage 1" if processes.count == 1 else f"stage 1, {processes.count} processes"

    def encoded(encode: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        with run.autocast(device):
            part = piecewise(encode, rows[processes.share(len(rows))], run.at_once)
        return processes.gathered(part.float(), len(rows))

    with installed(backbone, adapters):
        below, embed = split_image_tower(backbone)
        mine, kept, h = processes.share(count), None, []
        for number, view in enumerate(iter_augmented(backbone, pixels, config.augmentations, seed)):
            with torch.no_grad():
                rows = processes.gathered(in_batches(below, view[mine]), count)
                h.append(
                    (pool_tokens(rows) if rows.ndim == 3 else rows).cpu()
                )  # rows are u itself without image adapters
            kept = kept or Kept(config.augmentations, rows, run.cache_gib * 2**30)
            kept.rows[number] = rows
        del pixels, view, rows
        steps = tqdm(
            range(training.step, config.steps),
            desc=name,
            disable=not (progress and processes.main),
            leave=False,
            initial=training.step,
            total=config.steps,
        )
        with compiled(backbone, adapters, run.compile):
            for _ in steps:
                row, view = training.batch(count)
                x, y = kept.take(torch.from_numpy(view), torch.from_numpy(row)), target[row]
                if config.mixup:
                    x, y = mixup(x, y, config.mixup, training.rng)
                u, v = encoded(embed, x), encoded(backbone.text_features, tokens)
                logits = category_margins(u, v, weights) * training.scale.exp() + training.bias
                parts = [
                    inter_anomaly_loss(logits, y, config.hardness),
                    discrepancy_loss(v, member),
                    intra_anomaly_loss(v, frozen, member),
                ]
                loss = parts[0] + config.discrepancy * parts[1] + config.intra * parts[2]
                training.update(loss, parts, processes)
                if checkpoints and processes.main and checkpoints.due(training.step):
                    training.save(checkpoints, identity)
                if watch:
                    watch(training.step)
        with torch.no_grad():
            u = [
                processes.gathered(in_batches(lambda rows: embed(rows.to(device)), view[mine]), count).cpu()
                for view in kept.rows
            ]
            v = backbone.text_features(tokens)
    scale, bias = float(training.scale.detach().exp()), training.bias.detach().cpu()
    return Aligned(scale, bias, torch.stack(u), v.cpu(), torch.stack(h), training.history())
