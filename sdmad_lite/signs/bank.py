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

import re
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from ..errors import BankError
from ..files import write_text
from .located import JSONProblem, decode, read

BANKS = Path(__file__).parent / "banks"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def _key(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def _duplicate(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if _key(name) in seen:
            return name
        seen.add(_key(name))
    return None


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
        if not _key(text):
            raise ValueError("is empty: write what is visible in the image, or remove the sign")
        return text


class Generation(_Strict):
    """How a language model was asked; together with `model` and `prompt` enough to ask again."""

    server: str
    """Host and port, never a key or a path."""
    answer_form: str
    """What held the answer in form: "json_schema", "json_object" or "text" (JSON found in free text)."""
    temperature: float | None = None
    """None where the server refused the parameter."""
    seed: int | None = None
    requests: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    software: str


class Provenance(_Strict):
    """Who or what wrote the bank, when, and whether an expert has read it."""

    author: str
    kind: Literal["person", "language model", "generator"]
    date: date
    reviewed: bool
    reviewer: str | None = None
    model: str | None = None
    prompt: str | None = None
    generation: Generation | None = None
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
        if not self.categories:
            raise ValueError("categories is empty: name at least one anomaly category")
        if not self.normal_signs:
            raise ValueError("normal_signs is empty: scores are measured against normal signs, write at least one")
        for category in self.categories:
            if _key(category) in ("", "normal"):
                raise ValueError(f"category {category!r} cannot be used: name an anomaly (normal has normal_signs)")
        if twice := _duplicate(list(self.categories)):
            raise ValueError(f"category {twice!r} is listed twice: remove one")
        if twice := _duplicate([s.text for s in self.signs + self.normal_signs]):
            raise ValueError(f"sign {twice!r} is listed twice: keep one and name all its categories there")
        if twice := _duplicate([s.id for s in self.signs + self.normal_signs if s.id is not None]):
            raise ValueError(f"sign id {twice!r} is used twice: give each sign its own")
        for number, sign in enumerate(self.signs, 1):
            if not sign.categories:
                raise ValueError(f"sign {number} {sign.text!r} names no category: add one or remove the sign")
            for category in sign.categories:
                if category not in self.categories:
                    raise ValueError(
                        f"sign {number} {sign.text!r} names the unknown category {category!r}: "
                        f"use one of {', '.join(self.categories)}"
                    )
        for sign in self.normal_signs:
            if sign.categories:
                raise ValueError(f"normal sign {sign.text!r} names categories: leave them out or move it to signs")
        owned = {c for sign in self.signs for c in sign.categories}
        for category in self.categories:
            if category not in owned:
                raise ValueError(f"category {category!r} has no sign: write at least one, or remove the category")
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
        signs = tuple(
            sign.model_copy(update={"categories": tuple(c for c in sign.categories if c in categories)})
            for sign in self.signs
            if set(sign.categories) & set(categories)
        )
        return parse_bank({**self.model_dump(), "categories": categories, "signs": [s.model_dump() for s in signs]})

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


def parse_bank(data: object, source: str = "sign bank") -> SignBank:
    """Validate a bank given as plain data. Raises BankError that names the entry and the remedy."""
    try:
        return SignBank.model_validate(data)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message = "unknown key; correct its spelling or remove it"
            problems.append(f"{where}: {message}" if where else message)
        raise BankError(f"{source}: " + "; ".join(problems)) from None


def bank_path(name_or_path: str | Path) -> Path:
    """The file of a shipped bank given by name, or the path itself."""
    shipped = BANKS / f"{name_or_path}.json"
    return shipped if str(name_or_path) in shipped_banks() else Path(name_or_path)


def read_bank(name_or_path: str | Path) -> tuple[Path, bytes]:
    """Path and content of a bank's file. Raises BankError where there is none that can be read."""
    path = bank_path(name_or_path)
    try:
        return path, read(path)
    except (OSError, ValueError) as error:  # ValueError: too large, or no possible path
        raise _unreadable(path, error) from None


def load_bank(name_or_path: str | Path) -> SignBank:
    """Load a shipped bank by name (see `shipped_banks`) or any bank by its path.

    Raises:
        BankError: the file is missing, not JSON, or not a valid bank.
    """
    path, data = read_bank(name_or_path)
    try:
        content = decode(data.decode("utf-8-sig"))
    except JSONProblem as error:
        raise _unreadable(path, f"line {error.line}: {error}") from None
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from None
    return parse_bank(content, source=str(path))


def _unreadable(path: Path, why: object) -> BankError:
    known = ", ".join(shipped_banks())
    return BankError(f"{path}: cannot be read as a sign bank ({why}); give a JSON file, or one of {known}")


def shipped_banks() -> list[str]:
    """Names of the banks in the package."""
    return sorted(path.stem for path in BANKS.glob("*.json"))
