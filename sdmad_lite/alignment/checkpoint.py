"""The checkpoint of a training run: one safetensors file, written whole or not at all, checked when it is read.

What a run needs beside tensors, and a hash of the tensors, is JSON in the header of the file.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, OutputError
from ..files import new_file

NAME = "stage1.safetensors"


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the run goes on without it."""


class Checkpoint:
    """The checkpoint of one run, in a folder that may hold other things.

    Args:
        folder: made if it is missing.
        identity: name -> what must be the same for a run to go on, JSON values.
        seconds: write when this long has passed since the last time. steps: and after this many steps, if given.
    """

    def __init__(self, folder: str | Path, identity: dict, seconds: float = 60.0, steps: int | None = None):
        self.file, self.identity, self.seconds, self.steps = Path(folder) / NAME, identity, seconds, steps
        self.written = time.monotonic()

    def read(self) -> tuple[dict, dict[str, Tensor]] | None:
        """State and tensors to go on from; None where there is no checkpoint yet.

        Raises:
            OutputError: the folder cannot be written. CheckpointError: the checkpoint is broken, or of another run.
        """
        # a long run should not find out late that nothing can be written here
        probe = self.file.with_name(f"{NAME}.probe")
        with new_file(probe):
            pass
        for left in (probe, *self.file.parent.glob(f".{NAME}.*")):  # the latter of a process killed while it wrote
            left.unlink()
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as content:
                header = json.loads(content.metadata()["sdmad_lite"])
                tensors = {name: content.get_tensor(name) for name in content.keys()}
            whole = header.pop("hash") == _hash(tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise CheckpointError(f"{self.file}: this checkpoint is broken; delete it to begin anew")
        before = header.pop("identity")
        if different := [name for name in self.identity if before.get(name) != self.identity[name]]:
            raise CheckpointError(
                f"{self.file}: belongs to a run that differs in: {', '.join(different)}; give the same as then, "
                "or another folder for the checkpoint"
            )
        return header, tensors

    def due(self, step: int) -> bool:
        """Whether to write one after this many steps."""
        return (self.steps is not None and step % self.steps == 0) or time.monotonic() - self.written >= self.seconds

    def write(self, state: dict, tensors: dict[str, Tensor]) -> None:
        """Replace the checkpoint; where that fails (a full disk) the earlier one stays, with a CheckpointWarning."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        header = json.dumps(state | {"identity": self.identity, "hash": _hash(tensors)})
        try:
            with new_file(self.file) as temporary:
                save_file(tensors, temporary, {"sdmad_lite": header})
        except (OutputError, SafetensorError) as error:
            message = f"no checkpoint was written ({error}); an earlier one is kept and the training goes on"
            warnings.warn(message, CheckpointWarning, stacklevel=2)
        self.written = time.monotonic()


def remove_checkpoint(folder: str | Path) -> None:
    """Remove the checkpoint, and the folder if nothing else is in it."""
    (Path(folder) / NAME).unlink(missing_ok=True)
    if Path(folder).is_dir() and not any(Path(folder).iterdir()):
        Path(folder).rmdir()


def _hash(tensors: dict[str, Tensor]) -> str:
    content = (name.encode() + value.numpy().tobytes() for name, value in sorted(tensors.items()))
    return hashlib.sha256(b"".join(content)).hexdigest()
