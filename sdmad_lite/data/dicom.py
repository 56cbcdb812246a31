"""DICOM: one frame to 8 bits by pydicom (extra [dicom]), and what the header says about patient and view.

Grey pixels go the way the standard gives (PS3.3 C.11.1, C.11.2): modality LUT or rescale slope and intercept,
then the first VOI LUT or window, then MONOCHROME1 is turned round, so that bright is always bright. Without
a usable window [ours]: 8-bit pixels stay as stored; others are stretched between their percentiles
0.5 and 99.5, so that a burnt-in letter or a collimator edge does not set the contrast.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError, needs
from .paths import check_file, reading
from .table import ImageTable

DICOM_ENDINGS = (".dcm", ".dicom")
MAX_PIXELS = 100_000_000
"""Of one image; a mammogram has 20 million. More is refused before it is unpacked."""

HEADER = {"PatientID": "patient_id", "PatientSex": "sex", "PatientAge": "age", "ViewPosition": "view"}
"""What `dicom_meta` reads, and the column of META it fills."""

GREY = ("MONOCHROME1", "MONOCHROME2")
KINDS = {1: (*GREY, "PALETTE COLOR"), 3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")}
"""Photometric interpretations that are read, by the number of samples of a pixel."""


def is_dicom(path: str | Path) -> bool:
    """By the ending, or by the letters DICM after 128 bytes, whatever the file's name; it does not need pydicom."""
    if Path(path).suffix.lower() in DICOM_ENDINGS:
        return True
    try:
        with Path(path).open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | Path) -> Image.Image:
    """One DICOM image as 8-bit grey (mode L), or RGB where the file has colours.

    Raises:
        DataError: no DICOM, no image in it, several frames, truncated, implausible, or a compression that cannot be
            unpacked here; names the file.
        MissingExtraError: pydicom is not installed.
    """
    path = Path(path)
    with _pydicom(path) as pydicom:
        header = pydicom.dcmread(path, defer_size=1 << 16)  # leaves the pixels on disk until they are wanted
        _check_header(path, header)
        stored = _decoded(path, header)
        return Image.fromarray((_grey if header.PhotometricInterpretation in GREY else _color)(stored, header))


