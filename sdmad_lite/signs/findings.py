"""Findings on a sign bank, their rules (in lint.toml), and the rules that hold a bank together."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bank import Sign

DATA = tomllib.loads(Path(__file__).with_name("lint.toml").read_text(encoding="utf-8"))
RULES: dict[str, tuple[str, str, str]] = {rule: tuple(row) for rule, row in DATA["rules"].items()}
"""Rule to its severity, what it catches, and what to do."""


@dataclass(frozen=True)
class Finding:
    """One remark on a bank."""

    rule: str  # one of RULES
    message: str  # what is wrong
    place: str  # such as "sign 3 'blunted angle'", counted from 1; "" for the bank as a whole
    severity: str  # "error", "warning" or "note"
    suggestion: str  # what to do
    file: str | None = None  # that holds the bank; None for a bank in memory

    def __str__(self) -> str:
        where = f"{self.file or 'sign bank'}: {self.rule}: {self.place}".removesuffix(" ")
        return f"{where} {self.message}; {self.suggestion}"


def finding(rule: str, message: str, place: str = "", severity: str | None = None) -> Finding:
    """A finding, with the severity of its rule where none is given."""
    return Finding(rule, message, place, severity or RULES[rule][0], RULES[rule][2])


def key(text: str) -> str:
    """A text without case, hyphens and doubled spaces: what has one key is the same."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def short(text: object) -> str:
    """Quoted, and cut where it is long."""
    return repr(whole if len(whole := str(text)) <= 60 else f"{whole[:57]}...")


def structure(categories: Sequence[str], signs: Mapping[str, Sign], normal: Mapping[str, Sign]) -> Iterator[Finding]:
    """What keeps the parts of a bank from fitting together: `load_bank` refuses it. Signs are given by their place."""
    if not categories:
        yield finding("category", "categories is empty")
        return
    known: dict[str, str] = {}  # key -> name as it stands in the list
    for name in categories:
        if key(name) in ("", "normal"):
            yield finding("category", "cannot be used", f"category {short(name)}")
        elif key(name) in known:
            yield finding("category", "is listed twice", f"category {short(name)}")
        known.setdefault(key(name), name)
    for place, sign in signs.items():
        if not sign.categories:
            yield finding("unknown-category", "names no category", place)
        for name in (name for name in sign.categories if name not in categories):
            near = get_close_matches(key(name), known, 1, 0.7) if len(name) < 200 else []
            hint = f"did you mean {short(known[near[0]])}?" if near else f"known are {', '.join(categories)}"
            yield finding("unknown-category", f"names the unknown category {short(name)} ({hint})", place)
    for place in (place for place, sign in normal.items() if sign.categories):
        yield finding("form", "is a normal sign and names categories", place)
    yield from _twice(signs, normal)
    owned = {name for sign in signs.values() for name in sign.categories}
    yield from (finding("no-sign", "has no sign", f"category {short(c)}") for c in categories if c not in owned)
    if not normal:
        yield finding("no-sign", "normal_signs is empty, and scores are measured against normal signs")


def _twice(signs: Mapping[str, Sign], normal: Mapping[str, Sign]) -> Iterator[Finding]:
    """Signs that stand twice but for case, spaces or hyphens, and ids that do."""
    first: dict[str, str] = {}  # key -> place
    ids: set[str] = set()
    for place, sign in {**signs, **normal}.items():
        if (one := first.setdefault(key(sign.text), place)) != place:
            yield finding("also-normal" if one in signs and place in normal else "duplicate", f"is {one} again", place)
        if sign.id is not None and key(sign.id) in ids:
            yield finding("form", f"has the id {short(sign.id)} of another sign", place)
        ids.add(key(sign.id or ""))
