"""One process or several: which rows are mine, how the parts come together, and who writes.

Under `torchrun`, `accelerate launch` or accelerate's `notebook_launcher` each process runs the same program. Each
encodes its share of the images and signs; `gathered` gives the embeddings of all to all, every process computes
the same loss from them, and `average_gradients` adds up what each knows of the adapters. Losses over the whole
batch, whatever they compare, are thereby those of one process.

Alone, nothing is sent and accelerate is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

import torch
from torch import Tensor, nn

from .. import errors
from ..errors import BackboneError, SDMADError
from ..files import world


def own_device(device: str | torch.device | None = None) -> str | torch.device | None:
    """The device as given; where none is and several processes run, the one that this process has to itself."""
    if device is not None or world()[1] == 1:
        return device
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.accelerator.is_available()).device


class Processes:
    """The processes of this run.

    Attributes:
        index: number of this one. count: how many there are. main: whether this is the one that writes.
    """

    def __init__(self, device: torch.device):
        """Join the others.

        Args:
            device: where the model of this process lies.

        Raises:
            BackboneError: it is not the device that the launcher meant for this process.
        """
        self.index, self.count = world()
        self.main = self.index == 0
        if self.count > 1:
            from accelerate import Accelerator, InitProcessGroupKwargs

            wait = InitProcessGroupKwargs(timeout=timedelta(days=1))  # others wait while the main process writes
            self._accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[wait])
            if self._accelerator.num_processes != self.count:
                raise SDMADError(
                    f"the launcher started {self.count} processes, but they did not find each other; start them with "
                    "torchrun"
                )
            meant = self._accelerator.device
            if meant.type != device.type or (meant.index or 0) != (device.index or 0):
                raise BackboneError(
                    f"process {self.index} works on {meant}, but its backbone lies on {device}; load the backbone "
                    "after the launcher has started the processes, with device=own_device()"
                )

    def share(self, count: int) -> slice:
        """Which of `count` rows this process works on; all of them where there are fewer rows than processes."""
        if count < self.count:
            return slice(0, count)
        return slice(self.index * count // self.count, (self.index + 1) * count // self.count)

    def gathered(self, part: Tensor, count: int) -> Tensor:
        """All `count` rows, of which `part` is the share of this process; gradients pass through."""
        if len(part) == count:
            return part
        return _Gathered.apply(part, count, self)

    def average_gradients(self, parameters: Iterable[nn.Parameter | Tensor]) -> None:
        """Give every process the mean gradient, which is that of one process with all rows."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self._accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def from_main(self, make: Callable[[], bytes | None]) -> bytes | None:
        """What `make` gives on the main process, on all; an error there is raised on all."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast

        content, failed = None, None
        if self.main:
            try:
                content = make()
            except SDMADError as error:
                content, failed = f"{type(error).__name__}:{error}".encode(), error
        kind = 0 if content is None else 1 if failed is None else 2
        device = self._accelerator.device
        kind, length = broadcast(torch.tensor([kind, len(content or b"")], device=device)).tolist()
        if not kind:
            return None
        sent = torch.empty(length, dtype=torch.uint8, device=device)
        if content:
            sent = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
        content = broadcast(sent).cpu().numpy().tobytes()
        if kind == 2:
            name, _, message = content.decode().partition(":")
            raise failed or getattr(errors, name, SDMADError)(message)
        return content

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()


class _Gathered(torch.autograd.Function):
    """Rows of all processes. Each computes the same loss from them, so each knows the gradient of its own rows
    already; it is multiplied by the number of processes, because parameter gradients are averaged."""

    @staticmethod
    def forward(ctx, part: Tensor, count: int, processes: Processes) -> Tensor:
        ctx.share, ctx.times = processes.share(count), processes.count
        rows = part.new_zeros(count, *part.shape[1:])
        rows[ctx.share] = part
        return processes._accelerator.reduce(rows, "sum")

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient[ctx.share] * ctx.times, None, None
