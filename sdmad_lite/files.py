"""Write a file or a folder whole or not at all, whatever stops the program.

Besides, read JSON that says each thing once, and find files of the Hugging Face hub without waiting for it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from .errors import OutputError, SDMADError

T = TypeVar("T")
HUB_SECONDS = 5  # that the Hugging Face hub has to answer
NOTICE = "For teaching and research; not for clinical use."
"""The line that stands once beside any score."""


def world() -> tuple[int, int]:
    """Number of this process, from 0, and how many run together, as torchrun and accelerate's launchers say it."""
    try:
        rank, count = int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError:
        raise SDMADError("RANK and WORLD_SIZE of the environment are no whole numbers; unset both") from None
    if not 0 <= rank < count:
        raise SDMADError(f"RANK={rank} of the environment is none of WORLD_SIZE={count} processes; unset both")
    return rank, count


def is_main() -> bool:
    """Whether this process is the one that writes and prints; true where it is alone."""
    return world()[0] == 0


HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""This machine in the name of a temporary file; the number of the process follows."""


def _prefix(path: Path) -> str:
    return f".{path.name}.{HOST}-{os.getpid()}-"


def _temporaries(folder: Path) -> Iterator[tuple[Path, str, int, bool]]:
    """What writers of this machine have in a folder: path, name of the place, process, whether it was moved aside."""
    for path in folder.iterdir() if os.name == "posix" else ():
        if found := re.fullmatch(rf"\.(.+)\.{HOST}-(\d+)-\w+(\.old)?", path.name):
            yield path, found[1], int(found[2]), bool(found[3])


@cache
def _sweep(folder: Path) -> None:
    """Remove what writers that were killed left in a folder, on this machine; what they had moved aside comes back."""
    for left, name, process, aside in _temporaries(folder):
        if not _runs(process):
            with suppress(OSError):  # another process sweeps too
                if aside and not (folder / name).exists():
                    left.rename(folder / name)
                elif left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def user_cache() -> Path | None:
    """The user's folder of caches; None where there is no home, or one that cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    there = next((path for path in (cache, *cache.parents) if path.exists()), cache)
    return cache if cache.is_absolute() and os.access(there, os.W_OK) else None


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """A full disk, a lost right, a closed connection: inside the block all of it is one error that names the place."""
    try:
        yield
    except BrokenPipeError:  # of stdout, which is no place
        raise
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: cannot be written ({error}); choose another place") from None


