"""A test set that fitting code cannot read: it is opened once, for predictors that are finished.

    sealed = SealedTest(test)
    detector.fit(images, labels)
    sealed.open({"mine": detector.predict_proba}).results["mine"].multilabel.macro

A second look is refused: whoever chooses after the first one reports luck.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..data import SUBGROUP_COLUMNS, ImageTable
from ..errors import DataError, SDMADError
from .protocols import Evaluation, evaluate


@dataclass(frozen=True)
class Opened:
    """What a sealed test set gave out, by the keys of the predictors."""

    scores: dict[Hashable, np.ndarray]  # (T, C)
    results: dict[Hashable, Evaluation]
    subgroups: dict[Hashable, dict[str, Evaluation]]  # "column=value" -> `evaluate` on the images with it


class SealedTest:
    """Holds a table of T test images to itself; only its size and its categories can be asked for."""

    def __init__(self, table: ImageTable):
        if not len(table):
            raise DataError("the test set is empty; give at least one image")
        self.categories, self._size = table.categories, len(table)
        self.__table: ImageTable | None = table

    def __len__(self) -> int:
        return self._size

    def __reduce_ex__(self, protocol):
        raise SDMADError("a sealed test set cannot be copied: a copy could be opened again")

    def open(
        self,
        predictors: Mapping[Hashable, Callable[[Any], np.ndarray]],
        thresholds: Mapping[Hashable, np.ndarray] | None = None,
        prepare: Callable[[tuple], Any] = lambda images: images,
        grouped: Collection[Hashable] = (),
    ) -> Opened:
        """Score all predictors, once and for all. The images go to them alone, the labels to nobody.

        It is open after that, even if a predictor fails: that one has seen the images.

        Args:
            predictors: key -> function from the images (as `prepare`, called once, leaves them) to scores (T, C).
            thresholds: key -> (C,), set on the support set, for those that also make decisions.
            grouped: keys to score also within each of the `groups`.
        """
        thresholds = thresholds or {}
        if unknown := [key for key in (*thresholds, *grouped) if key not in predictors]:
            raise DataError(f"{unknown[0]!r} is none of the predictors; use their names")
        if self.__table is None:
            raise SDMADError("this test set was opened before; results chosen after a look at it would flatter")
        table, self.__table = self.__table, None
        given = prepare(table.images)
        opened = Opened({key: np.asarray(predict(given)) for key, predict in predictors.items()}, {}, {})
        for key, scores in opened.scores.items():
            if scores.shape != table.labels.shape:
                raise DataError(f"{key!r}: scores of shape {scores.shape}, expected {table.labels.shape}")
            evaluated = partial(evaluate, categories=table.categories, thresholds=thresholds.get(key))
            opened.results[key] = evaluated(scores, table.labels)
            if key in grouped:
                parts = groups(table).items()
                opened.subgroups[key] = {name: evaluated(scores[rows], table.labels[rows]) for name, rows in parts}
        return opened


def groups(table: ImageTable) -> dict[str, np.ndarray]:
    """Rows of each value of the columns in SUBGROUP_COLUMNS that take more than one value: "view=AP" -> indices."""
    columns = {column: np.asarray(table.meta.get(column, ())) for column in SUBGROUP_COLUMNS}
    taken = [(column, values, np.unique(values)) for column, values in columns.items()]
    return {f"{c}={v}": np.flatnonzero(values == v) for c, values, each in taken if len(each) > 1 for v in each}
