"""What to look for: a sign bank says which radiological signs speak for which category.

A bank is a JSON file that people can read and audit:

    {"name": ..., "modality": ..., "categories": [...],
     "signs": [{"text": ..., "categories": [...]}, ...],
     "normal_signs": [{"text": ...}, ...],
     "provenance": {"author": ..., "kind": ..., "date": ..., "reviewed": ..., ...}}

A sign may belong to several categories [paper: categories share signs, their combination differs].
`structure` holds what keeps a bank together; `lint` adds what is doubtful in a bank that is well formed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import BankError
from ..files import write_text

BANKS = Path(__file__).parent / "banks"
MAX_BYTES = 5_000_000  # of a bank's file
PARTS = {"signs": "sign", "normal_signs": "normal sign"}  # a list of a bank to what one of its entries is called
DATA = tomllib.loads(Path(__file__).with_name("lint.toml").read_text(encoding="utf-8"))
# rule to its severity, what it catches, and what to do
RULES: dict[str, tuple[str, str, str]] = {rule: tuple(row) for rule, row in DATA["rules"].items()}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)


class Sign(_Strict):
    """One visible finding in words, e.g. "blunted costophrenic angle"."""

    text: str = Field(max_length=1000)
    categories: tuple[str, ...] = ()
    id: str | None = None  # short name by which a generator or a figure refers to the sign
    accept: dict[str, str] | None = None  # rule of the linter to the reason why this sign may break it


class Provenance(_Strict):
    """Who or what wrote the bank, when, and whether an expert has read it."""

    author: str
    kind: Literal["person", "language model", "generator"]
    date: date
    reviewed: bool
    reviewer: str | None = None
    model: str | None = None
    prompt: str | None = None
    # how the model was asked: server, form of the answers, settings, requests, tokens, software
    generation: dict[str, str | int | float | None] | None = None
    note: str | None = None


class SignBank(_Strict):
    """Signs, the categories they speak for, and the signs of a normal image.

    Order is fixed: `texts` lists the signs of the categories first, then the normal signs; every
    matrix of the package uses this order, and `categories` is the order of label columns.
    """

    name: str
    modality: str
    color: bool = False
    categories: tuple[str, ...] = Field(min_length=1)
    signs: tuple[Sign, ...]
    normal_signs: tuple[Sign, ...] = Field(min_length=1)  # scores are measured against them
    provenance: Provenance

    @model_validator(mode="after")
    def _consistent(self) -> SignBank:
        signs, normal = (placed(part, enumerate(getattr(self, part))) for part in PARTS)
        if found := list(islice(structure(self.categories, signs, normal), 10)):
            raise ValueError("; ".join(f"{one.place} {one.message}; {one.suggestion}" for one in found))
        return self

    @property
    def texts(self) -> list[str]:
        """All S sign texts, category signs first, then the normal ones."""
        return [sign.text for sign in self.signs + self.normal_signs]

    def membership(self) -> np.ndarray:
        """M: (C+1, S) in {0, 1}; row 0 is normal, row c+1 is category c."""
        signs = self.signs + self.normal_signs  # a normal sign has no category, every other has one
        own = [[category in sign.categories for sign in signs] for category in self.categories]
        return np.array([[not sign.categories for sign in signs], *own], dtype=np.float32)

    def signs_of(self, category: str) -> list[str]:
        """Sign texts of one category, or of "normal"."""
        if category == "normal":
            return [sign.text for sign in self.normal_signs]
        if category not in self.categories:
            raise BankError(f"unknown category {category!r}: use one of {', '.join(self.categories)}")
        return [sign.text for sign in self.signs if category in sign.categories]

    def restricted(self, categories: list[str]) -> SignBank:
        """The same bank for some of its categories, in the order given."""
        for category in categories:
            self.signs_of(category)  # raises on an unknown name
        owners = [[c for c in sign.categories if c in categories] for sign in self.signs]
        return self._owned(owners, categories=categories)

    def with_wrong_signs(self, fraction: float, seed: int = 0) -> SignBank:
        """A dirty copy, for lessons on selection [ours]: `fraction` of each list are signs of other categories."""
        if not 0 <= fraction < 1:
            raise BankError(f"fraction is {fraction}: it must be at least 0 and below 1")
        rng = np.random.default_rng(seed)
        owners = [list(sign.categories) for sign in self.signs]
        for category in self.categories:
            others = [s for s, sign in enumerate(self.signs) if category not in sign.categories]
            right = len(self.signs) - len(others)
            wrong = min(round(right * fraction / (1 - fraction)), len(others))
            for s in rng.choice(others, size=wrong, replace=False):
                owners[s].append(category)
        return self._owned(owners, name=f"{self.name}+{fraction:.0%} wrong")

    def _owned(self, owners: Iterable[list[str]], **changes: object) -> SignBank:
        """A copy in which each sign has other categories; signs without any are left out."""
        signs = [{**s.model_dump(), "categories": own} for s, own in zip(self.signs, owners, strict=True) if own]
        return parse_bank({**self.model_dump(), **changes, "signs": signs})

    def save(self, path: str | Path) -> Path:
        """Write the bank as JSON, whole or not at all."""
        return write_text(path, self.model_dump_json(indent=2, exclude_none=True) + "\n")


# What keeps a bank together


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


def short(text: object, most: int = 60) -> str:
    """Quoted, in one line, and cut where it is long."""
    return repr(whole if len(whole := str(text)) <= most else f"{whole[: most - 3]}...")


def placed(part: str, signs: Iterable[tuple[int, Sign]]) -> dict[str, Sign]:
    """Numbered signs of one of the two lists (from 0), by their place in words."""
    return {f"{PARTS[part]} {number + 1} {short(sign.text)}": sign for number, sign in signs}


def structure(categories: Sequence[str], signs: Mapping[str, Sign], normal: Mapping[str, Sign]) -> Iterator[Finding]:
    """What keeps the parts of a bank from fitting together: `load_bank` refuses it. Signs are given by their place."""
    seen: set[str] = set()  # keys of categories
    for name in categories:
        if key(name) in {"", "normal"} | seen:
            what = "is listed twice" if key(name) in seen else "cannot be used"
            yield finding("category", what, f"category {short(name)}")
        seen.add(key(name))
    first: dict[str, str] = {}  # key of a text -> place
    ids: set[str] = set()
    for place, sign in {**signs, **normal}.items():
        if not key(sign.text):
            yield finding("form", "is empty", place)
        if place in normal and sign.categories:
            yield finding("form", "is a normal sign and names categories", place)
        elif place in signs and not sign.categories:
            yield finding("unknown-category", "names no category", place)
        for name in [name for name in sign.categories if name not in categories] if place in signs else ():
            known = ", ".join(categories)
            yield finding("unknown-category", f"names the unknown category {short(name)} (known are {known})", place)
        if (one := first.setdefault(key(sign.text), place)) != place:
            yield finding("also-normal" if one in signs and place in normal else "duplicate", f"is {one} again", place)
        if sign.id is not None and key(sign.id) in ids:
            yield finding("form", f"has the id {short(sign.id)} of another sign", place)
        ids.add(key(sign.id or ""))
    owned = {name for sign in signs.values() for name in sign.categories}
    yield from (finding("no-sign", "has no sign", f"category {short(c)}") for c in categories if c not in owned)


# Reading


def problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Place and message of each problem that pydantic found; a sign is named by its number."""
    for item in error.errors(include_url=False):
        where, entry = [str(part) for part in item["loc"]], ""
        if len(where) > 1 and where[0] in PARTS:
            entry, where = f"{PARTS[where[0]]} {int(where[1]) + 1}", where[2:]
        yield ": ".join(filter(None, (entry, ".".join(where)))), item["msg"].removeprefix("Value error, ")