def dicom_meta(path: str | Path) -> dict[str, str]:
    """What a DICOM header states of the columns patient_id, sex, age (years) and view; errors as of `read_dicom`."""
    path = Path(path)
    with _pydicom(path) as pydicom:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER))
        stated = {column: str(header.get(name) or "").strip() for name, column in HEADER.items()}
    age = re.fullmatch(r"(\d+)([YMWD])", stated["age"].upper())  # 045Y, 018M, 003W, 010D
    stated["age"] = str(int(age[1]) // {"Y": 1, "M": 12, "W": 52, "D": 365}[age[2]]) if age else ""
    return {column: value for column, value in stated.items() if value}


def with_dicom_meta(table: ImageTable) -> ImageTable:
    """The table with the columns that it lacks and every image's DICOM header states.

    A patient known for half of the images is no base for a split. One PatientID shared by all images is what
    anonymising leaves behind and counts as none.
    """
    missing = [column for column in HEADER.values() if column not in table.meta]
    if not missing or not all(isinstance(image, Path) and is_dicom(image) for image in table.images):
        return table
    stated = [dicom_meta(path) for path in table.images]
    found = {column: tuple(one.get(column, "") for one in stated) for column in missing}
    if len(stated) > 1 and len(set(found.get("patient_id", ()))) == 1:
        del found["patient_id"]
    return replace(table, meta=table.meta | {column: values for column, values in found.items() if all(values)})


def _check_header(path: Path, header) -> None:
    """Everything that can be refused before pixels are read."""
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    rows, columns, kind = (header.get(name) for name in ("Rows", "Columns", "PhotometricInterpretation"))
    pixels = any(f"{form}PixelData" in header for form in ("", "Float", "DoubleFloat"))
    if header.file_meta.get("TransferSyntaxUID") is None:
        problem = "the DICOM header names no transfer syntax; export the file again"
    elif rows is None or columns is None or not pixels:
        problem = f"holds no image ({header.get('Modality') or 'unknown modality'}); remove it from the set"
    elif frames > 1:
        problem = f"has {frames} frames; export the frame or slice to use as a file of its own"
    elif not 0 < rows * columns <= MAX_PIXELS:
        problem = f"declares {rows} x {columns} pixels; at most {MAX_PIXELS:,} are read"
    elif kind not in KINDS.get(samples, ()):
        problem = f"photometric interpretation {kind!r} with {samples} samples is not read; convert it"
    else:
        return
    raise DataError(f"{path}: {problem}")


def _decoded(path: Path, header) -> np.ndarray:
    """Stored values, (H, W) or (H, W, 3) with YBR already RGB."""
    syntax = header.file_meta.TransferSyntaxUID
    try:
        stored = needs("pydicom.pixels", "dicom").pixel_array(header)
    except Exception as error:  # damaged streams make decoders raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()  # the decoder's own line
        hint = "copy the file again if it is damaged"
        if syntax.is_compressed:
            hint += ", or unpack it (gdcmconv --raw), or install decoders (pip install pylibjpeg pylibjpeg-libjpeg)"
        raise DataError(f"{path}: its pixels cannot be decoded ({syntax.name}, {syntax}: {reason}); {hint}") from None
    if stored.shape[:2] != (header.Rows, header.Columns):
        raise DataError(f"{path}: its pixels have shape {stored.shape}, not what the header says; export it again")
    return stored


def _grey(stored: np.ndarray, header) -> np.ndarray:
    """Stored values (H, W) as (H, W) uint8, bright is bright."""
    pixels, bits = needs("pydicom.pixels", "dicom"), int(header.BitsStored)
    voi = (header.get("VOILUTSequence") or [])[:1]
    depths = [int(lut.LUTDescriptor[2]) for lut in voi]
    for lut in [*(header.get("ModalityLUTSequence") or [])[:1], *voi]:
        lut.LUTDescriptor[2] = 16  # pydicom indexes in the type of this depth, too small for 4096 entries of 8 bits
    values = pixels.apply_modality_lut(stored, header)
    if not np.isfinite(values).all():
        raise ValueError("pixel values or the rescale slope are not finite")
    # a window maps to the range that the header declares for its values: from here on that is 8 bits, 0 to 255
    for name in ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"):
        header.pop(name, None)
    header.BitsStored, header.PixelRepresentation = 8, 0
    header.VOILUTFunction = header.get("VOILUTFunction") or "LINEAR"
    if voi:
        shown = pixels.apply_voi(np.rint(values).astype(np.int64), header) * (255 / (2 ** depths[0] - 1))
    elif _has_window(header):
        shown = pixels.apply_windowing(values, header)
    elif stored.dtype == np.uint8 and np.array_equal(values, stored):
        shown = stored * (255 / (2**bits - 1))
    else:
        shown = _stretched(values, stored != header.get("PixelPaddingValue", None))
    shown = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    return 255 - shown if header.PhotometricInterpretation == "MONOCHROME1" else shown


def _has_window(header) -> bool:
    """Whether both numbers are there and describe a window; an empty one or of no width counts as none."""
    try:  # one number, or several windows of which the first counts
        center, width = (float(np.ravel(header.get(name))[0]) for name in ("WindowCenter", "WindowWidth"))
    except (TypeError, ValueError, IndexError):
        return False
    wide = width >= 1 or (width > 0 and header.VOILUTFunction != "LINEAR")
    return wide and bool(np.isfinite([center, width]).all())


def _stretched(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Percentiles 0.5 and 99.5 of the values `inside` become 0 and 255; padding does not count."""
    counted = values[inside] if inside.any() else values.ravel()
    low, high = np.percentile(counted, [0.5, 99.5])
    if low == high:  # a small bright thing on an even ground
        low, high = counted.min(), counted.max()
    return (values.astype(np.float64) - low) * (255 / (high - low)) if high > low else np.zeros(values.shape)


def _color(stored: np.ndarray, header) -> np.ndarray:
    """Stored values (H, W, 3), or (H, W) of a palette, as (H, W, 3) uint8."""
    bits = int(header.BitsStored)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        stored = needs("pydicom.pixels", "dicom").apply_color_lut(stored, header)[..., :3]
        bits = int(header.RedPaletteColorLookupTableDescriptor[2])
    return np.ascontiguousarray(stored if bits <= 8 else stored >> (bits - 8), dtype=np.uint8)


@contextmanager
def _pydicom(path: Path) -> Iterator[Any]:
    """The module pydicom; whatever a damaged file makes it raise becomes a DataError that names the file."""
    pydicom = needs("pydicom", "dicom")
    check_file(path)
    remedy = "it may be damaged, copy or export it again"
    with warnings.catch_warnings(), reading(path, remedy, " as DICOM"):
        warnings.simplefilter("ignore")  # of values that many scanners write wrong; those used are checked
        try:
            syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        except pydicom.errors.InvalidDicomError:
            what = "is no DICOM file (no DICM after 128 bytes); correct its ending, or export it again"
            raise DataError(f"{path}: {what}") from None
        if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
            raise DataError(f"{path}: is a deflated DICOM, which can unpack to any size; inflate it: dcmconv +te")
        yield pydicom
