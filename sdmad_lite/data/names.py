"""Names of classes: which of them means normal, and which category of a bank each one is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import DataError

Names = Sequence[str] | None

NORMAL = (
    *("normal", "no finding", "no findings", "nofinding", "healthy", "control", "negative", "no tumor", "notumor"),
    *("no tumour", "no disease", "good"),
)
"""Names taken for the normal class when the user names none; case, `_` and `-` do not count."""


def plain(name: str) -> str:
    """Without what differs between the name of a folder and that of a category."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def suggest(name: str, known: Iterable[str]) -> str:
    """For the end of a message about an unknown name: the one that was meant, or all that are known."""
    by_plain = {plain(other): other for other in known}
    near = difflib.get_close_matches(plain(name), by_plain, 1)
    return f"did you mean {by_plain[near[0]]!r}?" if near else f"known are {', '.join(by_plain.values())}"


def find_normal(where, names: Sequence[str], normal: str | None, categories: Names = None) -> str | None:
    """The one of `names` that means normal; None if there is none.

    `where` names the data in messages. `normal` is as in `load_data`; names that are `categories` are not recognised
    as normal. Raises a DataError where it is none of the names, or several.
    """
    if normal == "":
        return None
    if normal is None:
        known = {plain(c) for c in categories or ()}
        found = [name for name in names if plain(name) in NORMAL and plain(name) not in known]
    else:
        found = [normal] if normal in names else [name for name in names if plain(name) == plain(normal)]
        if not found:
            raise DataError(f"{where}: no class is named {normal!r}; the classes are {', '.join(names)}")
    if len(found) > 1:
        raise DataError(f"{where}: {' and '.join(found)} may both mean normal; say which with normal=, join the others")
    return found[0] if found else None


def to_categories(
    where, names: Sequence[str], labels: np.ndarray, normal: str | None, categories: Names
) -> tuple[tuple[str, ...], np.ndarray]:
    """C names and Y, (N, C): the columns without the normal one, named and ordered as `categories` if there are any.

    `names` are of the K columns of `labels`, (N, K) in {0, 1}. A column that is no category is a DataError.
    """
    column = {name: i for i, name in enumerate(names) if name != normal}
    if categories is not None:
        spelled = {plain(c): c for c in categories}
        if unknown := [name for name in column if plain(name) not in spelled]:
            hint = suggest(unknown[0], categories)
            raise DataError(f"{where}: class {unknown[0]!r} is no category; {hint} (normal= names the normal class)")
        column = {spelled[plain(name)]: i for name, i in column.items()}
        column = {c: column[c] for c in categories if c in column}
    if not column:
        raise DataError(f"{where}: the only class is {normal!r}; add images of the categories to detect")
    return tuple(column), np.ascontiguousarray(labels[:, list(column.values())], dtype=np.int64)
