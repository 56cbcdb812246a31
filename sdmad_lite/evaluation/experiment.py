"""The whole path: draw support sets, fit both stages and the baselines, then open the sealed test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit
from tqdm import tqdm

from ..alignment import AlignmentConfig
from ..data import SUBGROUP_COLUMNS, ImageTable, draw_support, split_train_test
from ..detector import SDMAD
from ..errors import DataError
from ..selection import SelectionConfig, equal_weights, margins
from ..signs.bank import SignBank
from .baselines import ON_FEATURES, Method, Predictor, Query, Support, embed_augmented
from .intervals import Interval, Paired, over_draws, paired
from .protocols import Evaluation, evaluate
from .sealed import SealedTest

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

BOTH_STAGES, STAGE_1, ZERO_SHOT = "SD-MAD (stage 1 + 2)", "stage 1 alone", "zero-shot signs"
SIGNS_ONLY, IMAGE_ONLY = "signs alone (stage 1 + 2)", "image evidence alone"
NO_TRAINING = "selection without training"
OWN = {
    BOTH_STAGES: "adapters, selected signs, image evidence",
    SIGNS_ONLY: "adapters, selected signs",
    STAGE_1: "adapters, all signs",
    IMAGE_ONLY: "probe below the adapters",
    NO_TRAINING: "frozen model, selected signs",
}
"""Parts of SD-MAD that are compared with it and with the baselines: name -> in a few words."""


@dataclass(frozen=True)
class Settings:
    """How an experiment fits; each part as SDMAD has it unless given."""

    alignment: AlignmentConfig | None = None
    selection: SelectionConfig | None = None
    baselines: Mapping[str, Method] = field(default_factory=lambda: ON_FEATURES)  # what to compare with, by name
    support: Sequence[np.ndarray] | None = None
    """Rows of the training table for each draw, such as an earlier run's; else `draw_support` draws them."""


@dataclass
class Experiment:
    """Everything that was fitted and measured; each list has an entry for each draw."""

    bank: SignBank
    test: ImageTable
    shots: int
    seeds: list[int]
    methods: dict[str, str]  # name -> in a few words
    results: dict[str, list[Evaluation]]
    subgroups: dict[str, list[Evaluation]]  # "column=value" -> results of BOTH_STAGES on the images with it
    scores: dict[str, list[np.ndarray]]  # (T, C), probabilities for BOTH_STAGES and NO_TRAINING
    detectors: list[SDMAD]
    training_free: list[SDMAD]  # the same without stage 1
    predictors: dict[str, list[Predictor]]
    support: list[np.ndarray]  # rows of the training table

    def mean(self, method: str = BOTH_STAGES) -> Interval:
        """`over_draws` of one method."""
        return over_draws(self.results[method])

    def series(self, method: str) -> list:
        """The macro mAP, multi-label, of every draw."""
        return [result.multilabel.macro.ap for result in self.results[method]]

    def compare(self, ours: str, theirs: str) -> Paired:
        """Paired difference of it over the same draws."""
        return paired(self.series(ours), self.series(theirs))


def run_experiment(
    train: ImageTable,
    test: ImageTable,
    bank: SignBank,
    backbone: Backbone,
    shots: int,
    seeds: Sequence[int],
    settings: Settings | None = None,
    progress: bool = False,
) -> Experiment:
    """Fit every method on every support set from `train`; only then open `test`, once, and score them all.

    Args:
        train, test: tables with the bank's categories; no patient is in both.
        shots: K. seeds: one support draw each; five or more give an interval worth printing.
    """
    train, test = train.by_name(bank.categories), test.by_name(bank.categories)
    settings, sealed = settings or Settings(), SealedTest(test)
    given = settings.support
    support = [draw_support(train, shots, seed) for seed in seeds] if given is None else list(given)
    # Fit everything on every draw. No test image can come in here.
    draws = zip(tqdm(seeds, desc="support draws", disable=not progress), support, strict=True)
    fits = [_fit(train.rows(rows), seed, bank, backbone, settings, progress) for seed, rows in draws]
    detectors, training_free, fitted = (list(each) for each in zip(*fits, strict=True))
    # Open the test set, once, for all methods of all draws.
    opened = sealed.open(
        {(method, i): predict for i, predictors in enumerate(fitted) for method, predict in predictors.items()},
        thresholds={(BOTH_STAGES, i): detector.thresholds_ for i, detector in enumerate(detectors)},
        prepare=lambda images: frozen_query(images, training_free[0], progress),
    )

    def by_method(found: Mapping) -> dict[str, list]:
        return {method: [found[method, i] for i in range(len(fits))] for method in fitted[0]}

    scores = by_method(opened.scores)
    subgroups = {
        name: [
            evaluate(p[rows], test.labels[rows], test.categories, detector.thresholds_)
            for p, detector in zip(scores[BOTH_STAGES], detectors, strict=True)
        ]
        for name, rows in groups(test).items()
    }
    return Experiment(
        bank=bank,
        test=test,
        shots=shots,
        seeds=list(seeds),
        methods=OWN | {name: method.what for name, method in settings.baselines.items()},
        results=by_method(opened.results),
        subgroups=subgroups,
        scores=scores,
        detectors=detectors,
        training_free=training_free,
        predictors={method: [predictors[method] for predictors in fitted] for method in fitted[0]},
        support=support,
    )


