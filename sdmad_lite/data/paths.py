"""What a path leads to, and why it cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError, SDMADError


@contextmanager
def reading(path: str | Path, remedy: str, form: str = "") -> Iterator[None]:
    """Whatever is raised while `path` is read becomes a DataError that names it; damaged bytes raise anything."""
    try:
        yield
    except SDMADError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be read{form} ({reason}); {remedy}") from None


def check_file(path: Path) -> None:
    """Refuse what is no file, or an empty one."""
    if not os.path.isfile(path):  # unlike Path.is_file, also for a name too long or with a zero byte
        raise DataError(f"{path}: no such image file; correct the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy it again")


def check_link(path: Path, folder: str | Path) -> None:
    """Refuse a link out of a folder; realpath, since Path.resolve fails on a loop of links."""
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise DataError(f"{path}: is a link out of the data folder; put the file itself there")


def check_no_link(path: Path) -> None:
    """Refuse a link to a folder."""
    if path.is_symlink() and path.is_dir():
        raise DataError(f"{path}: is a link to a folder; put the folder itself there")
