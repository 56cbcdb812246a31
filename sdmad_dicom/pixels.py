"""DICOM pixels to 8 bits as a viewer shows them, by pydicom's own functions, and what those need mended before.

Grey pixels go the way the standard gives (PS3.3 C.11.1, C.11.2, C.11.6): modality LUT or rescale slope and intercept,
then the first VOI LUT or window, then MONOCHROME1 or the shape INVERSE is turned round once, so that bright is always
bright; padding is black. Without a usable window [ours]: pixels of up to 8 bits stay as stored; others are stretched
between their percentiles 0.5 and 99.5, so that a burnt-in letter or a collimator edge does not set the contrast.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from sdmad_lite.data.pictures import MAX_PIXELS, stretched
from sdmad_lite.errors import DataError, needs, note

JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""Transfer syntaxes of lossy JPEG, whose streams say themselves what their colours are."""

TOOLS = {"4.5": "dcmdjpeg", "4.7": "dcmdjpeg", "4.8": "dcmdjpls", "4.9": "gdcmconv --raw"}
"""What unpacks JPEG, JPEG-LS and JPEG 2000, by what stands in the transfer syntax after 1.2.840.10008.1.2."""


def number(header, name: str, empty: float) -> float:
    """The first value of an entry, `empty` where it has none."""
    values = np.ravel(header.get(name))
    try:
        return empty if not len(values) or values[0] in (None, "") else float(values[0])
    except ValueError:
        raise ValueError(f"{name} is {str(values[0])!r}, which is no number") from None


def decoded(path: Path, header) -> np.ndarray:
    """Stored values, (H, W) or (H, W, 3) with YBR already RGB."""
    syntax = header.file_meta.TransferSyntaxUID
    try:
        stored = _jpeg(header) if syntax in JPEG and header.SamplesPerPixel == 3 else _pixels(header)
    except Exception as error:  # damaged streams make decoders raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()  # the decoder's own line
        raise DataError(
            f"{path}: its pixels cannot be decoded ({syntax.name}, {syntax}: {reason}); {_advice(syntax)}"
        ) from None
    if not syntax.is_compressed and _beyond(header):
        note("more bits than the header declares for a pixel, the upper ones passed over", str(path))
    if stored.shape not in ((header.Rows, header.Columns), (header.Rows, header.Columns, 3)):
        raise DataError(f"{path}: its pixels have shape {stored.shape}, not what the header says; export it again")
    return stored


