"""The errors a user can cause, each with a message that names what to change."""


class SDMADError(ValueError):
    """Base of every error that bad input raises; the message says what is wrong and what to do."""


class DataError(SDMADError):
    """An image, a row or a column of a data set cannot be used."""


class BankError(SDMADError):
    """A sign bank is not valid."""


class BackboneError(SDMADError):
    """A CLIP model cannot be loaded, or cannot take adapters."""


class NotFittedError(SDMADError):
    """A result was asked for before `fit`."""


class GenerationError(SDMADError):
    """A language model's server gave no usable sign bank."""


class DownloadError(SDMADError):
    """A file of a public data set could not be fetched whole."""


class CheckpointError(SDMADError):
    """A run cannot be continued from its checkpoint."""


class OutputError(SDMADError):
    """A result cannot be written."""
