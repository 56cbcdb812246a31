"""One DICOM file by pydicom: its header, its patient and view; its pixels are in `pixels.py`."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from sdmad_lite.data.dicom import dicom_start
from sdmad_lite.data.paths import check_file, reading
from sdmad_lite.data.pictures import MAX_PIXELS
from sdmad_lite.data.table import ImageTable
from sdmad_lite.errors import DataError, MissingExtraError, needs, note

from .pixels import color, decoded, grey, number, square

HEADER = {"PatientID": "patient_id", "PatientSex": "sex", "PatientAge": "age", "ViewPosition": "view"}
"""What `dicom_meta` reads, and the column of META it fills."""

GREY = ("MONOCHROME1", "MONOCHROME2")
KINDS = {1: (*GREY, "PALETTE COLOR"), 3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")}
"""Photometric interpretations that are read, by the number of samples of a pixel."""

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
PARTS = ("FrameVOILUTSequence", "PixelValueTransformationSequence", "PixelMeasuresSequence")
"""Where enhanced files have window, rescale and spacing, which plain ones have in the header."""

USUAL = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
    "PlanarConfiguration": 0,
}
"""What an old file may leave out."""


def read_dicom(path: str | Path) -> Image.Image:
    """One DICOM image as 8-bit grey (mode L), or RGB where the file has colours.

    Raises:
        DataError: no DICOM, no image in it, several frames, truncated, implausible, or a compression that cannot be
            unpacked here; names the file.
        MissingExtraError: pydicom is not installed.
    """
    path = Path(path)
    with _pydicom(path) as (pydicom, _):
        header = pydicom.dcmread(path, defer_size=1 << 16, force=True)  # leaves the pixels on disk until wanted
        _complete(header)
        _check_header(path, header)
        stored = decoded(path, header)
        flat = number(header, "RescaleSlope", 1) == 0
        shown = (grey if header.PhotometricInterpretation in GREY else color)(stored, header)
        image = square(Image.fromarray(shown), header)
    if flat:
        note("RescaleSlope 0, read as slope 1", str(path))
    return image


def dicom_meta(path: str | Path) -> dict[str, str]:
    """What a DICOM header states of the columns patient_id, sex, age (years) and view; errors as of `read_dicom`."""
    path = Path(path)
    with _pydicom(path) as (pydicom, _):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER), force=True)
        stated = {column: str(header.get(name) or "").strip() for name, column in HEADER.items()}
    age = re.fullmatch(r"(\d+)([YMWD])", stated["age"].upper())  # 045Y, 018M, 003W, 010D
    stated["age"] = str(int(age[1]) // {"Y": 1, "M": 12, "W": 52, "D": 365}[age[2]]) if age else ""
    return {column: value for column, value in stated.items() if value}


def is_document(path: str | Path) -> bool:
    """Whether a DICOM file is a report, plan or index: it has no pixels and says that it is something else.

    A damaged image is none, so that it is refused by name when it is read.
    """
    try:
        with _pydicom(Path(path)) as (pydicom, meta):
            kind = meta.get("MediaStorageSOPClassUID")
            if kind and "Image" in kind.name:  # of most files, which need not be read further
                return False
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "SOPClassUID"], force=True)
            kind = header.get("SOPClassUID") or kind
            return "Rows" not in header and kind is not None and kind.name != kind and "Image" not in kind.name
    except (DataError, MissingExtraError):
        return False


def with_dicom_meta(table: ImageTable) -> ImageTable:
    """A table of DICOM files with the columns that it lacks and every header states.

    A patient known for half of the images is no base for a split. One PatientID shared by all images is what
    anonymising leaves behind and counts as none.
    """
    missing = [column for column in HEADER.values() if column not in table.meta]
    if not missing:
        return table
    stated = [dicom_meta(path) for path in table.images]
    found = {column: tuple(one.get(column, "") for one in stated) for column in missing}
    if len(stated) > 1 and len(set(found.get("patient_id", ()))) == 1:
        del found["patient_id"]
    return replace(table, meta=table.meta | {column: values for column, values in found.items() if all(values)})


# The header


def _complete(header) -> None:
    """What an old file leaves out and an enhanced one has elsewhere comes to where others have it."""
    uid = needs("pydicom.uid", "dicom")
    if not header.file_meta.get("TransferSyntaxUID"):
        implicit, little = header.original_encoding
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        header.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
    for name, usual in USUAL.items():
        header.setdefault(name, usual)
    header.PhotometricInterpretation = str(header.PhotometricInterpretation).strip().upper()
    for group in GROUPS:
        for frame in (header.get(group) or [])[:1]:
            for part in PARTS:
                for values in (frame.get(part) or [])[:1]:
                    header.update(values)


def _check_header(path: Path, header) -> None:
    """Everything that can be refused before pixels are decoded."""
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    rows, columns, kind = (header.get(name) for name in ("Rows", "Columns", "PhotometricInterpretation"))
    names = [name for form in ("", "Float", "DoubleFloat") if (name := f"{form}PixelData") in header]
    lost = f"declares {rows} x {columns} pixels, but none are found in it; export it again"
    if rows is None or columns is None:
        problem = f"holds no image ({header.get('Modality') or 'unknown modality'}); remove it from the set"
    elif not names:
        problem = lost
    elif frames > 1:
        problem = f"has {frames} frames; export the frame or slice to use as a file of its own"
    elif not 0 < rows * columns <= MAX_PIXELS:
        problem = f"declares {rows} x {columns} pixels; at most {MAX_PIXELS:,} are read"
    elif kind not in KINDS.get(samples, ()):
        problem = f"photometric interpretation {kind!r} with {samples} samples is not read; convert it"
    elif not header[names[0]].value:
        problem = lost
    elif header[names[0]].is_undefined_length and not header.file_meta.TransferSyntaxUID.is_compressed:
        problem = "the DICOM header names no transfer syntax; export the file again"
    else:
        return
    raise DataError(f"{path}: {problem}")


# The file


@contextmanager
def _pydicom(path: Path) -> Iterator[tuple[Any, Any]]:
    """The module pydicom and the file's meta header; what a damaged file makes it raise becomes a DataError."""
    pydicom = needs("pydicom", "dicom")
    check_file(path)
    remedy = "it may be damaged, copy or export it again"
    with _quiet(), reading(path, remedy, " as DICOM"):
        with path.open("rb") as stream:
            if (start := dicom_start(path)) is None:
                what = "is no DICOM file (no DICM after 128 bytes); correct its ending, or export it again"
                raise DataError(f"{path}: {what}")
            stream.seek(start)
            meta = pydicom.filereader.read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
        if meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
            raise DataError(f"{path}: is a deflated DICOM, which can unpack to any size; inflate it: dcmconv +te")
        yield pydicom, meta


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what pydicom warns of and logs in this thread: values that many scanners write wrong (those used are
    checked), and tracebacks of decoders, of which the error has the line that counts.
    """
    needs("pydicom.pixels", "dicom")  # with it all of its loggers are there
    here = threading.get_ident()
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith("pydicom")]

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    for logger in loggers:
        logger.addFilter(elsewhere)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(elsewhere)
