"""How stage 1 is run: precision, memory, compiled layers. What is computed stays the same.

On a CPU the defaults change no bit of a result. On an accelerator the steps run in bfloat16 where the device can; what
is kept (activations, final embeddings) is computed in the model's own precision, as scoring does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ..clip.towers import find_blocks
from ..errors import SDMADError

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class RunConfig:
    """How stage 1 is run [ours]. No setting changes what is computed, only rounding, speed and memory."""

    precision: str = "auto"
    """Of the encoders in a step: "fp32", "bf16" (autocast), or "auto": bf16 on CUDA devices that have it, else fp32."""
    compile: bool = False
    """Compile the adapted layers: pays in long runs on a GPU; the first step then takes a minute or more."""
    at_once: int = 256
    """Images or signs encoded together with gradients. More are encoded in batches of this size, and once more on
    the way back, so that memory does not grow with the bank or with `batch_size`; fewer on a small GPU."""
    cache_gib: float = 8.0
    """Activations kept below the first adapter stay on the device up to this size; larger ones in main memory."""
    checkpoint: str | Path | None = None
    """Folder of the checkpoint that a stopped run goes on from; none is written when left out."""
    checkpoint_seconds: float = 60.0
    """Write one when this long has passed since the last."""
    checkpoint_steps: int | None = None
    """And after every so many steps."""
    progress: bool = False
    """Whether to show a bar."""
    after_step: Callable[[int], None] | None = None
    """Called after each step with its number, from 1, while the adapters stand in the backbone (gradients are on).
    Steps that a checkpoint holds already are not called again."""

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise SDMADError(f"precision is {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        if self.at_once < 1 or (self.checkpoint_steps is not None and self.checkpoint_steps < 1):
            raise SDMADError(f"{self}: at_once and checkpoint_steps must be at least 1")
        if self.cache_gib < 0 or self.checkpoint_seconds < 0:
            raise SDMADError(f"{self}: cache_gib and checkpoint_seconds must be at least 0")

    def bf16(self, device: torch.device) -> bool:
        """Whether steps on this device run in bfloat16."""
        if self.precision == "auto":
            return device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.precision == "bf16"

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context in which the encoders run."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16(device))


def in_batches(function: Callable[[Tensor], Tensor], rows: Tensor, size: int = 64) -> Tensor:
    """function(rows), `size` rows at a time; with gradients on, what lies between is computed again on the way back."""
    batches = rows.split(size)
    if len(batches) == 1:
        return function(rows)
    if not torch.is_grad_enabled():
        return torch.cat([function(batch) for batch in batches])
    return torch.cat([recompute(function, b, use_reentrant=False, preserve_rng_state=False) for b in batches])


class ActivationCache:
    """Activations (A, N, ...) computed once: on the device if they fit into `limit` bytes, else in main memory."""

    def __init__(self, augmentations: int, first: Tensor, limit: float):
        """Make room for `augmentations` times rows like those of `first` (N, ...)."""
        fits = augmentations * first.numel() * first.element_size() <= limit
        self.device = first.device
        self.rows = first.new_empty(augmentations, *first.shape, device=self.device if fits else "cpu")

    def take(self, augmentation: Tensor, row: Tensor) -> Tensor:
        """(n, ...) by number of augmentation and of row, on the device."""
        return self.rows[augmentation.to(self.rows.device), row.to(self.rows.device)].to(self.device)


@contextmanager
def compiled(backbone: Backbone, adapters: nn.ModuleDict, enabled: bool) -> Iterator[None]:
    """Inside the block the layers with adapters run compiled; all layers of a tower share one compilation."""
    blocks = []
    if enabled:
        towers = {tower: find_blocks(backbone.model, tower) or () for tower in ("image", "text")}
        blocks = [towers[tower][int(number)] for tower, number in (name.split("_") for name in adapters)]
    for block in blocks:
        block.compile()
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None  # torch has no public way back
