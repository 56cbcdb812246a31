"""A folder with a `labels.csv`: one row per image, a column `image` with its path below the folder,
one 0/1 column per category, and any of the columns in `META` (who, when, where).
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from .names import Names, find_normal, suggest
from .paths import check_link, reading
from .table import META, SPLITS, ImageTable, check_split

DESCRIBED = ("image", *META)
"""Columns that are no category."""


def load_folder(folder: str | Path, categories: Names = None, normal: str | None = None) -> ImageTable:
    """Read `folder/labels.csv`; `categories` and `normal` are as in `load_data`.

    Without `categories`, every column that is not `image`, in META or the normal one is a category. No column needs to
    mark the normal images: a row of zeros is one.

    Raises:
        DataError: names the row or column and what to change.
    """
    path = Path(folder, "labels.csv")
    header, *rows = _read(path)
    none = find_normal(path, [name for name in header if name not in DESCRIBED], normal, categories)
    _check_header(path, [name for name in header if name != none], categories)
    found = [c for c in (categories or header) if c in header and c not in DESCRIBED and c != none]
    if not found:
        raise DataError(f"{path}: no category column; expected some of {', '.join(categories or [])}")
    kept: list[dict[str, str]] = []
    lines: dict[Path, int] = {}  # by where the image lies in the end
    for line, row in enumerate(rows, 2):
        if not any(row):
            continue
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} cells, but the header has {len(header)}; mend the row")
        cells = dict(zip(header, row, strict=True))
        place = _place(where, path.parent, cells["image"])
        if (other := lines.setdefault(place, line)) != line:
            raise DataError(f"{where}: {cells['image']} stands already on line {other}; remove one")
        _check_row(where, cells, found, none)
        kept.append(cells)
    if not kept:
        raise DataError(f"{path}: has no rows; write a row per image")
    labels = np.array([[int(cells[c]) for c in found] for cells in kept], dtype=np.int64)
    meta = {name: tuple(cells[name] for cells in kept) for name in META if name in header}
    table = ImageTable(tuple(path.parent / cells["image"] for cells in kept), labels, tuple(found), meta)
    check_split(path, table)
    return table


def _read(path: Path) -> list[list[str]]:
    """The header and the rows, cells without blanks around them."""
    with reading(path, "a data set is a folder with a labels.csv"):
        check_link(path, path.parent)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("not a file")
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream)]
    if len(rows) < 2:
        raise DataError(f"{path}: has no rows; write a header and a row per image")
    return rows


def _check_header(path: Path, header: list[str], categories: Names) -> None:
    if "image" not in header:
        raise DataError(f"{path}: no column 'image'; the columns are {', '.join(header)}")
    known = (*DESCRIBED, *categories) if categories is not None else header
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: column {name!r} stands twice; remove one")
        if name not in known:
            raise DataError(f"{path}: unknown column {name!r}; {suggest(name, known)}")


def _check_row(where: str, cells: dict[str, str], found: list[str], none: str | None) -> None:
    if not cells.get("patient_id", "known"):
        raise DataError(f"{where}: the patient_id is empty; give each person one")
    for column in ("split", *found, none):
        known = SPLITS if column == "split" else ("0", "1")
        if column in cells and cells[column] not in known:
            either = f"{', '.join(known[:-1])} or {known[-1]}"
            raise DataError(f"{where}, column {column}: {cells[column]!r} is not {either}")
    if none and (cells[none] == "1") == any(cells[c] == "1" for c in found):
        what = "1, but a finding is 1 too" if cells[none] == "1" else "0, but so is every finding"
        raise DataError(f"{where}, column {none}: {what}; correct the row or remove it")


def _place(where: str, folder: Path, name: str) -> Path:
    """Where the image of a row lies after all links, which must be inside the folder."""
    if not name:
        raise DataError(f"{where}: the image column is empty")
    root = place = Path(os.path.realpath(folder))
    if "\0" not in name:
        place = Path(os.path.realpath(folder / name))
    if not place.is_relative_to(root):
        raise DataError(f"{where}: {name} lies outside the data folder; move it inside")
    if not os.path.isfile(place):
        raise DataError(f"{where}: no such image file {name}; correct the path or remove the row")
    return place
