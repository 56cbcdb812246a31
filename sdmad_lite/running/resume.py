"""Going on with a stage 1 that was stopped: its state as tensors, and the run that a checkpoint belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Checkpoint

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's names for the running means of a gradient and of its square."""


def state_of(training: Any) -> dict[str, Tensor]:
    """What a `Training` has to keep: the losses of each step, the parameters, and Adam's two moments of each."""
    none = torch.zeros(0, 3)  # three losses
    state = {"losses": torch.stack(training.losses) if training.losses else none}
    for number, parameter in enumerate(training.parameters):
        slots = training.optimizer.state.get(parameter, {})
        state[f"parameter.{number}"] = parameter
        state |= {f"{name}.{number}": slots.get(name, torch.zeros_like(parameter)) for name in MOMENTS}
    return state


@torch.no_grad()
def put(training: Any, state: dict[str, Tensor]) -> None:
    """Let a `Training` go on from a state; if it is new, what was drawn until then is drawn again."""
    begun, training.losses = training.step, list(state["losses"].to(training.bias.device))
    slots = {}
    for number, parameter in enumerate(training.parameters):
        parameter.copy_(state[f"parameter.{number}"])
        slots[number] = {name: state[f"{name}.{number}"] for name in MOMENTS}
        slots[number]["step"] = torch.tensor(float(training.step))
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": slots})
    for _ in () if begun else training.losses:
        _, rows = training.batch()
        training.blend(rows[:, None], rows[:, None])


def resumed(training: Any, encoders: Any, bank: Any) -> Checkpoint | None:
    """The checkpoint of this run, if one is wanted and this process writes it; the training goes on from there.

    Raises:
        CheckpointError: it is broken or that of another run. OutputError: none can be written.
    """
    run, backbone, pixels = encoders.run, encoders.backbone, encoders.pixels
    if run.checkpoint is None:
        return None
    settings = [(name, adapter.lam, tuple(adapter.down.weight.shape)) for name, adapter in training.adapters.items()]
    # what has to be the same for a run to go on, under the names that a user is told
    identity = {
        "images": _digest(tuple(pixels.shape), pixels.contiguous().numpy().tobytes()),
        "labels": _digest(training.labels.tolist()),
        "sign bank": _digest(bank.texts, encoders.tokens.tolist(), bank.membership().tolist()),
        "backbone": backbone.identity,
        "adapter settings": _digest(settings),
        "alignment settings": asdict(training.config),
        "seed": training.seed,
        "precision": "bf16" if run.bf16(backbone.device) else "fp32",
    }
    checkpoint = Checkpoint(run.checkpoint, identity, run.checkpoint_seconds, run.checkpoint_steps)
    found = training.processes.from_main(lambda: checkpoint.read(state_of(training), training.config.steps))
    if found:
        put(training, found)
    return checkpoint if training.processes.main else None


def _digest(*parts) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else repr(p).encode() for p in parts)).hexdigest()[:16]
