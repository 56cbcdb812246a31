"""Precision, memory and compiled layers of stage 1.

On a CPU the defaults change no bit of a result. On an accelerator the steps run in bfloat16 where the device can; what
is kept (activations, final embeddings) is computed in the model's own precision, as scoring does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ..settings import AtLeastOne, NotNegative, Settings


@dataclass(frozen=True)
class RunConfig(Settings):
    """How stage 1 is run [ours]. No setting changes what is computed, only rounding, speed and memory."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the encoders in a step; auto: bf16 on CUDA that has it
    compile: bool = False  # the adapted layers: pays in long runs on a GPU; the first step then takes a minute or more
    at_once: AtLeastOne = 256
    """Images or signs encoded together with gradients. More are encoded in batches of this size, and once more on
    the way back, so that memory does not grow with the bank or with `batch_size`; fewer on a small GPU."""
    cache_gib: NotNegative = 8.0
    """Activations kept below the first adapter stay on the device up to this size; larger ones in main memory."""
    checkpoint: str | Path | None = None  # folder of the checkpoint that a stopped run goes on from
    checkpoint_seconds: NotNegative = 60.0  # write one when this long has passed since the last
    checkpoint_steps: AtLeastOne | None = None  # and after every so many steps
    progress: bool = False  # whether to show a bar
    after_step: Callable[[int], None] | None = None
    """Called after each step with its number, from 1, while the adapters stand in the backbone (gradients are on).
    Steps that a checkpoint holds already are not called again."""

    def bf16(self, device: torch.device) -> bool:
        """Whether steps on this device run in bfloat16."""
        if self.precision == "auto":
            return device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.precision == "bf16"

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context in which the encoders run."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16(device))


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device; a GPU is not waited for, so that it never runs out of work for a few numbers."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def in_batches(function: Callable[[Tensor], Tensor], rows: Tensor, size: int = 64) -> Tensor:
    """function(rows), `size` rows at a time; with gradients on, what lies between is computed again on the way back."""
    batches = rows.split(size)
    if len(batches) == 1:
        return function(rows)
    if not torch.is_grad_enabled():
        return torch.cat([function(batch) for batch in batches])
    return torch.cat([recompute(function, b, use_reentrant=False, preserve_rng_state=False) for b in batches])


@contextmanager
def compiled(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block these layers run compiled; all layers of a tower share one compilation."""
    for block in blocks:
        block.compile()
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None  # torch has no public way back
