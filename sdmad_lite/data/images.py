"""Images: what a user gives to a list of them, and a folder to its files; `pictures.py` reads one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError, note
from .dicom import DICOM_ENDINGS, is_dicom
from .labels import PATHS
from .names import plain
from .paths import check_link, check_no_link, reading
from .table import ImageTable

_PLAIN = (".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".pnm")
IMAGE_ENDINGS: tuple[str, ...] = (*_PLAIN, *DICOM_ENDINGS)
"""Of files that count as images in a folder, in lower case; a DICOM file may also have no ending."""

PASSED = "masks and hidden files, passed over"
DOCUMENTS = "DICOM reports, plans and indexes, which hold no image, passed over"
_HIDDEN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_KIND = r"(?:masks?|seg|segmentations?|labels?|gt)"
_MASK = re.compile(rf"(.+?)[ ._-]+{_KIND}(?:[ _-]*\d+)?|{_KIND}[ ._-]+(.+)", re.IGNORECASE)
_MASKS, _IMAGES = (
    re.compile(r"(?:.+[ _-])?(?:masks?|segmentations?|ground[ _-]?truth)", re.IGNORECASE),
    ("image", "images", "img", "imgs"),
)


def as_images(images) -> tuple[list, bool]:
    """A list of images, and whether ONE was given rather than many.

    One is a path, a PIL image, an array (H, W) or (H, W, 3). Many are an `ImageTable`, an array (N, H, W)
    or (N, H, W, 3), a table of pandas, Polars or pyarrow with a column `image` or `path`, or another iterable of such
    images. Anything else, and none among many, is a DataError.
    """
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images], True
    if isinstance(images, ImageTable):
        images = images.images
    if (names := getattr(images, "column_names", getattr(images, "columns", None))) is not None:
        images = images[_path_column([*names])]
        images = images.to_pylist() if hasattr(images, "to_pylist") else images  # pyarrow
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


def _path_column(names: list) -> Any:
    """Of the columns of a table the one that holds the images: the only one, or that called so."""
    found = names if len(names) == 1 else [name for name in names if plain(name) in PATHS]
    if len(found) != 1:
        have = ", ".join(map(str, names)) or "none"
        raise DataError(f"images: a table with the columns {have}; call the one with the paths image, or give it alone")
    return found[0]


def walk_images(folder: str | Path, within: str | Path | None = None) -> Iterator[Path]:
    """Image files in a folder and those below it, one at a time, sorted by path; one folder's names are in memory.

    Passed over are names that begin with a dot (.DS_Store, ._0001.png), DICOMDIR (the index of a DICOM disk), masks
    beside their images (0001_mask.png, a folder masks beside images), DICOM files that are no images (reports, plans,
    indexes) and links to folders; a remark counts them. Where the data set is named by `within`, a link to a folder or
    to a file outside of it, and an image's name that leads to no file, is a DataError, as is always a folder that
    cannot be read.
    """
    passed: dict[str, list[str]] = {PASSED: [], DOCUMENTS: []}
    yield from _walk(Path(folder), within, passed)
    for text, names in passed.items():
        if names:
            note(text, *names)


def _walk(folder: Path, within: str | Path | None, passed: dict[str, list[str]]) -> Iterator[Path]:
    from sdmad_dicom import is_document  # a companion, which asks for pydicom where it meets DICOM

    with reading(folder, "change its permissions or leave it out"), os.scandir(folder) as entries:
        # with the slash, so that the order is that of the paths
        names = sorted(e.name + "/" * e.is_dir(follow_symlinks=False) for e in entries)
    stems = {os.path.splitext(name)[0].lower() for name in names if name.lower().endswith(IMAGE_ENDINGS)}
    for name in names:
        path, ending = folder / name, os.path.splitext(name)[1].lower()
        if name[0] == "." or name[:-1] in _HIDDEN or _is_mask(name, stems, names):
            passed[PASSED] += [str(path)] if name[-1] == "/" or ending in IMAGE_ENDINGS else []
        elif name.endswith("/"):
            yield from _walk(path, within, passed)
        else:
            if within is not None:
                check_no_link(path)
            scan = ending in DICOM_ENDINGS or (not ending and path.is_file() and is_dicom(path))
            if name != "DICOMDIR" and (ending in IMAGE_ENDINGS or scan):
                if within is not None:
                    check_link(path, within)
                    if not path.is_file():
                        raise DataError(f"{path}: no such image file; correct the link or remove it")
                if scan and is_document(path):
                    passed[DOCUMENTS].append(str(path))
                else:
                    yield path


def _is_mask(name: str, stems: set[str], beside: list[str]) -> bool:
    """Whether what it is a mask of lies beside it: the image of that name, or a folder of images."""
    if name.endswith("/"):
        return bool(_MASKS.fullmatch(name[:-1])) and any(other[:-1].lower() in _IMAGES for other in beside)
    found = _MASK.fullmatch(os.path.splitext(name)[0])
    return found is not None and (found[1] or found[2]).lower() in stems
