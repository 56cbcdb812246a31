"""DICOM: one frame to 8 bits by pydicom, and what the header says about patient and view.

Grey pixels go the way the standard gives (PS3.3 C.11.1, C.11.2): modality LUT or rescale slope and intercept,
then the first VOI LUT or window, then MONOCHROME1 is turned round, so that bright is always bright. Without
a usable window [our choice]: 8-bit pixels stay as stored; others are stretched between their percentiles
0.5 and 99.5, so that a burnt-in letter or a collimator edge does not set the contrast.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from .table import ImageTable

DICOM_ENDINGS = (".dcm", ".dicom")
MAX_PIXELS = 100_000_000
"""Of one image; a mammogram has 20 million. More is refused before it is unpacked."""

HEADER = {"PatientID": "patient_id", "PatientSex": "sex", "PatientAge": "age", "ViewPosition": "view"}
"""What `dicom_meta` reads, and the column of META it fills."""


def is_dicom(path: str | Path) -> bool:
    """By the ending .dcm or .dicom, or by the letters DICM after 128 bytes, whatever the file is called."""
    path = Path(path)
    if path.suffix.lower() in DICOM_ENDINGS:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | Path) -> Image.Image:
    """One DICOM image as 8-bit grey (mode L), or RGB where the file has colours.

    Raises:
        DataError: no DICOM, no image in it, several frames, a compression that cannot be unpacked here,
            truncated or implausible; the message names the file.
    """
    from pydicom import dcmread

    path = Path(path)
    with _named(path):
        _check_header(path, dcmread(path, stop_before_pixels=True, specific_tags=_LAYOUT))
        header = dcmread(path)
        if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            kind = header.get("Modality") or "unknown modality"
            raise DataError(f"{path}: holds no image ({kind}); remove it from the set")
        pixels = _decoded(path, header)
        if header.PhotometricInterpretation.startswith("MONOCHROME"):
            return Image.fromarray(_grey(pixels, header))
        return Image.fromarray(_color(pixels, header))


def dicom_meta(path: str | Path) -> dict[str, str]:
    """Columns of META that a DICOM header fills: patient_id, sex, age (years) and view, where it states them.

    Raises:
        DataError: the file is no DICOM.
    """
    from pydicom import dcmread

    path = Path(path)
    with _named(path):
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER))
        stated = {column: str(header.get(name) or "").strip() for name, column in HEADER.items()}
    age = re.fullmatch(r"(\d+)([YMWD])", stated["age"].upper())  # 045Y, 018M, 003W, 010D
    stated["age"] = str(int(age[1]) // {"Y": 1, "M": 12, "W": 52, "D": 365}[age[2]]) if age else ""
    return {column: value for column, value in stated.items() if value}


def with_dicom_meta(table: ImageTable) -> ImageTable:
    """The table with the columns that DICOM headers fill and that it lacks.

    A column is added only where every image is a DICOM file that states it: a patient known for half of
    the images is no base for a split. One PatientID shared by all images is what anonymising leaves behind and
    counts as none.
    """
    if not all(isinstance(image, Path) and is_dicom(image) for image in table.images):
        return table
    if set(HEADER.values()) <= set(table.meta):
        return table
    stated = [dicom_meta(path) for path in table.images]
    meta = dict(table.meta)
    for column in HEADER.values():
        values = tuple(one.get(column, "") for one in stated)
        anonymised = column == "patient_id" and len(values) > 1 and len(set(values)) == 1
        if column not in meta and all(values) and not anonymised:
            meta[column] = values
    return replace(table, meta=meta)


_LAYOUT = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "Modality"]


def _check_header(path: Path, header) -> None:
    """Everything that can be refused before pixels are read."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise DataError(f"{path}: the DICOM header names no transfer syntax; export the file again")
    if header.get("Rows") is None or header.get("Columns") is None:
        raise DataError(f"{path}: holds no image ({header.get('Modality') or 'no rows, no columns'}); remove it")
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    if frames > 1:
        raise DataError(f"{path}: has {frames} frames; export the frame or slice to use as a file of its own")
    if not 0 < header.Rows * header.Columns <= MAX_PIXELS:
        raise DataError(f"{path}: declares {header.Rows} x {header.Columns} pixels; at most {MAX_PIXELS:,} are read")
    kinds = {1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 3: ("RGB", "YBR_FULL", "YBR_FULL_422")}
    kinds[3] += ("YBR_RCT", "YBR_ICT")
    kind = header.get("PhotometricInterpretation")
    if kind not in kinds.get(samples, ()):
        raise DataError(f"{path}: photometric interpretation {kind!r} with {samples} samples is not read; convert it")