def _file(path: str | Path) -> Path:
    path = Path(path)
    if path.exists() and not path.is_file():  # a device would be replaced too
        raise OutputError(f"{path}: is {'a folder; name a file in it' if path.is_dir() else 'no file; name another'}")
    return path


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A neighbouring temporary file to write; it takes the place of `path` only when the block ends well.

    Raises:
        OutputError: the place cannot be written.
    """
    path = _file(path)
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        os.close(handle)
        try:
            yield Path(temporary)
            with open(temporary, "rb") as written:  # on the disk before it takes the place
                os.fsync(written.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                os.unlink(temporary)


def write_text(path: str | Path, text: str) -> Path:
    """Write text as UTF-8, whole or not at all; bytes of a file's name that are no text stand as \\udcff.

    Raises:
        OutputError: the place cannot be written.
    """
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return Path(path)


def _whole(path: str | Path) -> Path:
    with _written(Path(path)):  # of a relative one the folder where the program was started may be gone
        return Path(path).resolve()


@contextmanager
def claimed(path: str | Path) -> Iterator[Path]:
    """A hidden folder beside `path`, or in it; while it is there, no other run of this machine writes there.

    Raises:
        OutputError: the place cannot be written, or another run writes it now.
    """
    path = _whole(path)
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        home = path if _stays(path) else path.parent
        _sweep(home)
        mark = Path(tempfile.mkdtemp(dir=home, prefix=_prefix(path)))
    try:
        for _, name, process, aside in _temporaries(home) if world()[1] == 1 else ():
            if name == path.name and not aside and process != os.getpid() and _runs(process):
                raise OutputError(f"{path}: process {process} writes it now; wait for it, or choose another place")
        yield mark
    finally:
        shutil.rmtree(mark, ignore_errors=True)


def claimed_file(path: str | Path | None) -> AbstractContextManager:
    """`claimed`, of a place for a file: long work whose result is one file tells of a bad place before. None: none."""
    return claimed(_file(path)) if path else nullcontext()


@contextmanager
def new_folder(path: str | Path, marker: str) -> Iterator[Path]:
    """Fill a temporary folder; it takes the place of `path` only when the block ends well.

    An existing folder is replaced only if it is empty or holds `marker`, a file that this package writes there. Of
    several processes only the first one's stays.

    Raises:
        OutputError: the place cannot be written, or holds something else.
    """
    path = _whole(path)  # a link keeps pointing to the folder
    with _written(path), claimed(path) as temporary:
        held = _held(path) if path.is_dir() else []
        if (path.exists() and not path.is_dir()) or (held and not (path / marker).is_file()):
            raise OutputError(f"{path}: exists and holds no {marker} of an earlier run; choose a new or empty folder")
        yield temporary
        if is_main():
            (_change if temporary.parent == path else _move_into_place)(temporary, path)


def _held(path: Path) -> list[Path]:
    """What lies in a folder, apart from what this process put there for a while."""
    return [one for one in path.iterdir() if not one.name.startswith(_prefix(path))]


def _stays(path: Path) -> bool:
    """Whether a folder cannot be moved aside: a shell stands in it, a disk is mounted there, its parent is not ours."""
    here = False
    with suppress(FileNotFoundError):  # the folder where the program was started is gone
        here = Path.cwd().is_relative_to(path)
    return path.is_dir() and (here or os.path.ismount(path) or not os.access(path.parent, os.W_OK))


def _change(temporary: Path, path: Path) -> None:
    """Give a folder that stays what lies in the temporary one."""
    aside = temporary.with_name(temporary.name + ".old")
    aside.mkdir()
    for one in _held(path):
        one.rename(aside / one.name)
    for one in temporary.iterdir():
        one.rename(path / one.name)
    shutil.rmtree(aside, ignore_errors=True)


def _move_into_place(temporary: Path, path: Path) -> None:
    temporary.chmod(0o755)
    aside = temporary.with_name(temporary.name + ".old")
    if path.exists():
        path.rename(aside)
    try:
        temporary.rename(path)
    except BaseException:
        if aside.exists():
            aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def stopped_cleanly() -> Iterator[None]:
    """Inside the block SIGTERM and a closed terminal stop the program as Ctrl-C does: nothing is left half-written."""
    here, before = os.getpid(), {}

    def stop(number, frame):
        if os.getpid() != here:  # a worker, which has nothing to tidy
            os._exit(128 + number)
        raise KeyboardInterrupt

    for number in filter(None, (signal.SIGTERM, getattr(signal, "SIGHUP", None))):
        with suppress(ValueError):  # in another thread than the main one
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def once(pairs: list[tuple[str, object]]) -> dict:
    """For `json.loads`: a repeated key, of which the standard library keeps the last, is a ValueError."""
    if len(record := dict(pairs)) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r:.60} stands twice in one object")
    return record


strict_json = partial(json.loads, object_pairs_hook=once)


# The cache of the Hugging Face hub


class NotHereError(Exception):
    """A file is not on this machine, and the hub does not give it."""


def first_here(load: Callable[[bool], T]) -> T:
    """load(True) from the cache alone, so that a name means the same each time and loads without minutes of retries.

    Only where the cache lacks something load(False) follows, if the hub answers.
    """
    from huggingface_hub import constants

    try:
        return load(True)
    except ImportError:  # of transformers
        raise
    except Exception as error:
        if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
            raise NotHereError from error
    return load(False)


def _answers(hub: str) -> bool:
    """Whether the hub says anything at all; its own client would try for half a minute where there is no network."""
    from huggingface_hub.utils import get_session

    try:
        return get_session().head(hub, timeout=HUB_SECONDS) is not None
    except Exception:  # of whatever client the hub's package uses
        return False


def from_hub(repository: str, *names: str, revision: str | None = None) -> Path:
    """The first of the files that a repository of the hub has, in the cache of this machine.

    Raises:
        NotHereError: none is there, and the hub gives none.
    """
    from huggingface_hub import hf_hub_download  # its client takes a while to import

    def load(here: bool) -> Path:
        *others, last = names
        for name in others:
            with suppress(OSError):  # it is not there
                return Path(hf_hub_download(repository, name, revision=revision, local_files_only=here))
        return Path(hf_hub_download(repository, last, revision=revision, local_files_only=here))

    return first_here(load)
