"""Stage 1: train the adapters, so that signs meet the images of their category and leave those of others.

`align` is the loop, `training_step` one step of it, `cache_activations` what is computed once before: everything below
the first adapter, which never changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import SDMADError
from ..selection.sign_selector import equal_weights, margins
from .activations import pool_tokens, split_image_tower
from .adapters import installed
from .augment import iter_augmented, mixup
from .checkpoint import Checkpoint
from .losses import discrepancy_loss, inter_anomaly_loss, intra_anomaly_loss
from .processes import Processes
from .run import ActivationCache, RunConfig, compiled, in_batches

if TYPE_CHECKING:
    from ..clip.backbone import Backbone
    from ..signs.bank import SignBank

LOSSES = ("inter-anomaly", "discrepancy", "intra-anomaly")
"""Names of the losses, in the order of the method."""


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of stage 1. [ours] Chosen on validation phantoms and draws of their own (`tools/ablations.py`)."""

    steps: int = 100
    """Optimiser steps; 0 leaves the model frozen, see `SDMAD.training_free`."""
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
    """What stage 1 leaves behind, in A augmentations of the N support images, the first unchanged.

    scale: temperature 1/tau. bias: (C,). image_embeddings: u (A, N, D). sign_embeddings: v (S, D). activations:
    h (A, N, d), pooled below the first adapter, for the image evidence. history: the losses of each step.
    """

    scale: float
    bias: Tensor
    image_embeddings: Tensor
    sign_embeddings: Tensor
    activations: Tensor
    history: list[dict[str, float]]


