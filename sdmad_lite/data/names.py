"""Names of classes and columns: which mean the same, which means normal, and which are no findings."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from ..errors import DataError, warn

Names = Sequence[str] | None

NORMAL = (
    *("normal", "no finding", "no findings", "healthy", "control", "negative", "no tumor", "no tumour", "no disease"),
    "good",
)
"""Names taken for the normal class when the user names none; in the form that `plain` leaves they are compared."""

ABOUT_IMAGES = frozenset(
    """age birth bmi body camera date day device exam female fold folder follow gender group height hospital icu id idx
    index inpatient is male manufacturer model number old over path patient portable position quality row scanner set
    sex site smoker source split study subset test time train training under unnamed up val valid validation view visit
    weight width year years young""".split()
)
"""Words of columns that say who, when, where and how: a further column made of them alone is no finding."""


def plain(name: str) -> str:
    """Without what differs between two spellings: case, Unicode form, blanks, `_` and `-` (not between two numbers).

    Letters of no width count for nothing, dashes of any kind as `-`.
    """
    letters = unicodedata.normalize("NFKC", str(name))
    kinds = zip(letters, map(unicodedata.category, letters), strict=True)
    name = "".join("-" if kind == "Pd" else letter for letter, kind in kinds if kind != "Cf").strip().casefold()
    return re.sub(r"[\s_-]+", " ", re.sub(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)", "", name))


@cache
def _known_findings() -> frozenset[str]:
    """The categories of all included banks, plain."""
    banks = (Path(__file__).parents[1] / "signs" / "banks").glob("*.json")
    return frozenset(plain(c) for bank in banks for c in json.loads(bank.read_text(encoding="utf-8"))["categories"])


def is_finding(name: str, others: Names, missing: Iterable[str] = ()) -> bool:
    """Whether a class that is no category is a finding for certain.

    It is if `others` name it, or an included bank does and it is no misspelt one of the `missing` categories.
    """
    known = plain(name) in _known_findings() and not nearest(name, missing)
    return known or plain(name) in map(plain, others or ())


def suggest(name: str, known: Iterable[str]) -> str:
    """For the end of a message about an unknown name: the one that was meant, or all that are known."""
    near = nearest(name, known := list(known), 0.6)
    return f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"


def nearest(name: str, known: Iterable[str], least: float = 0.8) -> str | None:
    """The known name that this one may be meant for, if any is as near as `least`, from 0 to 1."""
    by_plain = {plain(other): other for other in known}
    near = difflib.get_close_matches(plain(name), by_plain, 1, least)
    return by_plain[near[0]] if near else None


def spelled(where, names: Sequence[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Each name -> one spelling: the known one, else the first. Several spellings of one class are said."""
    one = {plain(name): name for name in known}
    found = {name: one.setdefault(plain(name), name) for name in names}
    for name in dict.fromkeys(found.values()):
        if len(forms := [repr(form) for form in found if found[form] == name]) > 1:
            warn(f"{where}: {' and '.join(forms)} are taken for one class, {name}")
    return found


def find_normal(where, names: Sequence[str], normal: str | None, categories: Names = None) -> str | None:
    """The one of `names` that means normal; None if there is none.

    `where` names the data in messages. `normal` is as in `load_data`; names that are `categories` are not recognised
    as normal. Raises a DataError where it is none of the names, or several.
    """
    if normal == "":
        return None
    if normal is None:
        usual = {plain(name) for name in NORMAL} - {plain(c) for c in categories or ()}
        found = [name for name in names if plain(name) in usual]
    else:
        found = [name for name in names if plain(name) == plain(normal)]
        if not found:
            raise DataError(f"{where}: no class is named {normal!r}; the classes are {', '.join(names)}")
    if len(found) > 1:
        raise DataError(f"{where}: {' and '.join(found)} may both mean normal; say which with normal=, join the others")
    return found[0] if found else None


def check_others(where, names: Sequence[str], others: Names) -> None:
    """Refuse `others` that are none of the names: a misspelt one would pass its finding over."""
    if unknown := [name for name in others or () if plain(name) not in map(plain, names)]:
        raise DataError(f"{where}: others= names {unknown[0]!r}, which is not there; {suggest(unknown[0], names)}")


def about_images(name: str) -> bool:
    """Whether the name of a column says that it describes images: sex, fold 1, age>60, Unnamed: 0."""
    return ABOUT_IMAGES.issuperset(re.findall(r"[^\W\d_]+", name.casefold()))
