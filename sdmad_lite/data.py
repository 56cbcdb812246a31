"""A table of images and labels, and few-shot draws from it.

A data set is a folder with a `labels.csv`: one row per image, a column `image` with its path below the
folder, one 0/1 column per category, and any of the columns in `META` (who, when, where). The support
set is drawn by patient: no patient gives two images of one draw, nor is in both train and test.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from .errors import DataError

META = ("patient_id", "age", "sex", "view", "site", "split", "signs")
"""Columns of a labels.csv that describe an image and are not categories."""

GROUPS = ("view", "site", "sex")
"""Columns whose values are also scored apart: a model can read the view instead of the disease."""


@dataclass(frozen=True)
class ImageTable:
    """N images with their labels.

    images: N paths or arrays. labels: Y, (N, C) in {0, 1}; a row of zeros is a normal image.
    meta: for each known column of META, N strings.
    """

    images: tuple
    labels: np.ndarray
    categories: tuple[str, ...]
    meta: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: Sequence[int] | np.ndarray) -> ImageTable:
        """Some of the rows, in the order given."""
        index = np.asarray(index, dtype=int)
        meta = {name: tuple(column[i] for i in index) for name, column in self.meta.items()}
        return replace(self, images=tuple(self.images[i] for i in index), labels=self.labels[index], meta=meta)

    def restricted(self, categories: Sequence[str]) -> ImageTable:
        """Only some of the categories; rows that show none of them but another one are dropped.

        Such a row is neither a positive nor a normal image.
        """
        columns = [self.categories.index(c) for c in categories]
        keep = (self.labels[:, columns].sum(1) > 0) | (self.labels.sum(1) == 0)
        table = self.rows(np.flatnonzero(keep))
        return replace(table, labels=table.labels[:, columns], categories=tuple(categories))

    def patients(self) -> np.ndarray:
        """(N,) patient of each row; without a patient column every image counts as a patient of its own."""
        if "patient_id" in self.meta:
            return np.asarray(self.meta["patient_id"])
        return np.asarray([f"row {i}" for i in range(len(self))])


def read_image(image, color: bool = False) -> Image.Image:
    """Open a path, array or PIL image as 8-bit grey (mode L), or RGB where `color` is true.

    Args:
        image: path; (H, W) or (H, W, 3) uint8 array; or PIL image.
        color: whether colours carry meaning in this modality. A grey image stored as RGB is welcome
            either way; a truly coloured one is refused unless `color` is true.

    Raises:
        DataError: missing, empty, truncated, 16-bit or coloured image; the message names the file.
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
        path = Path(image)
        if not path.is_file():
            raise DataError(f"{path}: no such image file; correct the path")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; copy it again")
        try:
            with Image.open(path) as opened:
                opened.load()
                image = opened.copy()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{path}: cannot be read as an image ({error}); it may be truncated, copy it again"
            ) from None
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


def load_folder(folder: str | Path, categories: Sequence[str] | None = None) -> ImageTable:
    """Read `folder/labels.csv`.

    Args:
        folder: holds `labels.csv` and the images.
        categories: names that may be columns, such as those of a sign bank; when left out, every column
            that is not `image` or in META is a category.

    Returns:
        The table, with the categories that have a column, in the order of `categories`.

    Raises:
        DataError: names the row or column and what to change.
    """
    folder = Path(folder)
    path = folder / "labels.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); a data set is a folder with a labels.csv") from None
    if len(rows) < 2:
        raise DataError(f"{path}: has no rows; write a header and a row per image")
    header = [name.strip() for name in rows[0]]
    _check_header(path, header, categories)
    found = [c for c in (categories or header) if c in header and c != "image" and c not in META]
    if not found:
        raise DataError(f"{path}: no category column; expected some of {', '.join(categories or [])}")
    images, kept, lines = [], [], {}
    for line, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} cells, but the header has {len(header)}")
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        image = _image_path(path, line, cells["image"])
        first = lines.setdefault(image.resolve(), line)
        if first != line:
            raise DataError(f"{path}, line {line}: {cells['image']} stands already on line {first}; remove one")
        if not cells.get("patient_id", "known"):
            raise DataError(f"{path}, line {line}: the patient_id is empty; give each person one")
        if cells.get("split", "train") not in ("train", "test"):
            raise DataError(f"{path}, line {line}, column split: {cells['split']!r} is not train or test")
        for category in found:
            if cells[category] not in ("0", "1"):
                raise DataError(f"{path}, line {line}, column {category}: {cells[category]!r} is not 0 or 1")
        images.append(image)
        kept.append(cells)
    if not images:
        raise DataError(f"{path}: has no rows; write a row per image")
    labels = np.array([[int(cells[c]) for c in found] for cells in kept], dtype=np.int64)
    meta = {name: tuple(cells[name] for cells in kept) for name in META if name in header}
    table = ImageTable(tuple(images), labels, tuple(found), meta)
    _check_split(path, table)
    return table


