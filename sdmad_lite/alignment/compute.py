"""How training is computed: precision, compiled layers, pieces that fit into memory. What is computed stays the same.

On a CPU the defaults change no bit of a result. On an accelerator the steps of stage 1 run in bfloat16 where the
device can; what is kept (activations, final embeddings) is computed in the model's own precision, as scoring does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    """Images or signs encoded together with gradients. More are encoded in pieces of this size, and once more on
    the way back, so that memory does not grow with the bank or with `batch_size`; fewer on a small GPU."""
    cache_gib: float = 8.0
    """Activations kept below the first adapter stay on the device up to this size; larger ones in main memory."""
    checkpoint_seconds: float = 60.0
    """With checkpoints: write one when this long has passed since the last."""
    checkpoint_steps: int | None = None
    """With checkpoints: also write one after every so many steps."""

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


def piecewise(encode: Callable[[Tensor], Tensor], rows: Tensor, at_once: int) -> Tensor:
    """encode(rows), with the memory of `at_once` rows: what lies between is computed again for the gradients."""
    if len(rows) <= at_once:
        return encode(rows)
    pieces = [checkpoint(encode, piece, use_reentrant=False, preserve_rng_state=False) for piece in rows.split(at_once)]
    return torch.cat(pieces)


@contextmanager
def compiled(backbone: Backbone, adapters: nn.ModuleDict, enabled: bool) -> Iterator[None]:
    """Inside the block the layers with adapters run compiled; all layers of a tower share one compilation."""
    blocks = []
    if enabled:
        towers = {tower: find_blocks(backbone.model, tower) for tower in ("image", "text")}
        blocks = [towers[tower][int(number)] for tower, number in (name.split("_") for name in adapters)]
    for block in blocks:
        block.compile()
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None  # torch has no public way back


class Kept:
    """Rows (views, N, ...) computed once: on the device if they fit into `limit` bytes, else in main memory."""

    def __init__(self, views: int, first: Tensor, limit: float):
        """Make room for `views` times rows like those of `first` (N, ...)."""
        size = views * first.numel() * first.element_size()
        self.rows = torch.empty(views, *first.shape, dtype=first.dtype, device=first.device if size <= limit else "cpu")
        self.device = first.device

    def take(self, view: Tensor, row: Tensor) -> Tensor:
        """(n, ...) rows by number of view and of row, on the device."""
        return self.rows[view.to(self.rows.device), row.to(self.rows.device)].to(self.device)