def _fit(
    support: ImageTable, seed: int, bank: SignBank, backbone: Backbone, settings: Settings, progress: bool
) -> tuple[SDMAD, SDMAD, dict[str, Predictor]]:
    """SD-MAD, the same without stage 1, and the predictors of both, of their parts and of the baselines."""
    common: dict[str, Any] = {"backbone": backbone, "random_state": seed}
    common |= {} if settings.selection is None else {"selection": settings.selection}
    detector = SDMAD(bank, alignment=settings.alignment, **common).fit_table(support, progress=progress)
    frozen = SDMAD.training_free(bank, augmentations=1, **common).fit_table(support)
    augmented = embed_augmented(backbone, support.images, detector.alignment.augmentations, seed, bank.color)
    v = backbone.encode_texts(bank.texts)
    given = Support(support.images, support.labels, augmented[0], v, bank, backbone, seed, augmented)
    equal = equal_weights(detector.membership)

    @lru_cache(maxsize=1)
    def features(query: Query) -> tuple[np.ndarray, np.ndarray]:  # asked for by each part, computed once
        return detector.features(query.images, progress=progress)

    own = {
        BOTH_STAGES: lambda query: expit(detector.logits(*features(query))),
        SIGNS_ONLY: lambda query: margins(features(query)[0], detector.weights_),
        STAGE_1: lambda query: margins(features(query)[0], equal),
        IMAGE_ONLY: lambda query: detector.image_logits(features(query)[1]),
        NO_TRAINING: lambda query: expit(
            frozen.logits(frozen.features(query.images)[0] if query.z is None else query.z)
        ),
    }
    return detector, frozen, own | {name: fit(given) for name, fit in settings.baselines.items()}


def frozen_query(images: Sequence, frozen: SDMAD, progress: bool = False) -> Query:
    """What the frozen model makes of T images, the same in every draw: u (T, D) and z (T, S).

    `frozen` is any `SDMAD.training_free` of the bank. It has no adapters, so that its activations h are u.
    """
    z, u = frozen.features(images, progress=progress)
    return Query(images, torch.from_numpy(u).float(), z)


def groups(table: ImageTable) -> dict[str, np.ndarray]:
    """Rows of each value of the columns in SUBGROUP_COLUMNS that take more than one value: "view=AP" -> indices."""
    columns = {column: np.asarray(table.meta.get(column, ())) for column in SUBGROUP_COLUMNS}
    taken = [(column, values, np.unique(values)) for column, values in columns.items()]
    return {f"{c}={v}": np.flatnonzero(values == v) for c, values, each in taken if len(each) > 1 for v in each}


def eligible(train: ImageTable, test: ImageTable, shots: int, least: int) -> dict[str, str]:
    """Categories without `least` positive images in train and in test, or `shots` positive patients in train -> why."""
    out = {}
    for name, here, there in zip(train.categories, train.labels.T, test.labels.T, strict=True):
        patients = len(np.unique(train.patients()[here == 1]))
        if min(here.sum(), there.sum()) < least:
            out[name] = f"{here.sum()} positives in train and {there.sum()} in test, {least} are needed in each"
        elif patients < shots:
            out[name] = f"{patients} positive patients in train, {shots} shots need {shots}"
    return out


def eligible_split(
    table: ImageTable, shots: int, least: int | None = None, seed: int = 0, drop_copies: bool | None = False
) -> tuple[ImageTable, ImageTable, dict[str, str]]:
    """Train and test rows with the eligible categories alone, and why others are left out.

    Args:
        least: see `eligible`; None keeps every category. seed: of the split, where the table has none.
        drop_copies: as for `split_train_test`.
    """
    train, test = split_train_test(table, seed, drop_copies)
    left_out = {} if least is None else eligible(train, test, shots, least)
    if not (kept := [c for c in table.categories if c not in left_out]):
        raise DataError("no category has enough positives; ask for fewer shots or for fewer positives")
    train, test = train.restricted(kept), test.restricted(kept)
    if not any(0 < positives < len(test) for positives in test.labels.sum(0)):
        what = f"the test images show none or all of {', '.join(kept)}"
        raise DataError(f"{what}; nothing can be scored, give images with and without them")
    return train, test, left_out
