"""Support draws as data: which rows of a training table were drawn, in a file that others can use.

episodes = draw_episodes(train, shots=[1, 4, 16], draws=5, seed=0, name="chest phantoms")
episodes.save("chest.json")
support = load_episodes("chest.json").support(train, shots=4, draw=0)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from ..data import ImageTable, draw_support
from ..errors import DataError
from ..files import write_text


def _each_once(rows: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(rows)) < len(rows):
        raise ValueError("names a row twice")
    return rows


Draw = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), AfterValidator(_each_once)]


class Episodes(BaseModel):
    """Draws from one table; the hash says which, so that row numbers are never read from another one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1  # of this file format
    name: str  # of the data set
    seed: int  # draw d was drawn with seed + d
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # `table_hash` of the training table
    draws: dict[PositiveInt, Annotated[tuple[Draw, ...], Field(min_length=1)]] = Field(
        min_length=1
    )  # K -> rows of each

    def rows(self, table: ImageTable, shots: int, draw: int) -> np.ndarray:
        """Rows of the training table in draw number `draw` (from 0) of K = `shots`.

        Raises:
            DataError: another table, or a draw that is not there.
        """
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
    """Draw `draws` support sets of each K in `shots` by patient (`draw_support`), the d-th with seed + d.

    Raises:
        DataError: no draw is asked for, or there are too few patients.
    """
    if draws < 1 or not len(shots):
        raise DataError(f"draws is {draws} for {len(shots)} numbers of shots: both must be at least 1")
    drawn = {k: tuple(tuple(draw_support(table, k, seed + d).tolist()) for d in range(draws)) for k in shots}
    return Episodes(name=name, seed=seed, sha256=table_hash(table), draws=drawn)


def load_episodes(path: str | Path) -> Episodes:
    """Read what `Episodes.save` wrote.

    Raises:
        DataError: the file is missing, not JSON, of another version, or not a valid set of draws.
    """
    try:
        return Episodes.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(f"{path}: no valid support draws ({problems}); draw them again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as support draws ({error}); give a file that save() wrote") from None