class Training:
    """All that changes while stage 1 runs, which is also all that a checkpoint holds.

    What else is random, the augmentations of the images, follows from the seed and is made again.
    """

    def __init__(self, adapters: nn.ModuleDict, categories: int, config: AlignmentConfig, seed: int, device):
        self.config, self.adapters, self.processes = config, adapters, Processes(device)
        self.log_scale = torch.tensor(np.log(10.0), dtype=torch.float32, device=device, requires_grad=True)
        self.bias = torch.zeros(categories, device=device, requires_grad=True)
        self.parameters = [*adapters.parameters(), self.log_scale, self.bias]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.lr, fused=device.type == "cuda" or None)
        self.rng = np.random.default_rng(seed)
        self.order: list[int] = []
        self.losses: list[Tensor] = []  # read late: reading waits for the device
        self.step = 0

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Augmentation and row of each image of the next batch; every row comes once before any comes again."""
        size = min(self.config.batch_size, count)
        if len(self.order) < size:
            self.order = self.rng.permutation(count).tolist()
        rows, self.order = self.order[:size], self.order[size:]
        return torch.from_numpy(self.rng.integers(0, self.config.augmentations, size)), torch.tensor(rows)

    def learning_rate(self) -> float:
        """It rises over a tenth of the steps and falls as a cosine."""
        warm = max(1, self.config.steps // 10)
        fall = 0.5 * (1 + np.cos(np.pi * max(0, self.step - warm) / max(1, self.config.steps - warm)))
        return self.config.lr * min((self.step + 1) / warm, fall)

    def update(self, loss: Tensor, losses: list[Tensor]) -> None:
        """One step of Adam down the loss; the single losses are kept for the history."""
        self.optimizer.zero_grad()
        loss.backward()
        self.processes.average_gradients(self.parameters)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        self.optimizer.step()
        self.losses.append(torch.stack([value.detach() for value in losses]))
        self.step += 1

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        tensors = {f"parameter.{number}": value for number, value in enumerate(self.parameters)}
        for number, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in slots.items()}
        tensors["losses"] = torch.stack(self.losses)
        checkpoint.write({"rng": self.rng.bit_generator.state, "order": self.order, "step": self.step}, tensors)

    @torch.no_grad()
    def restore(self, state: dict, tensors: dict[str, Tensor]) -> None:
        """Go back to where a checkpoint was written."""
        self.rng.bit_generator.state, self.order, self.step = state["rng"], state["order"], state["step"]
        self.losses = list(tensors["losses"].to(self.bias.device))
        slots: dict[int, dict[str, Tensor]] = {}
        for number, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"parameter.{number}"])
            mine = f"optimizer.{number}."
            slots[number] = {name.removeprefix(mine): tensors[name] for name in tensors if name.startswith(mine)}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})


@torch.no_grad()
def cache_activations(
    backbone: Backbone, below: Callable[[Tensor], Tensor], pixels: Tensor, training: Training, seed: int, limit: float
) -> tuple[ActivationCache, Tensor]:
    """What lies below the first adapter, once and for all: it never changes.

    Args:
        below: from pixels to activations, see `split_image_tower`.
        pixels: (N, 3, H, W) prepared support images.
        seed: of the augmentations. limit: bytes that may stay on the device.

    Returns:
        The activations (A, N, ...) of all augmentations, and pooled from them h (A, N, d) on the CPU.
    """
    cache, pooled = None, []
    for number, version in enumerate(iter_augmented(backbone, pixels, training.config.augmentations, seed)):
        rows = training.processes.encode(lambda part: in_batches(below, part), version)
        cache = cache or ActivationCache(training.config.augmentations, rows, limit)
        cache.rows[number] = rows
        # without image adapters the rows are u itself, and there are no tokens to pool
        pooled.append((pool_tokens(rows) if rows.ndim == 3 else rows).cpu())
    assert cache is not None
    return cache, torch.stack(pooled)


def training_step(
    training: Training,
    activations: Tensor,
    labels: Tensor,
    embed: Callable[[Tensor], Tensor],
    embed_signs: Callable[[], Tensor],
    frozen: Tensor,
    membership: Tensor,
) -> None:
    """One step of stage 1: blend, embed, compare, update.

    Args:
        activations: (n, ...) of a batch below the first adapter. labels: Y (n, C).
        embed: activations to u (n, D). embed_signs: gives v (S, D); both through the adapters.
        frozen: v (S, D) before training. membership: M (C+1, S).
    """
    config = training.config
    # few images become many: each is blended with another one, and its labels in the same shares
    if config.mixup:
        activations, labels = mixup(activations, labels, config.mixup, training.rng)
    u, v = embed(activations), embed_signs()
    # how much more an image looks like a category's signs than like the normal ones, as a logit
    logits = margins(u @ v.T, equal_weights(membership)) * training.log_scale.exp() + training.bias
    inter = inter_anomaly_loss(logits, labels, config.hardness)
    discrepancy = discrepancy_loss(v, membership)
    intra = intra_anomaly_loss(v, frozen, membership)
    loss = inter + config.discrepancy * discrepancy + config.intra * intra
    training.update(loss, [inter, discrepancy, intra])


@torch.inference_mode(False)
@torch.enable_grad()
def align(
    backbone: Backbone,
    adapters: nn.ModuleDict,
    images: Sequence,
    labels: np.ndarray,
    bank: SignBank,
    config: AlignmentConfig,
    seed: int = 0,
    run: RunConfig | None = None,
) -> Aligned:
    """Train the adapters, the temperature and a bias per category on the support set.

    Images are read once. Activations below the first adapter are computed once; the signs are encoded once in a step.
    Under a launcher of several processes these share the encoding, see `processes`.

    Args:
        images: N support images. labels: Y (N, C) in {0, 1}.
        bank: signs and their categories.
        seed: of augmentations and batches.
        run: how it is computed. A checkpoint is not removed at the end.

    Raises:
        DataError: an image cannot be read.
        CheckpointError: the checkpoint is broken or that of another run. OutputError: none can be written.
    """
    run, device = run or RunConfig(), backbone.device
    tokens, pixels = backbone.tokenize(bank.texts), backbone.prepare(images, bank.color)
    membership = torch.from_numpy(bank.membership()).to(device)
    target = torch.as_tensor(labels, dtype=torch.float32, device=device)
    training = Training(adapters, target.shape[1], config, seed, device)
    processes = training.processes
    checkpoint = _resume(training, backbone, pixels, labels, bank, seed, run)
    with torch.no_grad():
        frozen = backbone.text_features(tokens)

    def encode(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        with run.autocast(device):
            return processes.encode(lambda part: in_batches(function, part, run.at_once).float(), rows)

    with installed(backbone, adapters), compiled(backbone, adapters, run.compile):
        below, embed = split_image_tower(backbone)
        cache, activations = cache_activations(backbone, below, pixels, training, seed, run.cache_gib * 2**30)
        steps = range(training.step, config.steps)
        hidden = not (run.progress and processes.main)
        for _ in tqdm(steps, "stage 1", config.steps, leave=False, disable=hidden, initial=training.step):
            augmentation, row = training.batch(len(target))
            training_step(
                training,
                cache.take(augmentation, row),
                target[row],
                lambda batch: encode(embed, batch),
                lambda: encode(backbone.text_features, tokens),
                frozen,
                membership,
            )
            if checkpoint and processes.main and checkpoint.due(training.step):
                training.save(checkpoint)
            if run.after_step:
                run.after_step(training.step)
        # what the trained adapters make of every augmentation and every sign
        with torch.no_grad():
            u = [processes.encode(lambda part: in_batches(lambda x: embed(x.to(device)), part), a) for a in cache.rows]
            v = backbone.text_features(tokens)
    history = [dict(zip(LOSSES, row.tolist(), strict=True)) for row in training.losses]
    return Aligned(
        scale=float(training.log_scale.detach().exp()),
        bias=training.bias.detach().cpu(),
        image_embeddings=torch.stack(u).cpu(),
        sign_embeddings=v.cpu(),
        activations=activations,
        history=history,
    )


def _resume(training: Training, backbone, pixels, labels, bank, seed: int, run: RunConfig) -> Checkpoint | None:
    """The checkpoint of this run, if one is wanted; the training goes back to where it was written."""
    if run.checkpoint is None:
        return None
    adapters: Any = training.adapters
    settings = [(name, adapter.lam, tuple(adapter.down.weight.shape)) for name, adapter in adapters.items()]
    # what has to be the same for a run to go on, under the names that a user is told
    identity = {
        "images": _digest(tuple(pixels.shape), pixels.contiguous().numpy().tobytes()),
        "labels": _digest(np.asarray(labels).tolist()),
        "sign bank": _digest(bank.texts, bank.membership().tolist()),
        "backbone": backbone.fingerprint,
        "adapter settings": _digest(settings),
        "alignment settings": asdict(training.config),
        "seed": seed,
        "precision": "bf16" if run.bf16(backbone.device) else "fp32",
    }
    checkpoint = Checkpoint(run.checkpoint, identity, run.checkpoint_seconds, run.checkpoint_steps)
    if found := training.processes.from_main(checkpoint.read):
        training.restore(*found)
    return checkpoint


def _digest(*parts) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else repr(p).encode() for p in parts)).hexdigest()[:16]
