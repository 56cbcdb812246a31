"""What is known of a public data set, and the few tools that every reader of such a set needs.

A reader is a generator: it walks the set's own label files and yields a `Row` per image, with the categories
that the image shows. No image is opened. `table_of` puts the rows together and checks the split.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sdmad_lite.data import IMAGE_ENDINGS, META, ImageTable, check_split
from sdmad_lite.errors import DataError
from sdmad_lite.signs.bank import load_bank


class Row(NamedTuple):
    """One image of a set: its path (or array), the categories it shows (none: normal), and what META says."""

    image: Any
    found: Collection[str]
    meta: dict[str, str]


class Box(NamedTuple):
    """Where a finding lies: left upper corner, width and height, in pixels of the image as it is on disk."""

    image: Path
    category: str
    x: float
    y: float
    w: float
    h: float


class Download(NamedTuple):
    """A file that may be fetched without an account; `variant` is what the user chooses by."""

    variant: str
    file: str
    url: str
    md5: str


@dataclass(frozen=True)
class Dataset:
    """Facts of a public set and how its files are read.

    `licence` is the publisher's own statement in short; `unchecked` names what was written from memory and
    could not be looked up. `tree` is the layout that the reader expects; `notes` are the pitfalls.
    """

    name: str
    title: str
    modality: str
    images: int
    licence: str
    licence_url: str
    citation: str
    url: str
    access: str
    normal: str
    bank: str
    tree: str
    read: Callable[..., Iterator[Row]]
    patients: bool
    task: Literal["multi-label", "one class"]
    notes: str
    color: bool = False
    read_boxes: Callable[..., Iterator[Box]] | None = None
    downloads: tuple[Download, ...] = ()
    unchecked: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the reader needs to know apart from the folder, where several sets share a reader."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Those of its sign bank, in its order."""
        return load_bank(self.bank).categories

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the downloads to choose from."""
        return tuple(dict.fromkeys(download.variant for download in self.downloads))

    @property
    def boxes(self) -> bool:
        """Whether the set says where its findings lie."""
        return self.read_boxes is not None

    def error(self, place: str | Path, problem: str) -> DataError:
        """An error that also says what the folder should look like and where the set comes from."""
        return DataError(
            f"{place}: {problem}; {self.title} is expected as\n{self.tree}\nfrom {self.url} ({self.access})"
        )


def table_of(entry: Dataset, folder: Path, rows: Iterable[Row], official_split: bool) -> ImageTable:
    """The rows as a table with the categories of the set's bank.

    Raises:
        DataError: no row, an image twice, or a patient on both sides of the set's own split.
    """
    rows = list(rows)
    if not rows:
        raise entry.error(folder, "no image with a label was found")
    column = {category: c for c, category in enumerate(entry.categories)}
    labels = np.zeros((len(rows), len(column)), dtype=np.int64)
    once = set()
    for row in rows:
        if isinstance(row.image, Path):
            if row.image in once:
                raise DataError(f"{row.image}: stands twice in the label files of {entry.title}; remove one line")
            once.add(row.image)
    for n, row in enumerate(rows):
        for category in row.found:
            labels[n, column[category]] = 1
    names = [name for name in META if name in rows[0].meta and (official_split or name != "split")]
    meta = {name: tuple(row.meta[name] for row in rows) for name in names}
    table = ImageTable(tuple(row.image for row in rows), labels, tuple(column), meta)
    check_split(entry.title, table, "pass official_split=False to leave the set's own split out and split by patient")
    return table


def read_table(entry: Dataset, path: Path, needed: Iterable[str], at_least: int = 0) -> Iterator[tuple[int, dict]]:
    """Lines of a CSV file as (line number, cells by column).

    Args:
        entry: the set, for the message.
        path: of the file.
        needed: columns that must be there.
        at_least: cells that a line must have at least; the number of columns when left out.

    Raises:
        DataError: the file is missing, a column is missing, or a line is short; the message names it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            header = [name.strip() for name in next(lines, [])]
            if missing := [name for name in needed if name not in header]:
                raise DataError(
                    f"{path}: no column {', '.join(map(repr, missing))}; the columns are {', '.join(header)}. "
                    f"Get the file as {entry.title} publishes it: {entry.url}"
                )
            length = at_least or len([name for name in header if name])
            for line in lines:
                if not any(map(str.strip, line)):
                    continue
                if len(line) < length:
                    raise DataError(
                        f"{path}, line {lines.line_num}: {len(line)} cells, but {length} are expected; "
                        "the file may be cut off, copy it again"
                    )
                yield lines.line_num, dict(zip(header, line, strict=False))
    except FileNotFoundError:
        raise entry.error(path, "no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); copy it again") from None


def flag(path: Path, line: int, column: str, cell: str) -> bool:
    """A 0/1 cell, also written 0.0 or 1.0, as truth."""
    cell = cell.strip()
    if cell in ("1", "1.0"):
        return True
    if cell in ("0", "0.0"):
        return False
    raise DataError(f"{path}, line {line}, column {column}: {cell!r} is not 0 or 1; correct the cell or the file")


def numbers(path: Path, line: int, cells: list[str]) -> list[float]:
    """Four cells as numbers."""
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        raise DataError(f"{path}, line {line}: {', '.join(cells)} are not four numbers; correct the line") from None


def files_below(folder: Path) -> dict[str, Path]:
    """Every image below a folder by its file name: one listing per folder, no call per file; links are followed."""
    found: dict[str, Path] = {}
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(place)
        if (here.st_dev, here.st_ino) in seen:  # a link back to where we were
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        parent = Path(place)
        for name in sorted(names):
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                found.setdefault(name, parent / name)
    return found


def inside(path: Path, line: int, name: str) -> str:
    """The name of a file in a label file, refused where it points out of the data folder."""
    plain = name.replace("\\", "/")
    parts = plain.split("/")
    if not name or "\0" in name or parts[0] == "" or ".." in parts or ":" in parts[0]:
        raise DataError(f"{path}, line {line}: {name!r} lies outside the data folder or is no file name; correct it")
    return plain


class Missing:
    """What to do about images that a label file names and the folder lacks.

    With `missing="skip"` their rows are left out, for a set that was fetched in part.
    """

    def __init__(self, entry: Dataset, folder: Path, missing: str):
        if missing not in ("error", "skip"):
            raise DataError(f"missing is {missing!r}; it must be 'error' or 'skip'")
        self.entry, self.folder, self.missing = entry, folder, missing
        self.count, self.first = 0, ""

    def add(self, name: str) -> None:
        """Note a name that was not found."""
        self.count += 1
        self.first = self.first or name

    def check(self) -> None:
        """Raises DataError when images are missing and that was not allowed."""
        if self.count and self.missing == "error":
            raise self.entry.error(
                self.folder,
                f"{self.count} images are not there, the first is {self.first}; "
                "copy them, or pass missing='skip' to use the others",
            )


def first_of(entry: Dataset, folder: Path, *names: str) -> Path:
    """The first of several places that exists, or an error that names them all."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise entry.error(folder, f"holds no {' or '.join(names)}")
