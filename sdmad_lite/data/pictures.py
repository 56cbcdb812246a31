"""One picture to 8 bits, as a viewer shows it: upright, bright is bright, see-through parts black.

More than 8 bits of grey are stretched as those of a DICOM file without a window are; what cannot be read as a viewer
would show it is refused.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import DataError, note, noting, renote
from .dicom import is_dicom
from .paths import check_file, reading

MAX_PIXELS = 100_000_000
"""Of one image; a mammogram has 20 million. More is refused before it is unpacked."""

FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""What is opened, by content. Others that Pillow knows are left out: some start another program (EPS)."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
"""Of Pillow, that it turns into RGB."""

ADVICE = "truncated, or nothing that Pillow reads: copy it again, or save it as PNG"
COLOR, DEEP = "in colour, read as grey", "more than 8 bits, stretched between percentiles 0.5 and 99.5"
CLEAR = "see-through, read on black"
BITS, PHOTOMETRIC, ORIENTATION, SAMPLE_FORMAT = 258, 262, 274, 339


@noting()
def read_image(image, color: bool = False, strict: bool = True) -> Image.Image:
    """Open a path, an (H, W), (H, W, 3) or (H, W, 4) uint8 array or a PIL image as 8-bit grey (mode L), or as RGB.

    Args:
        color: whether colours carry meaning in this modality. A grey image stored as RGB is welcome either way.
        strict: refuse a truly coloured one of a grey modality; otherwise it is turned grey, with a remark.

    Raises:
        DataError: missing, empty, truncated, too large, multi-frame or coloured; colours of more than 8 bits, or of a
            kind that has no way to RGB; names the file.
    """
    found = as_stored(image)
    read = found.convert("RGB" if color else "L")
    read.info = {}  # nothing of what was done when the image given was read
    # a scan stored as RGB may have a slight cast, as JPEG leaves it
    if not color and found.mode not in ("L", "1", "LA") and np.ptp(np.asarray(found.convert("RGB")), axis=2).mean() > 4:
        if strict:
            raise _coloured(image)
        note(COLOR, _key(image))
        read.info[COLOR] = True
    return read


@noting()
def read_images(images: Sequence, color: bool = False, strict: bool = True) -> list[Image.Image]:
    """`read_image` of each; a few in colour among grey ones are turned grey, with `strict` most are refused."""
    with noting(say=False) as noted:
        found = [read_image(image, color, strict=False) for image in images]
    odd = [i for i, image in enumerate(found) if COLOR in image.info]
    if strict and 2 * len(odd) > len(found):
        raise _coloured(images[odd[0]])
    renote(noted)
    return found


def as_stored(image) -> Image.Image:
    """An image that `read_image` takes, of 8 bits and upright, in the mode that it has."""
    if isinstance(image, (str, os.PathLike)):
        return _opened(Path(image))
    if isinstance(image, np.ndarray):
        return _plain(_from_array(image), _key(image))
    if isinstance(image, Image.Image):
        with reading("image", "give one that can be loaded", " as an image"):
            return _plain(image, _key(image))
    raise DataError(f"image: expected a path, array or PIL image, not {type(image).__name__}")


def _key(image) -> str | int:
    """What a remark counts an image by: its path, or the object."""
    return str(image) if isinstance(image, (str, os.PathLike)) else id(image)


def _name(key: str | int) -> str:
    return key if isinstance(key, str) else "image"


def _coloured(image) -> DataError:
    advice = 'convert it, or set "color": true in the bank'
    return DataError(f"{_name(_key(image))}: is a colour image, but this modality is grey; {advice}")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        given = f"{array.dtype} {array.shape}"
        raise DataError(f"image: an array must be uint8 of shape (H, W) or (H, W, 3), not {given}")
    if not array.size:
        raise DataError(f"image: the array is empty, its shape is {array.shape}")
    return Image.fromarray(array)


def _opened(path: Path) -> Image.Image:
    check_file(path)
    if is_dicom(path):
        from sdmad_dicom import read_dicom

        return read_dicom(path)
    with warnings.catch_warnings(), reading(path, ADVICE, " as an image"):
        warnings.simplefilter("ignore")  # of odd tags, and of sizes below our limit
        Image.init()  # so that all of FORMATS are known
        try:
            opened = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError:
            raise _large(path) from None
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise _large(path)
            # a JPEG may carry a preview of itself (MPO)
            if (frames := 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)) != 1:
                raise DataError(f"{path}: has {frames} frames; save the one to use as a file of its own")
            return _plain(opened, str(path)).copy()


def _large(path: Path) -> DataError:
    return DataError(f"{path}: has more than {MAX_PIXELS:,} pixels; reduce it, or cut out the part to look at")


def _plain(image: Image.Image, key: str | int) -> Image.Image:
    """Loaded, upright, of 8 bits and without parts that can be seen through; the image given is not changed."""
    name = _name(key)
    _check_depth(image, name)
    if isinstance(image, TiffImageFile) and image.tile and image.filename and image.n_frames == 1:
        # Pillow maps an uncompressed file in the wrong shape where its mark turns it: keep it from doing so
        image = Image.open(io.BytesIO(Path(str(image.filename)).read_bytes()), formats=FORMATS)
    image.load()
    tags = getattr(image, "tag_v2", {})
    try:
        marked = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # a damaged mark is none
        marked = False
    if marked:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise DataError(f"{name}: has pixels that are not finite; replace them, or scale it to 8 bits")
        shown = _narrow(values)
        if shown is None:
            shown = np.clip(np.rint(stretched(values, np.ones(values.shape, bool))), 0, 255).astype(np.uint8)
            note(DEEP, key)
        return Image.fromarray(255 - shown if tags.get(PHOTOMETRIC) == 0 else shown)
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode not in MODES:
        raise DataError(f"{name}: its colours are {image.mode}, which has no way to RGB here; save it as RGB or grey")
    if image.has_transparency_data and np.asarray((clear := image.convert("RGBA")).getchannel("A")).min() < 255:
        note(CLEAR, key)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), clear).convert("RGB")
    return image


def _narrow(values: np.ndarray) -> np.ndarray | None:
    """The 8 bits of a picture that was written with 16 of them, each times 257 or 256; None of any other."""
    for step in (257, 256) if values.dtype.kind in "iu" else ():
        # one that stays far below the top is more likely a coarse one of few bits
        if 0 <= values.min() and 128 * step <= values.max() <= 255 * step and not (values % step).any():
            return (values // step).astype(np.uint8)
    return None


def stretched(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Percentiles 0.5 and 99.5 of the values `inside` become 0 and 255; padding does not count."""
    counted = values[inside] if inside.any() else values.ravel()
    low, high = np.percentile(counted, [0.5, 99.5])
    if low == high:  # a small bright thing on an even ground
        low, high = counted.min(), counted.max()
    return (values.astype(np.float64) - low) * (255 / (high - low)) if high > low else np.zeros(values.shape)


def _check_depth(image: Image.Image, name: str) -> None:
    """Refuse what Pillow would cut to its upper 8 bits, and negative values that it would take for bright ones."""
    if image.mode[0] in "IF":
        return
    raw, tags = [tile.args for tile in getattr(image, "tile", ())], dict(getattr(image, "tag_v2", {}))
    deep = max(np.ravel(tags.get(BITS, 8))) > 8 or (image.format == "PNG" and ";16" in str(raw))
    if image.format == "PPM":
        deep = any(
            isinstance(args, tuple) and max([a for a in args if isinstance(a, int)], default=0) > 255 for args in raw
        )
    signed = 2 in np.ravel(tags.get(SAMPLE_FORMAT, 1))
    if deep or signed:
        what = "signed numbers" if signed else "colours or see-through parts of 16 bits"
        raise DataError(f"{name}: has {what}; save it with 8 bits from 0 to 255")
