"""Images: what a user gives to a list of them, a folder to its files, one image to 8 bits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from .dicom import DICOM_ENDINGS, is_dicom, read_dicom
from .paths import check_file, check_link, check_no_link, reading
from .table import ImageTable

FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""What is opened, by content. Others that Pillow knows are left out: some start another program (EPS)."""

_PLAIN = (".png", ".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
IMAGE_ENDINGS: tuple[str, ...] = (*_PLAIN, *DICOM_ENDINGS)
"""Of files that count as images in a folder, in lower case; a DICOM file may also have no ending."""


def as_images(images) -> tuple[list, bool]:
    """A list of images, and whether ONE was given rather than many.

    One is a path, a PIL image, an array (H, W) or (H, W, 3). Many are an `ImageTable`, an array (N, H, W)
    or (N, H, W, 3), or another iterable of such images. Anything else, and none among many, is a DataError.
    """
    if isinstance(images, (str, Path, Image.Image)):
        return [images], True
    if isinstance(images, ImageTable):
        images = images.images
    if isinstance(images, np.ndarray):
        if images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (3, 4)):
            return [images], True
        # of one dimension: a list of paths that numpy holds
        many = images.dtype.kind in "OU" if images.ndim == 1 else images.ndim == 3 or images.shape[3:] == (3,)
        many = many and images.shape[2:] not in ((1,), (2,))  # one image with channels, not H images of W pixels
        if not many:
            raise DataError(
                f"images: an array of shape {images.shape} is neither an image, (H, W) or (H, W, 3), nor many, "
                "(N, H, W) or (N, H, W, 3)"
            )
    # a set has no order, and the letters of bytes are numbers
    if not isinstance(images, Iterable) or isinstance(images, (Mapping, Set, bytes, bytearray)):
        raise DataError(f"images: expected an image, a table or a list of images, not {type(images).__name__}")
    if not (found := list(images)):
        raise DataError("images: the list is empty; give at least one image")
    return found, False


def walk_images(folder: str | Path, within: str | Path | None = None) -> Iterator[Path]:
    """Image files in a folder and those below it, one at a time, sorted by path; one folder's names are in memory.

    Passed over are names that begin with a dot (.DS_Store, ._0001.png), DICOMDIR (the index of a DICOM disk) and
    links to folders. Where the data set is named by `within`, a link to a folder or to a file outside of it, and an
    image's name that leads to no file, is a DataError, as is always a folder that cannot be read.
    """
    with reading(folder, "change its permissions or leave it out"), os.scandir(folder) as entries:
        # with the slash, so that the order is that of the paths
        names = sorted(e.name + "/" * e.is_dir(follow_symlinks=False) for e in entries if e.name[0] != ".")
    for name in names:
        path, ending = Path(folder, name), os.path.splitext(name)[1].lower()
        if name.endswith("/"):
            yield from walk_images(path, within)
            continue
        if within is not None:
            check_no_link(path)
        if name != "DICOMDIR" and (ending in IMAGE_ENDINGS or (not ending and path.is_file() and is_dicom(path))):
            if within is not None:
                check_link(path, within)
                if not path.is_file():
                    raise DataError(f"{path}: no such image file; correct the link or remove it")
            yield path


def read_image(image, color: bool = False) -> Image.Image:
    """Open a path, an (H, W) or (H, W, 3) uint8 array or a PIL image as 8-bit grey (mode L), with `color` as RGB.

    `color`: whether colours carry meaning in this modality. A grey image stored as RGB is welcome either way; a truly
    coloured one is refused without it.

    Raises:
        DataError: missing, empty, truncated, multi-frame, 16-bit (other than DICOM) or coloured; names the file.
    """
    name = str(image) if isinstance(image, (str, Path)) else "image"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            given = f"{image.dtype} {image.shape}"
            raise DataError(f"image: an array must be uint8 of shape (H, W) or (H, W, 3), not {given}")
        if not image.size:
            raise DataError(f"image: the array is empty, its shape is {image.shape}")
        image = Image.fromarray(image)
    elif isinstance(image, (str, Path)):
        image = _opened(Path(image))
    if not isinstance(image, Image.Image):
        raise DataError(f"image: expected a path, array or PIL image, not {type(image).__name__}")
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{name}: has more than 8 bits per pixel (mode {image.mode}); window it to 8 bits first")
    # a scan stored as RGB may have a slight cast, as JPEG leaves it
    maybe = not color and image.mode not in ("L", "1", "LA")
    if maybe and np.ptp(np.asarray(image.convert("RGB")), axis=2).mean() > 4:
        advice = 'convert it, or set "color": true in the bank'
        raise DataError(f"{name}: is a colour image, but this modality is grey; {advice}")
    return image.convert("RGB" if color else "L")


def _opened(path: Path) -> Image.Image:
    check_file(path)
    if is_dicom(path):
        return read_dicom(path)
    with reading(path, "truncated, or no image: copy it again", " as an image"):
        Image.init()  # so that all of FORMATS are known
        with Image.open(path, formats=FORMATS) as opened:
            # a JPEG may carry a preview of itself (MPO)
            if (frames := 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)) != 1:
                raise DataError(f"{path}: has {frames} frames; save the one to use as a file of its own")
            opened.load()
            return opened.copy()
