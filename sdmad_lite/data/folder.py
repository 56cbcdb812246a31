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

Columns = dict[str, tuple[str, ...]]
"""The cells of each column; where each row stands goes beside them."""


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
    places = [f"{path}, line {line}" for line, _ in lines]
    columns = dict(zip(header, zip(*(cells for _, cells in lines), strict=True), strict=True))
    images, meta = _images(path.parent, places, columns["image"]), _meta(places, columns)
    names = [name for name in header if name not in DESCRIBED]
    if categories is not None and not categories:  # nothing is asked of the labels
        return ImageTable(images, np.zeros((len(images), 0), np.int64), (), meta)
    check_others(path, names, others)
    none = find_normal(path, names, normal, categories)
    own, further = _findings(path, columns, [name for name in names if name != none], categories, others)
    if not own:
        expected = f"some of {', '.join(categories)}" if categories else "one of 0 and 1 for each category"
        raise DataError(f"{path}: no category column; expected {expected}")
    ends = [none] if none else []
    labels = _labels(path, places, {name: columns[name] for name in (*own, *further, *ends)}, further, ends)
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


def _images(folder: Path, places: Sequence[str], names: Sequence[str]) -> tuple[Path, ...]:
    first: dict[str, str] = {}  # by where the image lies in the end
    found = []
    for where, name in zip(places, names, strict=True):
        found.append(_found(where, folder, name))
        if (other := first.setdefault(os.path.realpath(found[-1]), where)) != where:
            line = other.rpartition("line ")[2]
            raise DataError(f"{where}: {name} stands already on line {line}; remove one")
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


def _meta(places: Sequence[str], columns: Columns) -> Columns:
    """The columns of META that hold anything; each patient and part of the split has to be given."""
    meta = {name: columns[name] for name in META if any(columns.get(name, ()))}
    for where, patient in zip(places, meta.get("patient_id", ()), strict=False):
        if patient.casefold() in NOBODY:
            raise DataError(f"{where}: the patient_id is empty; give each person one")
        if re.fullmatch(r"\d[.,]\d+E\+\d+", patient):
            why = "was rounded by a spreadsheet; export it again with that column as text"
            raise DataError(f"{where}: the patient_id {patient} {why}")
    parts = {cell: PARTS.get(plain(cell)) for cell in {*meta.get("split", ())}}
    for where, cell in zip(places, meta.get("split", ()), strict=False):
        if not parts[cell]:
            raise DataError(f"{where}, column split: {cell!r} is not train, val or test")
    if parts:
        meta["split"] = tuple(str(parts[cell]) for cell in meta["split"])
    return meta


def _findings(
    path: Path, columns: Columns, names: Sequence[str], categories: Names, others: Names
) -> tuple[list[str], list[str]]:
    """Columns that are categories, and further ones that are findings. The rest is passed over, with a remark.

    Raises:
        DataError: a column may be a misspelt one, or a finding, and nobody said which.
    """
    own = [name for name in dict.fromkeys(categories or ()) if name in names]
    missing = [name for name in (*(categories or ()), *DESCRIBED) if name not in columns]
    further, passed = [], []
    for name in names:
        if name in own:
            continue
        values = {value_of(cell) for cell in {*columns[name]} - {"", "-1"}}
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
    parts = [name for name in passed if {*map(plain, {*columns[name]})} <= {*PARTS}]
    if parts and "split" not in columns:
        warn(f"{path}: column {parts[0]!r} seems to hold a split and is not obeyed; call it split if it shall be")
        passed.remove(parts[0])
    who = [
        name
        for name in passed
        if re.fullmatch(r"(subject|patient|person|participant)s? ?(id|nr|no|number|name|code|key)?", plain(name))
    ]
    if who and "patient_id" not in columns:
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


def _labels(path: Path, places: Sequence[str], columns: Columns, further: list[str], none: list[str]) -> np.ndarray:
    """(N, K) in {0, 1} of all these columns; of further findings a cell that says nothing else counts as 0."""
    labels, words = np.zeros((len(places), len(columns)), np.int64), Counter[str]()
    for i, (name, column) in enumerate(columns.items()):
        count = Counter(column)
        values = {cell: value_of(cell) for cell in count}
        if None in values.values() and name not in further:
            row = next(row for row, cell in enumerate(column) if values[cell] is None)
            raise DataError(f"{places[row]}, column {name}: {column[row]!r} is not 0 or 1")
        labels[:, i] = [values[cell] or 0 for cell in column]
        for cell, value in values.items():
            words[cell.casefold()] += count[cell] * (value is not None and cell.isalpha())
    if none and (wrong := labels[:, -1] == labels[:, :-1].any(1)).any():
        row = int(wrong.argmax())
        what = "1, but a finding is 1 too" if labels[row, -1] else "0, but so is every finding"
        raise DataError(f"{places[row]}, column {none[0]}: {what}; correct the row or remove it")
    if words := +words:
        warn(f"{path}: {words.total()} cells are read as 1 or 0: {', '.join(sorted(words))}")
    return labels