def parse_bank(data: object, source: str = "sign bank") -> SignBank:
    """Validate a bank given as plain data. Raises BankError that names the entry and the remedy."""
    try:
        return SignBank.model_validate(data)
    except ValidationError as error:
        found = (f"{place}: {message}" if place else message for place, message in problems(error))
        raise BankError(f"{source}: " + "; ".join(found)) from None


def strict_json(text: str) -> object:
    """Parse JSON; a repeated key, of which the standard library keeps the last, is a ValueError."""

    def once(pairs: list[tuple[str, object]]) -> dict:
        if len(record := dict(pairs)) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {short(twice)} stands twice in one object")
        return record

    return json.loads(text, object_pairs_hook=once)


def read_bank(name_or_path: str | Path) -> tuple[str, object]:
    """Path and plain data of a shipped bank or a file. Raises BankError where it cannot be read or is no JSON."""
    path = BANKS / f"{name_or_path}.json" if str(name_or_path) in shipped_banks() else Path(name_or_path)
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES // 1_000_000} MB")
        return str(path), strict_json(data.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no possible path, or no JSON
        known = ", ".join(shipped_banks())
        why = f"cannot be read as a sign bank ({error}); give a JSON file, or one of {known}"
        raise BankError(f"{path}: {why}") from None


def load_bank(name_or_path: str | Path) -> SignBank:
    """A shipped bank by name, or any by its path. Raises BankError: it is missing, not JSON, or not a valid bank."""
    path, data = read_bank(name_or_path)
    return parse_bank(data, source=path)


def shipped_banks() -> list[str]:
    """Names of the banks in the package."""
    return sorted(path.stem for path in BANKS.glob("*.json"))