def _decoded(path: Path, header) -> np.ndarray:
    """Stored values, (H, W) or (H, W, 3) with YBR already RGB."""
    from pydicom.pixels import get_decoder, pixel_array

    syntax = header.file_meta.TransferSyntaxUID
    remedy = "unpack the file (gdcmconv --raw) or install decoders (pip install pylibjpeg pylibjpeg-libjpeg)"
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise DataError(f"{path}: transfer syntax {syntax.name} ({syntax}) cannot be decoded here; {remedy}")
    try:
        pixels = pixel_array(header)
    except Exception as error:  # damaged streams make decoders raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()  # the decoder's own line
        hint = f"it may be damaged: copy it again, or {remedy}" if syntax.is_compressed else "copy it again"
        raise DataError(f"{path}: its pixels cannot be decoded ({syntax.name}: {reason}); {hint}") from None
    if pixels.shape[:2] != (header.Rows, header.Columns):
        raise DataError(f"{path}: its pixels have shape {pixels.shape}, not what the header says; export it again")
    return pixels


def _grey(stored: np.ndarray, header) -> np.ndarray:
    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

    luts = [*(header.get("ModalityLUTSequence") or [])[:1], *(header.get("VOILUTSequence") or [])[:1]]
    depths = [int(lut.LUTDescriptor[2]) for lut in luts]
    for lut in luts:
        lut.LUTDescriptor[2] = 16  # pydicom indexes in the type of this depth, too small for 4096 entries of 8 bits
    values = apply_modality_lut(stored, header)
    if not np.isfinite(values).all():
        raise ValueError("pixel values or the rescale slope are not finite")
    if header.get("VOILUTSequence"):
        shown = apply_voi(np.rint(values).astype(np.int64), header) * (255 / (2 ** depths[-1] - 1))
    elif _has_window(header):
        voi = Dataset()  # declared as 8 bits, so that the window's range is 0 to 255
        voi.PhotometricInterpretation, voi.BitsStored, voi.PixelRepresentation = "MONOCHROME2", 8, 0
        voi.WindowCenter, voi.WindowWidth = header.WindowCenter, header.WindowWidth
        voi.VOILUTFunction = header.get("VOILUTFunction") or "LINEAR"
        shown = apply_windowing(values, voi)
    elif stored.dtype == np.uint8 and np.array_equal(values, stored):
        shown = stored * (255 / (2 ** int(header.BitsStored) - 1))
    else:
        shown = _stretched(values, stored != header.get("PixelPaddingValue", None))
    shown = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    return 255 - shown if header.PhotometricInterpretation == "MONOCHROME1" else shown


def _has_window(header) -> bool:
    """Whether both numbers are there and describe a window; an empty one or of no width counts as none."""
    from pydicom.multival import MultiValue

    first = [header.get(name) for name in ("WindowCenter", "WindowWidth")]
    first = [(value or [None])[0] if isinstance(value, MultiValue) else value for value in first]
    if None in first or "" in first or not np.isfinite([float(value) for value in first]).all():
        return False
    return float(first[1]) >= 1 or (float(first[1]) > 0 and header.get("VOILUTFunction", "LINEAR") != "LINEAR")


def _stretched(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Percentiles 0.5 and 99.5 of the values `inside` become 0 and 255; padding does not count."""
    counted = values[inside] if inside.any() else values.ravel()
    low, high = np.percentile(counted, [0.5, 99.5])
    if low == high:  # a small bright thing on an even ground
        low, high = counted.min(), counted.max()
    return (values.astype(np.float64) - low) * (255 / (high - low)) if high > low else np.zeros(values.shape)


def _color(stored: np.ndarray, header) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    bits = int(header.BitsStored)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        stored, bits = apply_color_lut(stored, header)[..., :3], int(header.RedPaletteColorLookupTableDescriptor[2])
    return np.ascontiguousarray(stored if bits <= 8 else stored >> (bits - 8), dtype=np.uint8)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file makes pydicom raise into a DataError that names the file.

    Warnings are about header values that break a rule of the standard, which many scanners write; the
    values used here are checked.
    """
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if not os.path.isfile(path):  # unlike Path.is_file, also for a name too long or with a zero byte
        raise DataError(f"{path}: no such image file; correct the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                raise DataError(f"{path}: is a deflated DICOM, which can unpack to any size; inflate it: dcmconv +te")
            yield
    except DataError:
        raise
    except InvalidDicomError:
        raise DataError(
            f"{path}: is no DICOM file (no DICM after 128 bytes); correct its ending, or export it again"
        ) from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: cannot be read as DICOM ({reason}); it may be damaged, copy or export it again"
        ) from None
