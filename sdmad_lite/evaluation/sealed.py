"""A test set that fitting code cannot read: it is opened once, for predictors that are finished.

    sealed = SealedTest(test)
    detector.fit(images, labels)
    sealed.open({"mine": detector.predict_proba}).results["mine"].multilabel.macro

A second look is refused: whoever chooses after the first one reports luck.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import ImageTable
from ..errors import DataError, SDMADError
from .protocols import Evaluation, evaluate


@dataclass(frozen=True)
class Opened:
    """What a sealed test set gave out, by the keys of the predictors."""

    scores: dict[Hashable, np.ndarray]  # (T, C)
    results: dict[Hashable, Evaluation]


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
    ) -> Opened:
        """Score all predictors, once and for all. The images go to them alone, the labels to nobody.

        It is open after that, even if a predictor fails: that one has seen the images.

        Args:
            predictors: key -> function from the images (as `prepare`, called once, leaves them) to scores (T, C).
            thresholds: key -> (C,), set on the support set, for those that also make decisions.
        """
        thresholds = thresholds or {}
        if unknown := [key for key in thresholds if key not in predictors]:
            raise DataError(f"{unknown[0]!r} is none of the predictors; use their names")
        if self.__table is None:
            raise SDMADError("this test set was opened before; results chosen after a look at it would flatter")
        table, self.__table = self.__table, None
        given = prepare(table.images)
        opened = Opened({key: np.asarray(predict(given)) for key, predict in predictors.items()}, {})
        for key, scores in opened.scores.items():
            if scores.shape != table.labels.shape:
                raise DataError(f"{key!r}: scores of shape {scores.shape}, expected {table.labels.shape}")
            opened.results[key] = evaluate(scores, table.labels, table.categories, thresholds.get(key))
        return opened
