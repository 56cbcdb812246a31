"""A table of text as spreadsheets, pandas, R and Windows leave it: its columns, and its rows with their lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, warn
from .names import plain
from .paths import check_link, reading

CONTROL = re.compile(r"[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # characters that are no blanks either

Row = tuple[int, list[str]]
"""The line where it begins in the file, and its cells without blanks around them."""


def read_cells(path: Path) -> tuple[list[str], list[Row]]:
    """Names of the columns, and the rows that hold anything.

    Cells are parted as a first line `sep=;` says, else by the one of , ; | and tab that gives a column `image`, or most
    columns. Columns without a name are left out where they are empty, or the index that pandas and R write.

    Raises:
        DataError: no rows, a row of another length, a column without a name, control characters; names the line.
    """
    with reading(path, "a data set is a folder with a labels.csv"):
        check_link(path, path.parent)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("not a file")
        text = _text(path).rstrip("\x1a")  # the end of a file in DOS
        told = re.match(r'"?sep=(.)"?(\r\n?|\n)', text)
        first = {mark: next(_rows(text, mark), (0, []))[1] for mark in ",;|\t"}
        mark = max(first, key=lambda mark: ("image" in map(plain, first[mark]), len(first[mark])))
        header, *rows = list(_rows(text, told[1] if told else mark))[bool(told) :] or [(0, [])]
    if not rows:
        raise DataError(f"{path}: has no rows; write a header and a row per image")
    if begin := next((line for line, cells in rows[:20] if "image" in map(plain, cells)), 0):
        raise DataError(f"{path}: the columns are named on line {begin}; remove what stands above")
    for line, cells in (header, *rows) if CONTROL.search(text) else ():
        if bad := [cell for cell in cells if CONTROL.search(cell)]:
            raise DataError(f"{path}, line {line}: {bad[0]!r} holds a control character; remove it")
    names, width = header[1], max(i for i, name in enumerate(header[1], 1) if name)
    for line, cells in rows:
        if len(cells) < width or any(cells[len(names) :]):
            raise DataError(f"{path}, line {line}: {len(cells)} cells, but the header has {len(names)}; mend the row")
        cells += [""] * (len(names) - len(cells))
    nameless = {i for i, name in enumerate(names) if re.fullmatch(r"(Unnamed: .*)?", name)}
    for i in nameless:
        _check_nameless(path, i, rows)
    kept = [i for i in range(len(names)) if i not in nameless]
    return [names[i] for i in kept], [(line, [cells[i] for i in kept]) for line, cells in rows]


def _text(path: Path) -> str:
    """Of UTF-8, of UTF-16 as Excel's "Unicode text" is, or of the older letters of Windows."""
    data = path.read_bytes()
    if data.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0", b"\x1f\x8b", b"PAR1")):
        raise DataError(f"{path}: is no text but a workbook or an archive; save it as CSV")
    if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return data.decode("utf-32")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    for zeros, code in ((data[1:4:2], "utf-16-le"), (data[:3:2], "utf-16-be")):
        if zeros == b"\0\0":
            return data.decode(code)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        warn(f"{path}: is not UTF-8 and was read as Windows letters (cp1252); save it as UTF-8 if a name looks odd")
        return data.decode("latin-1" if re.search(b"[\x81\x8d\x8f\x90\x9d]", data) else "cp1252")


def _rows(text: str, mark: str) -> Iterator[Row]:
    reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=mark), 1
    for row in reader:
        cells = [cell.strip().strip("\ufeff\u200b") for cell in row]
        if any(cells):
            yield line, cells
        line = reader.line_num + 1


def _check_nameless(path: Path, column: int, rows: list[Row]) -> None:
    """Refuse a column without a name that is neither empty nor an index."""
    held = {cells[column]: line for line, cells in reversed(rows) if cells[column]}
    if held and not (len(held) == len(rows) and all(cell.isdecimal() for cell in held)):
        cell, line = list(held.items())[-1]
        raise DataError(f"{path}: column {column + 1} has no name, but {cell!r} on line {line}; name it or remove it")
