"""Unpack a zip or tar: no member leaves the folder, no link is made, and no more than a size is written."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sdmad_lite.errors import DataError

MAX_BYTES = 128 << 30
MAX_FILES = 2_000_000


def unpack(
    archive: str | Path, folder: str | Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> list[Path]:
    """Unpack a zip or tar (plain, gz, bz2, xz) into `folder`; no file is left there when it fails.

    Args:
        archive: of regular files and folders only.
        folder: made if missing. Other files there stay; one of the same name is an error, not replaced.
        max_bytes: of all files together.
        max_files: most members.

    Returns:
        The files written, sorted.

    Raises:
        DataError: no archive, damaged, encrypted, too large, or with a member that is a link, a device,
            outside the folder, or there already.
    """
    archive, folder = Path(archive), Path(folder)
    if not os.path.isfile(archive):
        raise DataError(f"{archive}: no such archive; correct the path")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{archive.name[:40]}."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error}); choose another place") from None
    moved: list[Path] = []
    try:
        names = _extract(archive, temporary, min(max_bytes, shutil.disk_usage(folder).free), max_files)
        taken = [name for name in names if os.path.lexists(folder / name)]
        if taken:
            raise DataError(f"{folder / taken[0]}: exists already; unpack into an empty folder, or move it away")
        for name in names:
            if not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{folder / name}: lies behind a link out of the folder; unpack into an empty folder")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / name, folder / name)
            moved.append(folder / name)
        return sorted(moved)
    except DataError:
        _remove(moved)
        raise
    except Exception as error:  # damaged archives make zipfile, tarfile and their decoders raise many things
        _remove(moved)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{archive}: cannot be unpacked ({reason}); it may be damaged, fetch it again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(files: list[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


def _extract(archive: Path, to: Path, room: int, max_files: int) -> list[Path]:
    """Write every file of the archive below `to`; relative paths of what was written."""
    names: list[Path] = []
    with _members(archive) as members:
        for name, size, opened in members:
            relative = _inside(archive, name)
            if len(names) >= max_files:
                raise DataError(f"{archive}: has more than {max_files:,} files; raise max_files if that is right")
            room -= size
            if room < 0:
                raise DataError(
                    f"{archive}: unpacks to more than max_bytes or the free disk; free some space or raise it"
                )
            target = to / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened as source, target.open("xb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
            names.append(relative)
    if not names:
        raise DataError(f"{archive}: holds no file; fetch it again")
    return names


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[tuple[str, int, BinaryIO]]]:
    """(name, bytes, stream) of each file; a stream ends after as many bytes, which zipfile and tarfile see to."""
    try:
        tar = tarfile.open(archive)
    except tarfile.ReadError:
        if not zipfile.is_zipfile(archive):  # asked second: a tar that holds a zip can look like one
            raise DataError(f"{archive}: is no zip or tar archive, or damaged; fetch it again") from None
        with zipfile.ZipFile(archive) as opened:
            yield ((m.filename, m.file_size, opened.open(m)) for m in opened.infolist() if _is_zip_file(archive, m))
    else:
        with tar:
            yield ((m.name, m.size, tar.extractfile(m)) for m in tar if _is_tar_file(archive, m))


def _is_zip_file(archive: Path, member: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{archive}: {member.filename!r} is a link or a device; unpack it by hand if you trust it")
    return not member.is_dir()


def _is_tar_file(archive: Path, member: tarfile.TarInfo) -> bool:
    if not (member.isreg() or member.isdir()):
        raise DataError(f"{archive}: {member.name!r} is a link or a device; unpack it by hand if you trust it")
    return member.isreg()


def _inside(archive: Path, name: str) -> Path:
    """A member's path, if it stays below the folder on every system."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or re.search(r"\\|\0|^[A-Za-z]:", name):
        raise DataError(f"{archive}: {name!r} would leave the folder; unpack it by hand if you trust it")
    return Path(*pure.parts)
