"""A folder with a `labels.csv`: one row per image, a column `image` with its path below the folder,
one 0/1 column per category, and any of the columns in `META` (who, when, where).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from .images import leads_into
from .names import find_normal, suggest
from .table import META, SPLITS, ImageTable, check_split

DESCRIBED = ("image", *META)
"""Columns that are no category."""


def load_folder(folder: str | Path, categories: Sequence[str] | None = None, normal: str | None = None) -> ImageTable:
    """Read `folder/labels.csv`; `categories` and `normal` are as in `load_data`.

    Without `categories`, every column that is not `image`, in META or the normal one is a category. No column needs to
    mark the normal images: a row of zeros is one.

    Raises:
        DataError: names the row or column and what to change.
    """
    path, root = Path(folder, "labels.csv"), Path(os.path.realpath(folder))
    header, *rows = _read(path, root)
    none = find_normal(path, [name for name in header if name not in DESCRIBED], normal, categories)
    _check_header(path, [name for name in header if name != none], categories)
    found = [c for c in (categories or header) if c in header and c not in DESCRIBED and c != none]
    if not found:
        raise DataError(f"{path}: no category column; expected some of {', '.join(categories or [])}")
    kept: dict[Path, tuple[Path, dict[str, str]]] = {}  # by where the image lies in the end
    lines: dict[Path, int] = {}
    for line, row in enumerate(rows, 2):
        if not any(row):
            continue
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} cells, but the header has {len(header)}; mend the row")
        cells = dict(zip(header, row, strict=True))
        image, place = _image_path(path, root, line, cells["image"])
        if place in kept:
            raise DataError(f"{path}, line {line}: {cells['image']} stands already on line {lines[place]}; remove one")
        _check_row(f"{path}, line {line}", cells, found, none)
        kept[place], lines[place] = (image, cells), line
    if not kept:
        raise DataError(f"{path}: has no rows; write a row per image")
    images, described = zip(*kept.values(), strict=True)
    labels = np.array([[int(cells[c]) for c in found] for cells in described], dtype=np.int64)
    meta = {name: tuple(cells[name] for cells in described) for name in META if name in header}
    table = ImageTable(images, labels, tuple(found), meta)
    check_split(path, table)
    return table


def _read(path: Path, root: Path) -> list[list[str]]:
    """The header and the rows, cells without blanks around them."""
    try:
        if not leads_into(path, root):
            raise DataError(f"{path}: is a link out of the data folder; put the file itself there")
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path}: cannot be read (not a file); a data set is a folder with a labels.csv")
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); a data set is a folder with a labels.csv") from None
    if len(rows) < 2:
        raise DataError(f"{path}: has no rows; write a header and a row per image")
    return rows


def _check_header(path: Path, header: list[str], categories: Sequence[str] | None) -> None:
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: column {name!r} stands twice; remove one")
    if "image" not in header:
        raise DataError(f"{path}: no column 'image'; the columns are {', '.join(header)}")
    known = (*DESCRIBED, *categories) if categories is not None else header
    for name in header:
        if name not in known:
            raise DataError(f"{path}: unknown column {name!r}; {suggest(name, known)}")


def _check_row(where: str, cells: dict[str, str], found: list[str], none: str | None) -> None:
    if not cells.get("patient_id", "known"):
        raise DataError(f"{where}: the patient_id is empty; give each person one")
    if cells.get("split", "train") not in SPLITS:
        raise DataError(f"{where}, column split: {cells['split']!r} is not train, val or test")
    for category in [*found, *([none] if none else [])]:
        if cells[category] not in ("0", "1"):
            raise DataError(f"{where}, column {category}: {cells[category]!r} is not 0 or 1")
    if none and (cells[none] == "1") == any(cells[c] == "1" for c in found):
        what = "1, but a finding is 1 too" if cells[none] == "1" else "0, but so is every finding"
        raise DataError(f"{where}, column {none}: {what}; correct the row or remove it")


def _image_path(path: Path, root: Path, line: int, name: str) -> tuple[Path, Path]:
    """Of a row: the path below the data folder, and where it leads, which must be inside `root` too."""
    if not name:
        raise DataError(f"{path}, line {line}: the image column is empty")
    image = path.parent / name
    try:
        place = Path(os.path.realpath(image))
        inside, there = place.is_relative_to(root), place.is_file()
    except (OSError, ValueError):  # too long for a file name, or with a zero byte
        place, inside, there = image, True, False
    if not inside:
        raise DataError(f"{path}, line {line}: {name} lies outside the data folder; move it inside")
    if not there:
        raise DataError(f"{path}, line {line}: no such image file {name}; correct the path or remove the row")
    return image, place
