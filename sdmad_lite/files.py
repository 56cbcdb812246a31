"""Write a file or a folder whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

NOTICE = "For teaching and research; not for clinical use."
"""The line that stands once beside any score."""


def world() -> tuple[int, int]:
    """Number of this process, from 0, and how many run together, as torchrun and accelerate's launchers say it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this process is the one that writes and prints; true where it is alone."""
    return world()[0] == 0


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A neighbouring temporary file to write; it takes the place of `path` only when the block ends well.

    Raises:
        OutputError: the place cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        yield Path(temporary)
        with open(temporary, "rb") as written:  # on the disk before it takes the place
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); choose another place") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write text as UTF-8, whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


@contextmanager
def new_folder(path: str | Path, marker: str) -> Iterator[Path]:
    """Fill a temporary folder; it takes the place of `path` only when the block ends well.

    An existing folder is replaced only if it is empty or holds `marker`, a file that this package
    writes there, so that a slip of the keyboard deletes nobody's data. Of several processes only the first one's stays.

    Raises:
        OutputError: the place cannot be written, or holds something else.
    """
    path = Path(path).resolve()  # a link keeps pointing to the folder
    try:
        if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / marker).is_file())):
            raise OutputError(f"{path}: exists and holds no {marker} of an earlier run; choose a new or empty folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); choose another folder") from None
    try:
        yield temporary
        if is_main():
            _move_into_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, path: Path) -> None:
    try:
        temporary.chmod(0o755)
        aside = temporary.with_name(temporary.name + ".old")
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); choose another folder") from None