def _check_header(path: Path, header: list[str], categories: Sequence[str] | None) -> None:
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: column {name!r} stands twice; remove one")
    if "image" not in header:
        raise DataError(f"{path}: no column 'image'; the columns are {', '.join(header)}")
    if categories is None:
        return
    for name in header:
        if name not in ("image", *META, *categories):
            near = difflib.get_close_matches(name, [*categories, *META], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(['image', *META, *categories])}"
            raise DataError(f"{path}: unknown column {name!r}; {hint}")


def _image_path(path: Path, line: int, name: str) -> Path:
    if not name:
        raise DataError(f"{path}, line {line}: the image column is empty")
    image = path.parent / name
    try:
        inside, there = image.resolve().is_relative_to(path.parent.resolve()), image.is_file()
    except (OSError, ValueError):  # too long for a file name, or with a zero byte
        inside, there = True, False
    if not inside:
        raise DataError(f"{path}, line {line}: {name} lies outside the data folder; move it inside")
    if not there:
        raise DataError(f"{path}, line {line}: no such image file {name}; correct the path or remove the row")
    return image


def _check_split(path: Path, table: ImageTable) -> None:
    if "split" not in table.meta:
        return
    patients, split = table.patients(), np.asarray(table.meta["split"])
    both = set(patients[split == "train"]) & set(patients[split == "test"])
    if both:
        raise DataError(f"{path}: patient {min(both)} is in train and in test; keep each patient in one split")


def split_train_test(table: ImageTable, seed: int = 0) -> tuple[ImageTable, ImageTable]:
    """Train and test rows: the `split` column is obeyed, else patients are halved at random.

    Raises:
        DataError: one side would be empty.
    """
    if "split" in table.meta:
        train = np.asarray(table.meta["split"]) == "train"
    else:
        patients = np.unique(table.patients())
        chosen = np.random.default_rng(seed).permutation(patients)[: len(patients) // 2]
        train = np.isin(table.patients(), chosen)
    if train.all() or not train.any():
        raise DataError(f"the split leaves no {'test' if train.all() else 'train'} images; give both")
    return table.rows(np.flatnonzero(train)), table.rows(np.flatnonzero(~train))


def draw_support(table: ImageTable, shots: int, seed: int) -> np.ndarray:
    """Indices of a support set: `shots` positives of every category and as many normal images.

    Drawn by patient: no patient gives two images. A drawn image that shows several categories counts
    for each of them; the rarest category is served first.

    Args:
        table: the rows to draw from (train rows only).
        shots: K, positives per category.
        seed: of the draw.

    Raises:
        DataError: a category, or the normal images, come from fewer patients than `shots`.
    """
    if shots < 1:
        raise DataError(f"shots is {shots}: it must be at least 1")
    patients = table.patients()
    labels = np.column_stack([table.labels, table.labels.sum(1) == 0])
    names = [*table.categories, "normal"]
    available = [len(np.unique(patients[labels[:, c] == 1])) for c in range(len(names))]
    for name, count in zip(names, available, strict=True):
        if count < shots:
            what = (
                "no normal image (a row of zeros)"
                if name == "normal" and not count
                else f"{count} patients with {name!r}"
            )
            raise DataError(f"{what} to draw from, but {shots} shots are asked for; lower the shots or leave it out")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table))
    chosen: list[int] = []
    used: set = set()
    for c in np.argsort(available, kind="stable"):
        missing = shots - int(labels[chosen, c].sum())
        for i in order:
            if missing <= 0:
                break
            if labels[i, c] and patients[i] not in used:
                chosen.append(int(i))
                used.add(patients[i])
                missing -= 1
        if missing > 0:
            raise DataError(
                f"only {shots - missing} of {shots} shots of {names[c]!r} could be drawn from patients not yet used; "
                "lower the shots"
            )
    return np.asarray(chosen)
