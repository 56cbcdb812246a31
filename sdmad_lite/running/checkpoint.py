"""The checkpoint of a training: one safetensors file, written whole or not at all, and used only if all of it fits."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, OutputError, SDMADWarning
from ..files import new_file

NAME = "stage1.safetensors"


class CheckpointWarning(SDMADWarning):
    """A checkpoint could not be written; the training goes on without it."""


class Checkpoint:
    """The checkpoint of one run, in a folder that is made if it is missing and may hold other things.

    Args:
        identity: name -> what must be the same for a run to go on, JSON values.
        seconds: write when this long has passed since the last time. steps: and after this many steps, if given.
    """

    def __init__(self, folder: str | Path, identity: dict, seconds: float = 60.0, steps: int | None = None):
        self.file, self.identity, self.seconds, self.steps = Path(folder) / NAME, identity, seconds, steps
        self.written = time.monotonic()

    def read(self, like: dict[str, Tensor], most: int) -> dict[str, Tensor] | None:
        """Tensors to go on from, of the names, types and shapes of `like`; None where there is no checkpoint yet.

        "losses" may have any number of rows up to `most`, one for each step.

        Raises:
            OutputError: the folder cannot be written. CheckpointError: the file is broken, or of another run.
        """
        # a long run should not find out late that nothing can be written here
        with new_file(probe := self.file.with_name(f"{NAME}.probe")):
            pass
        probe.unlink()
        if not self.file.exists():
            return None
        different: list[str] = []
        reason, remedy = "its content is not what was written", "delete it to begin anew"
        try:  # what is damaged or planted raises nearly anything; all of it is one error
            if not self.file.is_file():  # a pipe would have us wait
                raise SafetensorError("it is no file")
            self.file.open("rb").close()  # which says what is wrong with a file that cannot be read
            with safe_open(self.file, "pt") as content:
                tensors = {name: content.get_tensor(name) for name in content.keys()}
                before, found = (json.loads(content.metadata()[name]) for name in ("identity", "hash"))
            whole = found == _hash(before, tensors)
            if not (different := [name for name in self.identity if before.get(name) != self.identity[name]]):
                whole &= _forms(tensors) == _forms(like) and len(tensors["losses"]) <= most
                # squares are not negative, and no training goes on from NaN
                whole &= all(v.isfinite().all() and (v.min() >= 0 or "_sq" not in n) for n, v in tensors.items())
        except OSError as error:
            whole, reason, remedy = False, str(error.strerror), f"make it readable, or {remedy}"
        except SafetensorError as error:
            whole, reason = False, str(error)
        except Exception:
            whole = False
        if not whole:
            raise CheckpointError(f"{self.file}: this checkpoint is broken ({reason}); {remedy}")
        if different:
            raise CheckpointError(
                f"{self.file}: belongs to a run that differs in: {', '.join(different)}; give the same as then, "
                "or another folder for the checkpoint"
            )
        return tensors

    def due(self, step: int) -> bool:
        """Whether to write one after this many steps."""
        return (self.steps is not None and step % self.steps == 0) or time.monotonic() - self.written >= self.seconds

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Replace the checkpoint; where that fails (a full disk) the earlier one stays, with a CheckpointWarning."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        header = {"identity": json.dumps(self.identity), "hash": json.dumps(_hash(self.identity, tensors))}
        try:
            with new_file(self.file) as temporary:
                save_file(tensors, temporary, header)
        except OutputError as error:
            message = f"no checkpoint was written ({error}); an earlier one is kept and the training goes on"
            warnings.warn(message, CheckpointWarning, stacklevel=2)
        self.written = time.monotonic()


def remove_checkpoint(folder: str | Path | None) -> None:
    """Remove the checkpoint, and the folder if nothing else is in it; only after the detector stands whole."""
    if folder is not None:
        with suppress(OSError):
            Path(folder, NAME).unlink(missing_ok=True)
            Path(folder).rmdir()  # refuses where other files are


def _forms(tensors: dict[str, Tensor]) -> dict:
    """Name -> type and shape, whatever the number of losses."""
    return {name: (value.dtype, value.shape[name == "losses" :]) for name, value in tensors.items()}


def _hash(identity: dict, tensors: dict[str, Tensor]) -> str:
    content = (name.encode() + value.numpy().tobytes() for name, value in sorted(tensors.items()))
    return hashlib.sha256(b"".join([json.dumps(identity).encode(), *content])).hexdigest()
