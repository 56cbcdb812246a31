"""The errors a user can cause, each with a message that names what to change."""

from __future__ import annotations

import warnings
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


class OutputError(SDMADError):
    """A result cannot be written."""


class MissingExtraError(SDMADError, ImportError):
    """A package that only some users need is not installed."""


class SDMADWarning(UserWarning):
    """What a user may not expect of an input that was read; the command line prints it as a remark."""


def warn(text: str) -> None:
    """Say such a thing, once for each place and text unless Python is told otherwise."""
    warnings.warn(text, SDMADWarning, stacklevel=3)


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
