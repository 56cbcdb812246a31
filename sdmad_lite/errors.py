"""The errors a user can cause, each with a message that names what to change."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType


class SDMADError(ValueError):
    """Base of every error that bad input raises; the message says what is wrong and what to do."""


class DataError(SDMADError):
    """An image, a row or a column of a data set cannot be used."""


class BankError(SDMADError):
    """A sign bank is not valid."""


class BackboneError(SDMADError):
    """A CLIP model cannot be loaded, or cannot take adapters."""


class DetectorError(SDMADError):
    """A saved detector is not what was saved."""


class GenerationError(SDMADError):
    """A language model's server gave no usable sign bank."""


class DownloadError(SDMADError):
    """A file of a public data set could not be fetched whole."""


class CheckpointError(SDMADError):
    """A run cannot be continued from its checkpoint."""


class FederationError(SDMADError):
    """A site that learns with others went away, or sent what cannot be used."""


class CaseError(SDMADError):
    """A memory of cases cannot be read, or does not take an entry."""


class OutputError(SDMADError):
    """A result cannot be written."""


class MissingExtraError(SDMADError, ImportError):
    """A package that only some users need is not installed."""


class SDMADWarning(UserWarning):
    """What a user may not expect of an input that was read; the command line prints it as a remark."""


def warn(text: str) -> None:
    """Say such a thing, once for each place and text unless Python is told otherwise."""
    warnings.warn(text, SDMADWarning, stacklevel=3)


_noted: ContextVar[dict[str, dict] | None] = ContextVar("noted", default=None)


@contextmanager
def noting(say: bool = True) -> Iterator[dict[str, dict]]:
    """Inside the block `note` gathers what was done to which image; the outermost block says each thing once.

    It is a decorator too. With say=False nothing is said: the block's notes are the caller's.
    """
    if say and (outer := _noted.get()) is not None:
        yield outer
        return
    found: dict[str, dict] = {}
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)
        for text, names in found.items() if say else ():
            first = next((f", {name}" + " first" * (len(names) > 1) for name in names if isinstance(name, str)), "")
            warn(f"{text}: {len(names)}{first}")


def note(text: str, *names: str | int) -> None:
    """Such as note("masks, passed over", "a_mask.png"); what has no name is counted by its id."""
    with noting() as found:
        found.setdefault(text, {}).update(dict.fromkeys(names))


def renote(noted: dict[str, dict]) -> None:
    """Hand on what a block with say=False gathered."""
    for text, names in noted.items():
        note(text, *names)


def needs(module: str, extra: str) -> ModuleType:
    """Import a package of an extra, such as needs("pydicom", "dicom").

    Raises:
        MissingExtraError: it is not installed; names the extra.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        how = f"install it with: pip install 'sdmad_lite[{extra}]'"
        raise MissingExtraError(f"this needs the package {package}; {how}") from None
