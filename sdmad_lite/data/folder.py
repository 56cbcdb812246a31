"""A folder with a `labels.csv`: one row per image, a column `image` with its path below the folder,
one 0/1 column per category, and any of the columns in `META` (who, when, where).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError, warn
from .cells import read_cells
from .names import Names, about_images, check_others, find_normal, is_finding, nearest, plain
from .table import META, PARTS, ImageTable, check_split, table_of_classes

DESCRIBED = ("image", *META)
"""Columns that are no category."""

WORDS = {1: "true t yes y wahr ja vrai oui verdadero si sí sì vero", 0: "false f no n falsch nein faux non falso"}
VALUES = {word: value for value, words in WORDS.items() for word in words.split()}
"""Words of label cells beside numbers, as spreadsheets and statistics programs write them."""

NOBODY = ("", "nan", "na", "n/a", "#n/a", "<na>", "none", "null")
"""What programs write where nothing is known."""

Rows = list[tuple[str, dict[str, str]]]
"""Where each row stands, and its cells by column."""


def load_folder(
    folder: str | Path, categories: Names = None, normal: str | None = None, others: Names = None
) -> ImageTable:
    """Read `folder/labels.csv`; the arguments are as in `load_data`.

    Without `categories`, every further column that holds a 0 or 1 is one, unless it is the normal one or its name says
    that it describes images, such as fold. No column needs to mark the normal images: a row of zeros is one.

    Raises:
        DataError: names the row or column and what to change.
    """
    path = Path(folder, "labels.csv")
    header, lines = read_cells(path)
    header = _header(path, header, categories or ())
    rows = [(f"{path}, line {line}", dict(zip(header, cells, strict=True))) for line, cells in lines]
    images, meta = _images(path.parent, rows), _meta(header, rows)
    names = [name for name in header if name not in DESCRIBED]
    if categories is not None and not categories:  # nothing is asked of the labels
        return ImageTable(images, np.zeros((len(rows), 0), np.int64), (), meta)
    check_others(path, names, others)
    none = find_normal(path, names, normal, categories)
    own, further = _findings(path, rows, [name for name in names if name != none], categories, others)
    if not own:
        expected = f"some of {', '.join(categories)}" if categories else "one of 0 and 1 for each category"
        raise DataError(f"{path}: no category column; expected {expected}")
    ends = [none] if none else []
    labels = _labels(path, rows, own, further, ends)
    table = table_of_classes(path, images, [*own, *further, *ends], labels, none, categories, further, meta)
    check_split(path, table)
    return table


def _header(path: Path, header: list[str], categories: Sequence[str]) -> list[str]:
    """The columns, spelled as META and the categories are."""
    known = {plain(name): name for name in (*categories, *DESCRIBED)}
    header = [known.get(plain(name), name) for name in header]
    if "image" not in header:
        raise DataError(f"{path}: no column 'image'; name the one with the paths so (there are {', '.join(header)})")
    once: dict[str, str] = {}
    for name in header:
        if once.setdefault(plain(name), name) != name or header.count(name) > 1:
            raise DataError(f"{path}: column {name!r} stands twice; remove one")
    return header


def _images(folder: Path, rows: Rows) -> tuple[Path, ...]:
    first: dict[str, str] = {}  # by where the image lies in the end
    found = []
    for where, cells in rows:
        found.append(_found(where, folder, cells["image"]))
        if (other := first.setdefault(os.path.realpath(found[-1]), where)) != where:
            line = other.rpartition("line ")[2]
            raise DataError(f"{where}: {cells['image']} stands already on line {line}; remove one")
    return tuple(found)


def _found(where: str, folder: Path, name: str) -> Path:
    """The image of a row, which must lie inside the folder after all links; `\\` of Windows, é as one letter or two."""
    if not name:
        raise DataError(f"{where}: the image column is empty")
    slashes = name.replace("\\", "/")
    for form in (name, slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD"))):
        place = os.path.realpath(folder / form)
        if not Path(place).is_relative_to(os.path.realpath(folder)):
            raise DataError(f"{where}: {name} lies outside the data folder; move it inside")
        if os.path.isfile(place):
            return folder / form
    raise DataError(f"{where}: no such image file {name}; correct the path or remove the row")


def _meta(header: list[str], rows: Rows) -> dict[str, tuple[str, ...]]:
    """The columns of META that hold anything; each patient and part of the split has to be given."""
    meta = {name: tuple(cells[name] for _, cells in rows) for name in META if name in header}
    meta = {name: column for name, column in meta.items() if any(column)}
    for where, cells in rows:
        if "patient_id" in meta and cells["patient_id"].casefold() in NOBODY:
            raise DataError(f"{where}: the patient_id is empty; give each person one")
        if "patient_id" in meta and re.fullmatch(r"\d[.,]\d+E\+\d+", cells["patient_id"]):
            why = "was rounded by a spreadsheet; export it again with that column as text"
            raise DataError(f"{where}: the patient_id {cells['patient_id']} {why}")
        if "split" in meta and plain(cells["split"]) not in PARTS:
            raise DataError(f"{where}, column split: {cells['split']!r} is not train, val or test")
    if "split" in meta:
        meta["split"] = tuple(PARTS[plain(part)] for part in meta["split"])
    return meta


def _findings(
    path: Path, rows: Rows, names: Sequence[str], categories: Names, others: Names
) -> tuple[list[str], list[str]]:
    """Columns that are categories, and further ones that are findings. The rest is passed over, with a remark.

    Raises:
        DataError: a column may be a misspelt one, or a finding, and nobody said which.
    """
    own = [name for name in categories if name in names] if categories else []
    missing = [name for name in (*(categories or ()), *DESCRIBED) if name not in rows[0][1]]
    further, passed = [], []
    for name in names:
        if name in own:
            continue
        values = {value_of(cells[name]) for _, cells in rows if cells[name] not in ("", "-1")}
        doubtful = not about_images(name) and bool(values - {None})
        if is_finding(name, others, missing) or (doubtful and not categories):
            further.append(name)
        elif meant := nearest(name, missing):
            raise DataError(f"{path}: unknown column {name!r}; did you mean {meant!r}?")
        elif doubtful and None not in values and others is None:
            way = "name it with others= if it is a finding, or pass such columns over with others=[]"
            raise DataError(f"{path}: column {name!r} holds 0 and 1 but is no category; {way}")
        else:
            passed.append(name)
    parts = [name for name in passed if {plain(cells[name]) for _, cells in rows} <= {*PARTS}]
    if parts and "split" not in rows[0][1]:
        warn(f"{path}: column {parts[0]!r} seems to hold a split and is not obeyed; call it split if it shall be")
        passed.remove(parts[0])
    who = [
        name
        for name in passed
        if re.fullmatch(r"(subject|patient|person|participant)s? ?(id|nr|no|number|name|code|key)?", plain(name))
    ]
    if who and "patient_id" not in rows[0][1]:
        warn(f"{path}: column {who[0]!r} seems to name patients and is not obeyed; call it patient_id if it does")
        passed.remove(who[0])
    if passed:
        warn(f"{path}: passed over, no findings: the columns {', '.join(passed)}")
    return (own, further) if categories else (further, [])


def value_of(cell: str) -> int | None:
    """1 or 0 as a number or a word, decimal commas too; None for anything else."""
    try:
        number = float(cell.replace(",", "."))
        return int(number) if number in (0, 1) else None
    except ValueError:
        return VALUES.get(cell.casefold())


def _labels(path: Path, rows: Rows, own: list[str], further: list[str], none: list[str]) -> np.ndarray:
    """(N, K) in {0, 1} of all these columns; of further findings a cell that says nothing else counts as 0."""
    names = [*own, *further, *none]
    labels = np.zeros((len(rows), len(names)), np.int64)
    words: Counter = Counter()
    for (where, cells), row in zip(rows, labels, strict=True):
        for i, name in enumerate(names):
            if (value := value_of(cells[name])) is None and name not in further:
                raise DataError(f"{where}, column {name}: {cells[name]!r} is not 0 or 1")
            row[i] = value or 0
            words[cells[name].casefold()] += value is not None and cells[name].isalpha()
        if none and row[-1] == row[:-1].any():
            what = "1, but a finding is 1 too" if row[-1] else "0, but so is every finding"
            raise DataError(f"{where}, column {none[0]}: {what}; correct the row or remove it")
    if words := +words:
        warn(f"{path}: {words.total()} cells are read as 1 or 0: {', '.join(sorted(words))}")
    return labels
