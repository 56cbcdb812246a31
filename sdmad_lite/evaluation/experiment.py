"""The whole path: draw support sets, fit both stages and the baselines, then open the sealed test set.

Used by the command line and the results script; notebooks take the same steps one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from ..alignment.augment import embed_augmented
from ..alignment.train import AlignmentConfig
from ..data import ImageTable, draw_support
from ..detector import SDMAD
from ..errors import DataError
from ..selection.sign_selector import SelectionConfig, equal_weights, margins
from ..signs.bank import SignBank
from .baselines import ON_FEATURES, Method, Predictor, Query, Support
from .protocols import Evaluation, Interval, Paired, over_draws, paired
from .sealed import SealedTest

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

BOTH_STAGES, STAGE_1, ZERO_SHOT = "SD-MAD (stage 1 + 2)", "stage 1 alone", "zero-shot signs"
SIGNS_ONLY, IMAGE_ONLY, NO_TRAINING = "signs alone (stage 1 + 2)", "image evidence alone", "selection without training"
OWN = {
    BOTH_STAGES: "adapters, selected signs, image evidence",
    SIGNS_ONLY: "adapters, selected signs",
    STAGE_1: "adapters, all signs",
    IMAGE_ONLY: "probe below the adapters",
    NO_TRAINING: "frozen model, selected signs",
}
METHODS = OWN | {name: method.what for name, method in ON_FEATURES.items()}
"""What `run_experiment` compares unless told otherwise: name -> in a few words."""


@dataclass
class Experiment:
    """Everything that was fitted and measured.

    methods: name -> in a few words. results: method -> draws -> `evaluate` output. subgroups: "column=value" ->
    draws -> the same for BOTH_STAGES. scores: method -> draws -> (T, C), probabilities for BOTH_STAGES and
    NO_TRAINING. detectors, training_free: the fitted detector of each draw, with and without stage 1.
    predictors: method -> draws -> what was fitted, as a function of a Query.
    support: rows of the training table, for each draw.
    """

    bank: SignBank
    test: ImageTable
    shots: int
    seeds: list[int]
    methods: dict[str, str]
    results: dict[str, list[Evaluation]]
    subgroups: dict[str, list[Evaluation]]
    scores: dict[str, list[np.ndarray]]
    detectors: list[SDMAD]
    training_free: list[SDMAD]
    predictors: dict[str, list[Predictor]]
    support: list[np.ndarray]

    def mean(self, method: str = BOTH_STAGES) -> Interval:
        """`over_draws` of one method."""
        return over_draws(self.results[method])

    def series(self, method: str, protocol: str = "multilabel", figure: str = "ap") -> list[float]:
        """One macro figure of every draw."""
        return [getattr(result.protocols()[protocol].macro, figure) for result in self.results[method]]

    def compare(self, ours: str, theirs: str, protocol: str = "multilabel", figure: str = "ap") -> Paired:
        """Paired difference of a macro figure over the same draws."""
        return paired(self.series(ours, protocol, figure), self.series(theirs, protocol, figure))


def run_experiment(
    train: ImageTable,
    test: ImageTable,
    bank: SignBank,
    backbone: Backbone,
    shots: int,
    seeds: Sequence[int],
    alignment: AlignmentConfig | None = None,
    selection: SelectionConfig | None = None,
    progress: bool = False,
    baselines: Mapping[str, Method] | None = None,
    support: Sequence[np.ndarray] | None = None,
) -> Experiment:
    """Fit every method on every support set from `train`; only then open `test`, once, and score them all.

    Args:
        train, test: tables with the bank's categories; no patient is in both.
        bank, backbone: what to look for and with.
        shots: K.
        seeds: one support draw each; five or more give an interval worth printing.
        baselines: what to compare with, by name; ON_FEATURES when left out.
        support: rows of `train` for each seed, such as those of `Episodes`; drawn by `draw_support` when left out.

    Raises:
        DataError: too few patients to draw from, or tables of other categories than the bank's.
    """
    for name, table in (("train", train), ("test", test)):
        if tuple(table.categories) != tuple(bank.categories):
            raise DataError(f"{name}: categories {table.categories} differ from the bank's {bank.categories}")
    drawn = [draw_support(train, shots, seed) for seed in seeds] if support is None else list(support)
    baselines = ON_FEATURES if baselines is None else baselines
    sealed = SealedTest(test)
    detectors, frozen, predictors = fit_methods(
        train, drawn, seeds, bank, backbone, baselines, alignment, selection, progress
    )
    draws, ours = range(len(seeds)), [(BOTH_STAGES, draw) for draw in range(len(seeds))]
    opened = sealed.open(
        {(method, draw): fitted[draw] for method, fitted in predictors.items() for draw in draws},
        thresholds={key: detector.thresholds_ for key, detector in zip(ours, detectors, strict=True)},
        prepare=lambda images: Query(images, backbone.encode_images(images, color=bank.color, progress=progress)),
        grouped=ours,
    )
    return Experiment(
        bank=bank,
        test=test,
        shots=shots,
        seeds=list(seeds),
        methods=OWN | {name: method.what for name, method in baselines.items()},
        results={method: [opened.results[method, draw] for draw in draws] for method in predictors},
        subgroups={group: [opened.subgroups[key][group] for key in ours] for group in opened.subgroups[ours[0]]},
        scores={method: [opened.scores[method, draw] for draw in draws] for method in predictors},
        detectors=detectors,
        training_free=frozen,
        predictors=predictors,
        support=drawn,
    )


def fit_methods(
    train: ImageTable,
    drawn: Sequence[np.ndarray],
    seeds: Sequence[int],
    bank: SignBank,
    backbone: Backbone,
    baselines: Mapping[str, Method],
    alignment: AlignmentConfig | None = None,
    selection: SelectionConfig | None = None,
    progress: bool = False,
) -> tuple[list[SDMAD], list[SDMAD], dict[str, list[Predictor]]]:
    """Fit SD-MAD and the baselines on every support set. No test image can come in here.

    Args:
        train: the table; drawn: rows of it, a support set for each of the seeds.

    Returns:
        the detector of each draw, the same without stage 1, and for each method its predictors, one for each draw.
    """
    v = backbone.encode_texts(bank.texts)
    chosen = {} if selection is None else {"selection": selection}
    detectors: list[SDMAD] = []
    training_free: list[SDMAD] = []
    predictors: dict[str, list[Predictor]] = {method: [] for method in (*OWN, *baselines)}
    for seed, rows in zip(tqdm(seeds, desc="support draws", disable=not progress), drawn, strict=True):
        table = train.rows(rows)
        detector = SDMAD(bank, backbone=backbone, alignment=alignment, selection=selection, random_state=seed)
        detectors.append(detector.fit_table(table, progress))
        training_free.append(
            SDMAD.training_free(bank, backbone=backbone, augmentations=1, random_state=seed, **chosen).fit_table(table)
        )
        for method, predictor in _own(detector, training_free[-1], progress).items():
            predictors[method].append(predictor)
        views = embed_augmented(backbone, table.images, detector.alignment.augmentations, seed, bank.color)
        given = Support(table.images, table.labels, views[0], v, bank, backbone, seed, views)
        for method, fit in baselines.items():
            predictors[method].append(fit(given))
    return detectors, training_free, predictors


def _own(detector: SDMAD, frozen: SDMAD, progress: bool) -> dict[str, Predictor]:
    """Predictors of SD-MAD, of its parts, and of signs selected on the frozen model."""
    equal = equal_weights(detector.membership)

    @lru_cache(maxsize=1)
    def features(query: Query) -> tuple[np.ndarray, np.ndarray]:  # asked for by each part, computed once
        return detector.features(query.images, progress)

    return {
        BOTH_STAGES: lambda query: expit(detector.logits(*features(query))),
        SIGNS_ONLY: lambda query: margins(features(query)[0], detector.weights_),
        STAGE_1: lambda query: margins(features(query)[0], equal),
        IMAGE_ONLY: lambda query: detector.image_logits(features(query)[1]),
        NO_TRAINING: lambda query: expit(frozen.logits((query.u @ frozen.sign_embeddings_.T).double().numpy())),
    }


def eligible(train: ImageTable, test: ImageTable, shots: int, least: int) -> dict[str, str]:
    """Categories that cannot be drawn or scored, each with the reason.

    A category needs `least` positive images in train and in test, and `shots` positive patients in train.
    """
    out = {}
    for c, name in enumerate(train.categories):
        positives = int(train.labels[:, c].sum()), int(test.labels[:, c].sum())
        patients = len(np.unique(train.patients()[train.labels[:, c] == 1]))
        if min(positives) < least:
            out[name] = f"{positives[0]} positives in train and {positives[1]} in test, {least} are needed in each"
        elif patients < shots:
            out[name] = f"{patients} positive patients in train, {shots} shots need {shots}"
    return out
