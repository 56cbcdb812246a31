"""Support draws as data: which rows of a training table were drawn, in a file that others can use.

episodes = draw_episodes(train, shots=[1, 4, 16], draws=5, seed=0, name="chest phantoms")
episodes.save("chest.json")
support = load_episodes("chest.json").support(train, shots=4, draw=0)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.errors import DataError
from sdmad_lite.files import strict_json, write_text
from sdmad_lite.settings import AtLeastOne, Count, checked
from sdmad_lite.signs.bank import problems


def _each_once(rows: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(rows)) < len(rows):
        raise ValueError("names a row twice")
    return rows


def _plain(shots: int | str) -> int | str:
    """The keys of JSON are texts; each K has one spelling, or "4" and "04" would be one K and lose draws."""
    if not re.fullmatch("0|[1-9][0-9]*", str(shots)):
        raise ValueError("write K as a whole number in plain digits")
    return int(shots)


Draw = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_each_once)]
Draws = Annotated[tuple[Draw, ...], Field(min_length=1)]


class Episodes(BaseModel, frozen=True, extra="forbid", strict=True):
    """Draws from one table; the hash says which, so that row numbers are never read from another one."""

    version: Annotated[int, Field(ge=1, le=1)] = 1  # of this file format
    name: str  # of the data set
    seed: int  # draw d was drawn with seed + d
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # `table_hash` of the training table
    draws: dict[Annotated[AtLeastOne, BeforeValidator(_plain)], Draws] = Field(min_length=1)  # K -> rows of each

    def rows(self, table: ImageTable, shots: int, draw: int) -> np.ndarray:
        """Rows of the training table in draw number `draw` (from 0) of K = `shots`."""
        what, drawn = f"episodes of {self.name!r}", self.draws.get(shots, ())
        if table_hash(table) != self.sha256:
            raise DataError(f"{what}: drawn from another table; its labels or patients differ")
        if not 0 <= draw < len(drawn):
            there = ", ".join(f"{len(draws)} of K = {k}" for k, draws in self.draws.items())
            raise DataError(f"{what}: no draw {draw} of K = {shots}; there are {there}")
        if max(drawn[draw]) >= len(table):
            raise DataError(f"{what}: row {max(drawn[draw])} of a table with {len(table)}")
        return np.asarray(drawn[draw])

    def support(self, table: ImageTable, shots: int, draw: int) -> ImageTable:
        """The support set of one draw; see `rows`."""
        return table.rows(self.rows(table, shots, draw))

    def save(self, path: str | Path) -> Path:
        """Write the draws as JSON, whole or not at all."""
        return write_text(path, json.dumps(self.model_dump(mode="json")) + "\n")


def table_hash(table: ImageTable) -> str:
    """SHA-256, in hexadecimal, over categories, labels and patients of a table, in its order of rows."""
    content = [list(table.categories), table.labels.astype(int).tolist(), table.patients().astype(str).tolist()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def draw_episodes(table: ImageTable, shots: Sequence[int], draws: int, seed: int = 0, name: str = "") -> Episodes:
    """Draw `draws` support sets of each K in `shots` by patient (`draw_support`), the d-th with seed + d."""
    shots, seed = [checked("shots", k, AtLeastOne) for k in shots], checked("seed", seed, Count)
    if draws < 1 or not len(shots):
        raise DataError(f"draws is {draws} for {len(shots)} numbers of shots: both must be at least 1")
    drawn = {k: tuple(tuple(draw_support(table, k, seed + d).tolist()) for d in range(draws)) for k in shots}
    return Episodes(name=name, seed=seed, sha256=table_hash(table), draws=drawn)


def load_episodes(path: str | Path) -> Episodes:
    """Read what `Episodes.save` wrote."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        strict_json(text)  # refuses a key that stands twice
        return Episodes.model_validate_json(text)
    except ValidationError as error:
        found = "; ".join(f"{place}: {what}" for place, what in islice(problems(error), 3))
        raise DataError(f"{path}: no valid support draws ({found}); draw them again") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as support draws ({error}); give a file that save() wrote") from None
