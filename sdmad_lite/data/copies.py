"""The same picture twice, found by its pixels: under another name, in another format, with another header."""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import DataError, noting, warn
from .dicom import is_dicom
from .pictures import FORMATS, as_stored
from .table import SPLITS, ImageTable

REMEDY = "correct the data, or leave such copies out with drop_copies=True"


def digests(images: Collection, progress: bool = False) -> list[str | None]:
    """SHA-256 of the pixels of each image as it is read, grey alike in any form; None where it cannot be read."""
    return _of_each(lambda image: _read(image)[1], images, progress)


def twins(images: Sequence, progress: bool = False) -> list[str | None]:
    """`digests` of the images that have both sides in common with another; None of the rest, which nothing equals."""
    sides = _of_each(_sides, images)
    count = Counter(sides)
    like = [i for i, one in enumerate(sides) if one and count[one] > 1]
    found = dict(zip(like, digests([images[i] for i in like], progress), strict=True))
    return [found.get(i) for i in range(len(images))]


def _of_each(function: Callable, images: Collection, progress: bool = False) -> list:
    """What a function finds in each image, several at a time; None where it cannot be read."""

    def found(image):
        try:
            return function(image)
        except Exception:  # what damaged bytes raise, is said when the image is used
            return None

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")
        each = pool.map(found, images)
        return list(tqdm(each, "copies", len(images), disable=not progress, leave=False, delay=1))


def _sides(image) -> tuple[int, ...]:
    """Of a picture, the shorter first, by its header; a DICOM file is read for it."""
    if not isinstance(image, (str, Path)):
        size = np.shape(image)[:2]
    elif is_dicom(image):
        size = _read(image)[0]
    else:
        with Image.open(image, formats=FORMATS) as opened:
            size = opened.size
    return tuple(sorted(size))


def _read(image) -> tuple[tuple[int, int], str]:
    """Width and height, and the digest; a file is read once for all who ask, as long as it stays the same."""
    if not isinstance(image, (str, Path)):
        return _of_pixels(image)
    about = os.stat(image)
    return _of_file(str(image), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=1 << 20)
def _of_file(path: str, *changed: int) -> tuple[tuple[int, int], str]:
    return _of_pixels(path)


def _of_pixels(image) -> tuple[tuple[int, int], str]:
    with noting(say=False):  # what there is to say of an image is said when it is used
        picture = as_stored(image)
    picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    if len({band.tobytes() for band in picture.split()}) == 1:  # grey in any form
        picture = picture.getchannel(0)
    digest = sha256(f"{picture.mode} {picture.size} ".encode() + picture.tobytes())
    return picture.size, digest.hexdigest()


def without_those_of(train: ImageTable, test: ImageTable, drop: bool = False) -> ImageTable:
    """The train rows whose pictures are not in test; a DataError where some are and `drop` is False."""
    found = twins((*train.images, *test.images))
    known = set(found[len(train) :]) - {None}
    new = [i for i, digest in enumerate(found[: len(train)]) if digest not in known]
    if len(new) < len(train) and not drop:
        what = f"{len(train) - len(new)} train images are in test too, pixel for pixel"
        raise DataError(f"{what}; leave them out with drop_copies=True")
    return train.rows(new)


def without_copies(
    where, table: ImageTable, drop: bool = False, progress: bool = False, remedy: str = REMEDY
) -> tuple[ImageTable, int]:
    """The table with each picture once, and how many images were dropped.

    A copy with the same labels, and in the same part of the split, is left out with a remark. With `drop` a picture
    that stands in several parts is kept in the last of train, val and test, and one with several labels is dropped.

    Raises:
        DataError: there are such pictures, and `drop` is False.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(twins(table.images, progress)):
        groups[digest or f"row {i}"].append(i)
    parts = table.meta.get("split", ("train",) * len(table))
    labels = ["+".join(c for c, y in zip(table.categories, row, strict=True) if y) or "normal" for row in table.labels]
    found: dict[str, list[list[int]]] = {"have several labels": [], "stand in several parts of the split": [], "": []}
    for rows in groups.values():
        rows.sort(key=lambda i: -SPLITS.index(parts[i]))  # the last part keeps its picture
        differing = [len({column[i] for i in rows}) > 1 for column in (labels, parts)]
        if len(rows) > 1:
            found[list(found)[[*differing, True].index(True)]].append(rows)
    for (what, copies), column in zip(found.items(), (labels, parts), strict=False):
        if copies and not drop:
            first = [table.images[i] if isinstance(table.images[i], (str, Path)) else f"row {i}" for i in copies[0]]
            said = dict(zip([column[i] for i in copies[0]], first, strict=True))
            such = " and ".join(f"{image} ({value})" for value, image in said.items())
            raise DataError(f"{where}: pictures that {what}: {len(copies)}, such as {such}; {remedy}")
    gone = {i for what, copies in found.items() for rows in copies for i in rows["labels" not in what :]}
    if gone:
        warn(f"{where}: {len(gone)} images are copies of others, pixel for pixel, and are left out")
    return table.rows([i for i in range(len(table)) if i not in gone]), len(gone)
