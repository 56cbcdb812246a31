"""One process or several, as torchrun or accelerate's `notebook_launcher` started them: who encodes which rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import BackboneError, SDMADError, needs
from ..files import world

T = TypeVar("T")


def own_device(device: str | torch.device | None = None) -> str | torch.device | None:
    """The device as given; where none is and several processes run, the one that this process has to itself."""
    if device is not None or world()[1] == 1:
        return device
    return _joined(cpu=not torch.accelerator.is_available()).device


def _joined(cpu: bool):
    """accelerate's view of this process; others wait a day while the main process reads and writes."""
    return needs("accelerate", "distributed").PartialState(cpu=cpu, timeout=timedelta(days=1))


class Processes:
    """The processes that a launcher started; alone, nothing is sent and accelerate is not needed.

    Each encodes its share of the images and signs; all see all embeddings and compute the same loss from them.

    Raises:
        BackboneError: the model lies on another `device` than the launcher meant for this process.
    """

    def __init__(self, device: torch.device):
        self.index, self.count = world()
        self.main = self.index == 0
        if self.count == 1:
            return
        self.accelerate = needs("accelerate", "distributed")
        self.state = _joined(cpu=device.type == "cpu")
        if self.state.num_processes != self.count:
            raise SDMADError(f"{self.count} processes were started but did not find each other; start them by torchrun")
        meant = self.state.device
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

    def encode(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """function(rows), of which this process computes its share; gradients flow through that share alone."""
        mine = self.share(len(rows))
        part = function(rows[mine])
        if len(part) == len(rows):
            return part
        every = part.new_zeros(len(rows), *part.shape[1:])
        every[mine] = part.detach()
        every = self.accelerate.utils.reduce(every, "sum")
        if part.requires_grad:
            # all processes compute the same loss, so each knows the gradient of its rows; they are averaged later
            part.register_hook(lambda gradient: gradient * self.count)
        every[mine] = part
        return every

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the mean gradient, which is that of one process with all rows."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.accelerate.utils.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives on the main process, on all; an SDMADError there is raised on all."""
        outcome: list = [None]
        if self.main:
            try:
                outcome = [make()]
            except SDMADError as error:
                outcome = [error]
        if self.count > 1:
            self.accelerate.utils.broadcast_object_list(outcome)
        if isinstance(outcome[0], SDMADError):
            raise outcome[0]
        return outcome[0]

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            self.state.wait_for_everyone()