def _beyond(header) -> bool:
    """Whether whole numbers of 16 bits without a sign hold more than BitsStored, from the lowest bit, can say."""
    if header.BitsAllocated != 16 or header.PixelRepresentation or header.get("HighBit") != header.BitsStored - 1:
        return False
    words = np.frombuffer(header.PixelData, "<u2" if header.original_encoding[1] else ">u2", len(header.PixelData) // 2)
    return bool(len(words) and words.max() >> header.BitsStored)


def _advice(syntax) -> str:
    """What may help where pixels cannot be decoded; pydicom says which packages it misses for it."""
    if not syntax.is_compressed:
        return "copy the file again if it is damaged"
    try:
        decoder = needs("pydicom.pixels", "dicom").get_decoder(syntax)
        ways = ["copy the file again if it is damaged"] if decoder.is_available else []
        missing = sorted(line for line in decoder.missing_dependencies if line.startswith("py"))
    except NotImplementedError:
        ways, missing = [], []
    for line in missing[:1]:
        ways.append(f"install its decoder (pip install {' '.join(re.findall('py[a-z-]+(?=>)', line))})")
    tool = TOOLS.get(syntax[18:21])
    last = f"unpack it: {tool}" if tool else "export it uncompressed, or one frame of a film as PNG"
    return ", or ".join([*ways, last])


def _pixels(header) -> np.ndarray:
    """As pydicom decodes them, but for what it takes the header's word for.

    JPEG 2000 may have turned RGB into its own colours, and then gives RGB whatever the header says. Of a word pydicom
    takes the lowest bits; old files may have theirs on top.
    """
    decode, syntax = needs("pydicom.pixels", "dicom").pixel_array, header.file_meta.TransferSyntaxUID
    bits, top = (header.get(name) or 0 for name in ("BitsStored", "HighBit"))
    if "JPEG 2000" in syntax.name and header.PhotometricInterpretation.startswith("YBR_FULL"):
        style = header.PixelData.partition(b"\xff\x52")[2][:7]  # of coding: length, flags, order, layers, own colours
        header.PhotometricInterpretation = "YBR_ICT" if style[6:] == b"\1" else "YBR_FULL"
    if not 0 < bits <= top < header.BitsAllocated or syntax.is_compressed:
        return decode(header)
    header.BitsStored = top + 1
    stored, header.BitsStored = decode(header) >> (top + 1 - bits), bits
    return stored


def _jpeg(header) -> np.ndarray:
    """Lossy JPEG in colour as libjpeg reads it: whether it is RGB or YCbCr stands in the stream, if anywhere.

    Where nothing there tells, which is a stream without marks, with other numbers of components than 1, 2 and 3, and
    without thinned-out colours, the header counts.
    """
    stream = needs("pydicom.encaps", "dicom").get_frame(header.PixelData, 0, number_of_frames=1)
    image = Image.open(io.BytesIO(stream), formats=["JPEG"])
    if image.size != (header.Columns, header.Rows):
        raise ValueError(f"the stream has {image.height} x {image.width} pixels")
    parts = getattr(image, "layer", [])  # (number, how often across and down, ...) of each component
    told = {"jfif", "adobe_transform"} & set(image.info) or bytes(p[0] for p in parts) in (b"\1\2\3", b"RGB", b"rgb")
    if header.PhotometricInterpretation == "RGB" and not told and len({p[1:3] for p in parts}) == 1:
        image.draft("YCbCr", image.size)  # the components as they are
    return np.asarray(image)


def grey(stored: np.ndarray, header) -> np.ndarray:
    """Stored values (H, W) as (H, W) uint8, bright is bright."""
    pixels, bits, whole = needs("pydicom.pixels", "dicom"), number(header, "BitsStored", 64), stored.dtype.kind != "f"
    inside, finite = _inside(stored, header), np.isfinite(stored)
    luts = {name: (header.get(name) or [None])[0] for name in ("ModalityLUTSequence", "VOILUTSequence")}
    luts = {name: lut for name, lut in luts.items() if lut and lut.get("LUTDescriptor") and lut.get("LUTData")}
    slope = number(header, "RescaleSlope", 1) or 1
    if lut := luts.get("ModalityLUTSequence"):
        _mend(lut, "LUT", stored, header)
        values = pixels.apply_modality_lut(stored.astype(np.int64), header)
    else:
        values = np.where(finite, stored, 0) * slope + number(header, "RescaleIntercept", 0)
    if not (np.isfinite(values).all() and finite.any()):
        raise ValueError("pixel values or the rescale slope are not finite")
    # a window maps to the range that the header declares for its values: from here on that is 8 bits, 0 to 255
    for name in ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"):
        header.pop(name, None)
    header.BitsStored, header.PixelRepresentation = 8, 0
    if lut := luts.get("VOILUTSequence"):
        highest = _mend(lut, "LUT", values, header)
        count, first, _ = lut.LUTDescriptor
        within = np.clip(np.rint(values), first, first + (count or 2**16) - 1).astype(np.int64)
        # as viewers do: the highest entry says how deep the table is
        shown = pixels.apply_voi(within, header) * (255 / (2 ** max(8, highest.bit_length()) - 1))
    elif _has_window(header, whole, slope):
        shown = pixels.apply_windowing(values, header)
    elif bits <= 8 and stored.dtype.kind == "u" and np.array_equal(values, stored):
        shown = stored * (255 / (2**bits - 1))
    else:
        shown = stretched(values, inside)
    shown = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    inverse = str(header.get("PresentationLUTShape")).strip().upper() == "INVERSE"
    return np.where(inside, 255 - shown if inverse or header.PhotometricInterpretation == "MONOCHROME1" else shown, 0)


def _inside(stored: np.ndarray, header) -> np.ndarray:
    """(H, W) bool, False where there is padding: its value or range, or no finite number."""
    form = {"f4": "Float", "f8": "DoubleFloat"}.get(stored.dtype.str[1:], "")
    ends = [number(header, f"{form}PixelPadding{name}", np.nan) for name in ("Value", "RangeLimit")]
    if not form:  # often written as signed where the pixels are not, or the other way round
        size = 2**header.BitsAllocated
        half = size // 2 * header.PixelRepresentation
        ends = [(end + half) % size - half for end in ends]
    padding = stored == ends[0]
    if np.isfinite(ends).all():
        padding = (stored >= min(ends)) & (stored <= max(ends))
    finite = np.isfinite(stored)
    return finite & ~padding if (finite & ~padding).any() else finite


def _mend(holder, name: str, values: np.ndarray, header) -> int:
    """Make a table one that pydicom reads right, whatever its descriptor says; the highest entry.

    pydicom takes the declared depth for that of its index, swaps no bytes of a palette, and wants as many entries as
    were declared. Entries of 8 bits may share a word; a negative first value is often written without its sign.
    """
    (count, first, _), data = map(int, holder[f"{name}Descriptor"].value), holder[f"{name}Data"]
    content, count = data.value, count % 2**16 or 2**16
    if not isinstance(content, bytes):
        content = np.ravel(content).astype("<u2").tobytes()
    elif data.VR != "OB" and not header.original_encoding[1]:
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    form = np.dtype("u1" if len(content) == count + count % 2 else "<u2")
    entries = np.frombuffer(content, form, min(len(content) // form.itemsize, count)).astype("<u2")
    first -= 2**16 if first >= 2**15 and first > values.max() else 0
    data.VR, data.value, holder[f"{name}Descriptor"].value = "OW", entries.tobytes(), [len(entries) % 2**16, first, 16]
    header.file_meta.TransferSyntaxUID = needs("pydicom.uid", "dicom").ExplicitVRLittleEndian  # of tables from here on
    return int(entries.max())


def _has_window(header, whole: bool, slope: float) -> bool:
    """Whether both numbers are there and describe a window; an empty one or of no width counts as none.

    The default function is one of `whole` numbers: it takes half a step off. Others, or narrow ones, have no steps.
    """
    center, width = (number(header, name, np.nan) for name in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction")).strip().upper()
    if function not in ("SIGMOID", "LINEAR_EXACT"):
        function = "LINEAR_EXACT" if not whole or (width < 1 and slope % 1) else "LINEAR"
    header.VOILUTFunction = function
    return bool(np.isfinite([center, width]).all()) and (width >= 1 or (width > 0 and function != "LINEAR"))


def color(stored: np.ndarray, header) -> np.ndarray:
    """Stored values (H, W, 3), or (H, W) of a palette, as (H, W, 3) uint8."""
    bits = int(header.BitsStored)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        names, have = [f"{name}PaletteColorLookupTable" for name in ("Red", "Green", "Blue")], {*header.dir()}
        if any(
            f"{name}Descriptor" not in header or not {f"{name}Data", f"Segmented{name}Data"} & have for name in names
        ):
            raise ValueError("its palette is missing")
        if f"{names[0]}Data" in header:
            highest = max(_mend(header, name, stored, header) for name in names)
            bits = next(bits for bits in (8, 12, 16) if highest < 2**bits)
        else:
            count, first, bits = map(int, header[f"{names[0]}Descriptor"].value)
            if bits == 8 and 0 < count <= 256 and header.original_encoding[1]:
                stored = np.clip(stored, first, first + count - 1)  # which pydicom indexes by 8 bits
            elif bits != 16:
                raise ValueError("a segmented palette of this depth or byte order is not read")
        stored = needs("pydicom.pixels", "dicom").apply_color_lut(stored, header)[..., :3]
    return np.ascontiguousarray(stored if bits <= 8 else stored >> (bits - 8), dtype=np.uint8)


def square(image: Image.Image, header) -> Image.Image:
    """As a viewer draws pixels that are not square: more of them along their longer side. Beyond 1:10 is no ratio."""
    for name in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        down, across = (*(float(side) for side in np.ravel(header.get(name) or ()) if side), 0.0, 0.0)[:2]
        if down > 0 < across:
            size = round(image.width * max(1, across / down)), round(image.height * max(1, down / across))
            odd = 1.02 < max(down / across, across / down) < 10 and size[0] * size[1] <= MAX_PIXELS
            return image.resize(size, Image.Resampling.BILINEAR) if odd else image
    return image
