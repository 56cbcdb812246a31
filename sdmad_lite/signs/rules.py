"""The rules for sign banks, as lint.toml has them, what is said where one is broken, and what keeps a bank together."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bank import Sign

DATA = tomllib.loads(Path(__file__).with_name("lint.toml").read_text(encoding="utf-8"))
# rule to its severity, what it catches, and what to do
RULES: dict[str, tuple[str, str, str]] = {rule: tuple(row) for rule, row in DATA["rules"].items()}


@dataclass
class Finding:
    """One remark on a bank."""

    rule: str  # of RULES
    message: str  # what is wrong
    place: str = ""  # such as "sign 3 'blunted angle'", counted from 1; "" for the bank as a whole
    severity: str = ""  # "error", "warning" or "note"; by default the rule's
    suggestion: str = ""  # what to do; by default the rule's
    file: str | None = None  # that holds the bank; None for a bank in memory

    def __post_init__(self):
        self.severity, self.suggestion = self.severity or RULES[self.rule][0], self.suggestion or RULES[self.rule][2]

    def __str__(self) -> str:
        where = f"{self.file or 'sign bank'}: {self.rule}: {self.place}".removesuffix(" ")
        return f"{where} {self.message}; {self.suggestion}"


def key(text: str) -> str:
    """A text without case, hyphens and doubled spaces: what has one key is the same."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def short(text: object, most: int = 60) -> str:
    """Quoted, in one line, and cut where it is long."""
    return repr(whole if len(whole := str(text)) <= most else f"{whole[: most - 3]}...")


def structure(categories: Sequence[str], signs: Mapping[str, Sign], normal: Mapping[str, Sign]) -> Iterator[Finding]:
    """What keeps the parts of a bank from fitting together: `load_bank` refuses it. Signs are given by their place."""
    for n, name in enumerate(keys := [key(name) for name in categories]):
        if name in ["", "normal", *keys[:n]]:
            what = "is listed twice" if name in keys[:n] else "cannot be used"
            yield Finding("category", what, f"category {short(categories[n])}")
    first: dict[str, str] = {}  # key of a text, or of an id, to its place
    for place, sign in {**signs, **normal}.items():
        if not key(sign.text):
            yield Finding("form", "is empty", place)
        if place in normal and sign.categories:
            yield Finding("form", "is a normal sign and names categories", place)
        elif place in signs and not sign.categories:
            yield Finding("unknown-category", "names no category", place)
        for name in [name for name in sign.categories if name not in categories] if place in signs else ():
            known = ", ".join(categories)
            yield Finding("unknown-category", f"names the unknown category {short(name)} (known are {known})", place)
        if (one := first.setdefault(key(sign.text), place)) != place:
            yield Finding("also-normal" if one in signs and place in normal else "duplicate", f"is {one} again", place)
        if sign.id and first.setdefault(f"id: {key(sign.id)}", place) != place:
            yield Finding("form", f"has the id {short(sign.id)} of another sign", place)
    owned = {name for sign in signs.values() for name in sign.categories}
    yield from (Finding("no-sign", "has no sign", f"category {short(c)}") for c in categories if c not in owned)
