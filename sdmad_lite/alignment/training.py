"""State of stage 1 while it trains: parameters, optimizer, order of the data; and its way to a checkpoint and back."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import Checkpoints, parsed
from .processes import Processes

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

PARTS = ("inter-anomaly", "discrepancy", "intra-anomaly")
"""Names of the losses, in the order of the method."""


class Training:
    """All that changes while stage 1 runs, which is also all that a checkpoint holds.

    What else is random, the variations of the images, follows from the seed and is made again.
    """

    def __init__(self, adapters: nn.ModuleDict, categories: int, config, seed: int, device):
        self.adapters, self.config = adapters, config
        self.scale = torch.tensor(np.log(10.0), dtype=torch.float32, device=device, requires_grad=True)
        self.bias = torch.zeros(categories, device=device, requires_grad=True)
        self.parameters = [*adapters.parameters(), self.scale, self.bias]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.lr, fused=device.type == "cuda" or None)
        self.rng = np.random.default_rng(seed)
        self.order: list[int] = []
        self.losses: list[Tensor] = []  # read late: reading waits for the device
        self.step = 0

    def batch(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the next batch, each once before any comes again, and the view of each."""
        size = min(self.config.batch_size, count)
        if len(self.order) < size:
            self.order = self.rng.permutation(count).tolist()
        rows, self.order = self.order[:size], self.order[size:]
        return np.asarray(rows), self.rng.integers(0, self.config.augmentations, size)

    def update(self, loss: Tensor, parts: list[Tensor], processes: Processes) -> None:
        """One step of Adam; the rate rises over a tenth of the steps and falls as a cosine."""
        self.optimizer.zero_grad()
        loss.backward()
        processes.average_gradients(self.parameters)
        steps, warm = self.config.steps, max(1, self.config.steps // 10)
        fall = 0.5 * (1 + np.cos(np.pi * max(0, self.step - warm) / max(1, steps - warm)))
        self.optimizer.param_groups[0]["lr"] = self.config.lr * min((self.step + 1) / warm, fall)
        self.optimizer.step()
        self.losses.append(torch.stack([part.detach() for part in parts]))
        self.step += 1

    def history(self) -> list[dict[str, float]]:
        """The losses of each step by name."""
        values = torch.stack(self.losses).tolist() if self.losses else []
        return [dict(zip(PARTS, row, strict=True)) for row in values]

    def save(self, checkpoints: Checkpoints, identity: dict) -> None:
        """Write a checkpoint."""
        tensors = {f"adapters.{name}": value for name, value in self.adapters.state_dict().items()}
        tensors |= {"scale": self.scale, "bias": self.bias, "losses": torch.stack(self.losses)}
        for number, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in slots.items()}
        state = {"rng": self.rng.bit_generator.state, "order": self.order, "step": self.step}
        checkpoints.write(self.step, tensors, {"identity": identity, **state})

    def restore(self, content: bytes) -> None:
        """Go back to where a checkpoint was written."""
        state, tensors = parsed(content)
        self.rng.bit_generator.state, self.order, self.step = state["rng"], state["order"], state["step"]
        slots: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, parameter in self.adapters.named_parameters():
                parameter.copy_(tensors[f"adapters.{name}"])
            self.scale.copy_(tensors["scale"])
            self.bias.copy_(tensors["bias"])
        self.losses = list(tensors["losses"].to(self.scale.device))
        for name, value in tensors.items():
            kind, *rest = name.split(".")
            if kind == "optimizer":
                slots.setdefault(int(rest[0]), {})[rest[1]] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})


def run_identity(
    backbone: Backbone,
    adapters: nn.ModuleDict,
    pixels: Tensor,
    labels: np.ndarray,
    texts: list[str],
    membership: Tensor,
    config,
    seed: int,
    bf16: bool,
) -> dict:
    """What has to be the same for a run to go on, under the names that a user is told."""

    def digest(*parts) -> str:
        whole = hashlib.sha256()
        for part in parts:
            whole.update(part if isinstance(part, np.ndarray) else repr(part).encode())
        return whole.hexdigest()[:16]

    standing = [(name, adapter.lam, tuple(adapter.down.weight.shape)) for name, adapter in adapters.items()]
    return {
        "images": digest(tuple(pixels.shape), pixels.contiguous().numpy()),
        "labels": digest(np.asarray(labels).tolist()),
        "sign bank": digest(list(texts), membership.tolist()),
        "backbone": backbone.fingerprint,
        "adapter settings": digest(standing),
        "alignment settings": asdict(config),
        "seed": seed,
        "precision": "bf16" if bf16 else "fp32",
    }
