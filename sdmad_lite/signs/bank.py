"""What to look for: a sign bank says which radiological signs speak for which category.

A bank is a JSON file that people can read and audit (docs/signs.md shows one). A sign may belong to several categories
[paper: categories share signs, their combination differs]. `rules.structure` holds what keeps a bank together; `lint`
adds what is doubtful in a bank that is well formed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import BankError
from ..files import strict_json, write_text
from .rules import DATA, short, structure

BANKS = Path(__file__).parent / "banks"
MAX_BYTES = 5_000_000  # of a bank's file
PARTS = {"signs": "sign", "normal_signs": "normal sign"}  # a list of a bank to what one of its entries is called


def _plain(text: str) -> str:
    if found := re.search(DATA["unseen"], text):
        raise ValueError(f"holds the unseen character U+{ord(found[0]):04X}, which no sign needs; type it again")
    return text


PLAIN = AfterValidator(_plain)  # a text shows all that it holds
Line = Annotated[str, Field(max_length=1000), PLAIN]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)


class Sign(_Strict):
    """One visible finding in words, e.g. "blunted costophrenic angle"."""

    text: Line
    categories: tuple[Line, ...] = ()
    id: Line | None = None  # short name by which a generator or a figure refers to the sign
    accept: dict[str, str] | None = None  # rule of the linter to the reason why this sign may break it


class Provenance(_Strict):
    """Who or what wrote the bank, when, and whether an expert has read it."""

    author: Line
    kind: Literal["person", "language model", "generator"]
    date: date
    reviewed: bool
    reviewer: str | None = None
    model: str | None = None
    prompt: str | None = None
    generation: dict[str, str | int | float | None] | None = None  # how the model was asked
    note: str | None = None


class SignBank(_Strict):
    """Signs, the categories they speak for, and the signs of a normal image.

    Order is fixed: every matrix has the signs in the order of `texts`, and label columns in that of `categories`.
    """

    name: Line
    modality: Line
    color: bool = False
    categories: tuple[Line, ...] = Field(min_length=1)
    signs: tuple[Sign, ...]
    normal_signs: tuple[Sign, ...] = Field(min_length=1)  # scores are measured against them
    provenance: Provenance

    @model_validator(mode="after")
    def _consistent(self) -> SignBank:
        signs, normal = (placed(part, getattr(self, part)) for part in PARTS)
        if found := [*structure(self.categories, signs, normal)][:10]:
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
        return self.owned([[c for c in s.categories if c in categories] for s in self.signs], categories=categories)

    def owned(self, owners: Iterable[list[str]], **changes: object) -> SignBank:
        """A copy in which each sign has other categories; signs without any are left out."""
        signs = [{**s.model_dump(), "categories": own} for s, own in zip(self.signs, owners, strict=True) if own]
        return parse_bank({**self.model_dump(), **changes, "signs": signs})

    def save(self, path: str | Path) -> Path:
        """Write the bank as JSON, whole or not at all."""
        return write_text(path, self.model_dump_json(indent=2, exclude_none=True) + "\n")


def placed(part: str, rows: object) -> dict[str, Sign]:
    """The signs of one of the two lists by their place in words; an entry that is no sign is left out."""
    found = {}
    for number, row in enumerate(rows if isinstance(rows, (list, tuple)) else (), 1):
        with suppress(ValidationError):
            sign = Sign.model_validate(row)
            found[f"{PARTS[part]} {number} {short(sign.text)}"] = sign
    return found


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
