"""One image: from a file, an array or a PIL image to 8 bits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from .dicom import is_dicom, read_dicom

FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""What is opened, by content. Others that Pillow knows are left out: some start another program (EPS)."""

ENDINGS = (".png", ".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
"""Of files that a folder is searched for, besides DICOM."""


def read_image(image, color: bool = False) -> Image.Image:
    """Open a path, array or PIL image as 8-bit grey (mode L), or RGB where `color` is true.

    Args:
        image: path of an image or DICOM file; (H, W) or (H, W, 3) uint8 array; or PIL image.
        color: whether colours carry meaning in this modality. A grey image stored as RGB is welcome
            either way; a truly coloured one is refused unless `color` is true.

    Raises:
        DataError: missing, empty, truncated, multi-frame, 16-bit (other than DICOM) or coloured image; the
            message names the file.
    """
    name = str(image) if isinstance(image, (str, Path)) else "image"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise DataError(
                f"image: an array must be uint8 of shape (H, W) or (H, W, 3), not {image.dtype} {image.shape}"
            )
        if not image.size:
            raise DataError(f"image: the array is empty, its shape is {image.shape}")
        image = Image.fromarray(image)
    elif isinstance(image, (str, Path)):
        image = _opened(Path(image))
    if not isinstance(image, Image.Image):
        raise DataError(f"image: expected a path, array or PIL image, not {type(image).__name__}")
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{name}: has more than 8 bits per pixel (mode {image.mode}); window it to 8 bits first")
    if color:
        return image.convert("RGB")
    if image.mode not in ("L", "1", "LA"):
        rgb = np.asarray(image.convert("RGB"), dtype=np.int16)
        if np.ptp(rgb, axis=2).mean() > 4:
            raise DataError(
                f'{name}: is a colour image, but this modality is grey; convert it, or set "color": true in the bank'
            )
    return image.convert("L")


def _opened(path: Path) -> Image.Image:
    if not os.path.isfile(path):  # unlike Path.is_file, also for a name too long or with a zero byte
        raise DataError(f"{path}: no such image file; correct the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy it again")
    if is_dicom(path):
        return read_dicom(path)
    try:
        Image.init()  # so that all of FORMATS are known
        with Image.open(path, formats=FORMATS) as opened:
            # a JPEG may carry a preview of itself (MPO)
            frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
            if frames == 1:
                opened.load()
                return opened.copy()
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        raise DataError(
            f"{path}: cannot be read as an image ({error}); truncated, or no image: copy it again"
        ) from None
    raise DataError(f"{path}: has {frames} frames; save the one to use as a file of its own")
