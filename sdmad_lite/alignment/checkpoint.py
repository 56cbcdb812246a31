"""Checkpoints of a training run: written whole or not at all, checked when read, safetensors and JSON in one file.

A file is `step-<number>-<hash of its bytes>.safetensors`: tensors, and in the header what else the run needs, as JSON.
It is written beside, forced to disk and renamed; the one before stays until then and one longer. So a run that is
killed at any moment finds a whole one, and one that the disk broke is told from a good one by its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from ..errors import CheckpointError, OutputError

KEEP = 2
"""The newest checkpoint and the one before."""

_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.safetensors")
_HEADER = "sdmad_lite"


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written or read; the run goes on without it."""


class Checkpoints:
    """Checkpoints of one run in a folder of their own.

    Args:
        folder: made if it is missing; nothing but checkpoints is touched in it.
        seconds: write one when this long has passed since the last. steps: and after this many steps, if given.
    """

    def __init__(self, folder: str | Path, seconds: float = 60.0, steps: int | None = None):
        self.folder, self.seconds, self.steps = Path(folder), seconds, steps
        self._written = time.monotonic()

    def latest(self, identity: dict) -> bytes | None:
        """Content of the newest whole checkpoint of this run, for `parsed`; None where there is none yet.

        A broken one is passed over with a CheckpointWarning. Leftovers of a killed write are removed.

        Args:
            identity: name -> what must be the same for a run to go on, JSON values.

        Raises:
            OutputError: the folder cannot be written.
            CheckpointError: it holds checkpoints of another run, or broken ones only.
        """
        self._prepare()
        found, broken = self._files(), []
        for file in found:
            try:
                content = file.read_bytes()
            except OSError as error:
                why = str(error)
            else:
                if _digest(content) == _NAME.fullmatch(file.name)[2]:
                    self._compare(file, parsed(content)[0]["identity"], identity)
                    for useless in broken:
                        useless.unlink()
                    return content
                broken.append(file)
                why = "its content is not what was written"
            message = f"{file}: this checkpoint is broken ({why}); looking for the one before"
            warnings.warn(message, CheckpointWarning, stacklevel=2)
        if found:
            raise CheckpointError(f"{self.folder}: all its checkpoints are broken; delete the folder to begin anew")
        return None

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".step-*.part"):
                leftover.unlink()
            probe = self.folder / f".step-{os.getpid()}.part"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputError(f"{self.folder}: checkpoints cannot be written here ({error}); choose another") from None

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)

    @staticmethod
    def _compare(file: Path, before: dict, now: dict) -> None:
        different = [name for name in now if before.get(name) != now[name]]
        if different:
            raise CheckpointError(
                f"{file}: belongs to a run that differs in: {', '.join(different)}; give the same as then, "
                "or another folder for the checkpoints"
            )

    def due(self, step: int) -> bool:
        """Whether to write one after this many steps."""
        return (self.steps is not None and step % self.steps == 0) or time.monotonic() - self._written >= self.seconds

    def write(self, step: int, tensors: dict[str, Tensor], state: dict) -> None:
        """Write a checkpoint and drop the one before the last.

        Where that fails (a full disk) the earlier ones stay, a CheckpointWarning says so, and the run can go on.

        Args:
            step: steps done. tensors: by name. state: JSON values, among them "identity".
        """
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        content = save(tensors, {_HEADER: json.dumps(state)})
        part = self.folder / f".step-{os.getpid()}.part"
        try:
            with open(part, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, self.folder / f"step-{step:08d}-{_digest(content)}.safetensors")
            _sync_folder(self.folder)
            for old in self._files()[KEEP:]:
                old.unlink()
        except OSError as error:
            message = (
                f"{self.folder}: no checkpoint at step {step} ({error}); earlier ones are kept and the training goes on"
            )
            warnings.warn(message, CheckpointWarning, stacklevel=2)
            try:
                part.unlink(missing_ok=True)
            except OSError:  # the disk takes nothing at all; `latest` removes what is left
                pass
        self._written = time.monotonic()

    def clear(self) -> None:
        """Remove the checkpoints, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        for file in self._files():
            file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def parsed(content: bytes) -> tuple[dict, dict[str, Tensor]]:
    """State and tensors of a checkpoint's content."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_HEADER]), load(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _sync_folder(folder: Path) -> None:
    """Force a rename to disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
