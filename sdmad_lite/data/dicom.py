"""What is a DICOM file; the companion `sdmad_dicom` reads one."""

from __future__ import annotations

import re
from pathlib import Path

DICOM_ENDINGS = (".dcm", ".dicom")

FIRST = re.compile(rb"[\x02\x08]\0.\0(?:[A-Z]{2}|..\0\0)|\0\x08\0.[A-Z]{2}", re.DOTALL)
"""The first element of a DICOM file without preamble, in any byte order."""


def is_dicom(path: str | Path) -> bool:
    """By the ending, by the letters DICM after 128 bytes, or by the first element; it does not need pydicom."""
    return Path(path).suffix.lower() in DICOM_ENDINGS or dicom_start(path) is not None


def dicom_start(path: str | Path) -> int | None:
    """Where the elements begin, None in what is no DICOM file; 0 in one without the 128 bytes and DICM."""
    try:
        with Path(path).open("rb") as stream:
            first = stream.read(132)
    except OSError:
        return None
    return 132 if first[128:] == b"DICM" else 0 if FIRST.match(first) else None
