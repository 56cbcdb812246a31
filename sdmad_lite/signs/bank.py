"""What to look for: a sign bank says which radiological signs speak for which category.

A bank is a JSON file that people can read and audit:

    {"name": ..., "modality": ..., "categories": [...],
     "signs": [{"text": ..., "categories": [...]}, ...],
     "normal_signs": [{"text": ...}, ...],
     "provenance": {"author": ..., "kind": ..., "date": ..., "reviewed": ..., ...}}

A sign may belong to several categories [paper: categories share signs, their combination differs].
`lint` says what is doubtful in a bank that is well formed, `generate` asks a language model for one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from ..errors import BankError
from ..files import write_text
from .findings import key, short, structure

BANKS = Path(__file__).parent / "banks"
MAX_BYTES = 5_000_000
"""Of a bank's file."""
PARTS = {"signs": "sign", "normal_signs": "normal sign"}
"""List of a bank to what one of its entries is called."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Sign(_Strict):
    """One visible finding in words, e.g. "blunted costophrenic angle"."""

    text: str
    categories: tuple[str, ...] = ()
    id: str | None = None
    """Short name by which a generator or a figure refers to the sign."""
    accept: dict[str, str] | None = None
    """Rule of the linter to the reason why this sign may break it."""

    @field_validator("text")
    @classmethod
    def _not_empty(cls, text: str) -> str:
        if not key(text):
            raise ValueError("is empty: write what is visible in the image, or remove the sign")
        return text


class Provenance(_Strict):
    """Who or what wrote the bank, when, and whether an expert has read it."""

    author: str
    kind: Literal["person", "language model", "generator"]
    date: date
    reviewed: bool
    reviewer: str | None = None
    model: str | None = None
    prompt: str | None = None
    generation: dict[str, str | int | float | None] | None = None
    """How the model was asked: server, form of the answers, settings, requests, tokens, software."""
    note: str | None = None


class SignBank(_Strict):
    """Signs, the categories they speak for, and the signs of a normal image.

    Order is fixed: `texts` lists the signs of the categories first, then the normal signs; every
    matrix of the package uses this order, and `categories` is the order of label columns.
    """

    name: str
    modality: str
    color: bool = False
    categories: tuple[str, ...]
    signs: tuple[Sign, ...]
    normal_signs: tuple[Sign, ...]
    provenance: Provenance

    @model_validator(mode="after")
    def _consistent(self) -> SignBank:
        signs, normal = (placed(part, enumerate(getattr(self, part))) for part in PARTS)
        if found := list(islice(structure(self.categories, signs, normal), 10)):
            raise ValueError("; ".join(f"{f.place} {f.message}; {f.suggestion}".strip() for f in found))
        return self

    @property
    def texts(self) -> list[str]:
        """All S sign texts, category signs first, then the normal ones."""
        return [sign.text for sign in self.signs + self.normal_signs]

    def membership(self) -> np.ndarray:
        """M: (C+1, S) in {0, 1}; row 0 is normal, row c+1 is category c."""
        member = np.zeros((len(self.categories) + 1, len(self.texts)), dtype=np.float32)
        for s, sign in enumerate(self.signs):
            for category in sign.categories:
                member[self.categories.index(category) + 1, s] = 1
        member[0, len(self.signs) :] = 1
        return member

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
        signs = [{**s.model_dump(), "categories": own} for s, own in zip(self.signs, owners, strict=True) if own]
        return parse_bank({**self.model_dump(), "categories": categories, "signs": signs})

    def with_wrong_signs(self, fraction: float, seed: int = 0) -> SignBank:
        """A dirty copy: signs of other categories are added until `fraction` of each list is wrong.

        For lessons and tests on selection (our choice; a language model's bank is never clean).
        """
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
        signs = [{**s.model_dump(), "categories": own} for s, own in zip(self.signs, owners, strict=True)]
        return parse_bank({**self.model_dump(), "name": f"{self.name}+{fraction:.0%} wrong", "signs": signs})

    def save(self, path: str | Path) -> Path:
        """Write the bank as JSON, whole or not at all."""
        return write_text(path, self.model_dump_json(indent=2, exclude_none=True) + "\n")


def placed(part: str, signs: Iterable[tuple[int, Sign]]) -> dict[str, Sign]:
    """Numbered signs of one of the two lists (from 0), by their place in words."""
    return {f"{PARTS[part]} {number + 1} {short(sign.text)}": sign for number, sign in signs}


def problems(error: ValidationError, data: Any) -> Iterator[tuple[str, str]]:
    """Place and message of each problem that pydantic found; a sign is named by its number and its text."""
    for item in error.errors(include_url=False):
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; correct its spelling or remove it"
        place, where = "", [str(part) for part in item["loc"]]
        if len(where) > 1 and where[0] in PARTS:
            part, number, where = where[0], int(where[1]), where[2:]
            sign = data[part][number]
            text = sign.get("text") if isinstance(sign, dict) else None
            place = f"{PARTS[part]} {number + 1}" + (f" {short(text)}" if text else "")
        yield ": ".join(filter(None, (place, ".".join(where)))), message


def parse_bank(data: object, source: str = "sign bank") -> SignBank:
    """Validate a bank given as plain data. Raises BankError that names the entry and the remedy."""
    try:
        return SignBank.model_validate(data)
    except ValidationError as error:
        found = (f"{place}: {message}" if place else message for place, message in problems(error, data))
        raise BankError(f"{source}: " + "; ".join(found)) from None


def strict_json(text: str | bytes) -> object:
    """Parse JSON in UTF-8. Refused, where the standard library is silent: repeated keys (the last would win), NaN.

    Raises:
        ValueError: says what is wrong, and in which line and column where it is the syntax.
    """

    def refuse(constant: str):
        raise ValueError(f"{constant} is no value of JSON")

    def once(pairs: list[tuple[str, object]]) -> dict:
        if len(record := dict(pairs)) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {short(twice)} stands twice in one object")
        return record

    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_bank(name_or_path: str | Path) -> tuple[Path, bytes]:
    """Path and content of a bank's file, shipped or not. Raises BankError where there is none that can be read."""
    path = BANKS / f"{name_or_path}.json" if str(name_or_path) in shipped_banks() else Path(name_or_path)
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES // 1_000_000} MB")
    except (OSError, ValueError) as error:  # ValueError: too large, or no possible path
        raise _unreadable(path, error) from None
    return path, data


def load_bank(name_or_path: str | Path) -> SignBank:
    """Load a shipped bank by name (see `shipped_banks`) or any bank by its path.

    Raises:
        BankError: the file is missing, not JSON, or not a valid bank.
    """
    path, data = read_bank(name_or_path)
    try:
        content = strict_json(data)
    except ValueError as error:
        raise _unreadable(path, error) from None
    return parse_bank(content, source=str(path))


def _unreadable(path: Path, why: object) -> BankError:
    known = ", ".join(shipped_banks())
    return BankError(f"{path}: cannot be read as a sign bank ({why}); give a JSON file, or one of {known}")


def shipped_banks() -> list[str]:
    """Names of the banks in the package."""
    return sorted(path.stem for path in BANKS.glob("*.json"))
