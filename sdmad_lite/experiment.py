"""The whole path: draw support sets, fit both stages and the baselines, score the sealed test set.

Used by the command line and the results script; notebooks take the same steps one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import expit
from tqdm import tqdm

from .alignment import AlignmentConfig
from .backbone import Backbone
from .baselines import clip_adapter, linear_probe, prototypes, zero_shot
from .data import GROUPS, ImageTable, draw_support
from .detector import SDMAD
from .protocols import evaluate, over_draws, paired
from .selection import SelectionConfig, SignSelector, equal_weights, margins
from .signs import SignBank

METHODS = {
    "SD-MAD (stage 1 + 2)": "adapters and selected signs",
    "stage 1 alone": "adapters, all signs",
    "selection without training": "frozen model, selected signs",
    "zero-shot signs": "frozen model, all signs",
    "prototypes": "mean support features",
    "CLIP-Adapter": "residual adapter on image features",
    "linear probe": "logistic regression on image features",
}
OURS, STAGE1, ZERO = "SD-MAD (stage 1 + 2)", "stage 1 alone", "zero-shot signs"


@dataclass
class Experiment:
    """Everything that was measured.

    results: method -> draws -> `evaluate` output. within: "column=value" -> the same for OURS.
    scores: OURS, per draw, (T, C) probabilities. detectors: the fitted detector of each draw. support: its rows
    of the training table.
    """

    bank: SignBank
    test: ImageTable
    shots: int
    seeds: list[int]
    results: dict[str, list[dict]]
    within: dict[str, list[dict]] = field(default_factory=dict)
    scores: list[np.ndarray] = field(default_factory=list)
    detectors: list[SDMAD] = field(default_factory=list)
    support: list[np.ndarray] = field(default_factory=list)

    def mean(self, method: str = OURS) -> dict:
        """`over_draws` of one method."""
        return over_draws(self.results[method])

    def series(self, method: str, protocol: str = "multilabel", figure: str = "ap", name: str = "macro") -> list[float]:
        """One figure of every draw."""
        return [result[protocol][name][figure] for result in self.results[method]]

    def compare(self, ours: str, theirs: str, protocol: str = "multilabel", figure: str = "ap") -> dict:
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
) -> Experiment:
    """Fit on `shots` per category from `train`, once per seed, and score `test` once per draw.

    Args:
        train, test: tables with the bank's categories; no patient is in both.
        bank, backbone: what to look for and with.
        shots: K.
        seeds: one support draw each; five or more give an interval worth printing.

    Raises:
        DataError: too few patients to draw from.
    """
    drawn = [draw_support(train, shots, seed) for seed in seeds]  # fails before any work is done
    v, membership = backbone.encode_texts(bank.texts), torch.from_numpy(bank.membership())
    used = np.unique(np.concatenate(drawn))
    u_used = backbone.encode_images([train.images[i] for i in used], color=bank.color, progress=progress)
    u_test = backbone.encode_images(test.images, color=bank.color, progress=progress)
    experiment = Experiment(bank, test, shots, list(seeds), {method: [] for method in METHODS}, support=drawn)
    for seed, rows in zip(tqdm(seeds, desc="support draws", disable=not progress), drawn, strict=True):
        support = train.rows(rows)
        u, labels = u_used[np.searchsorted(used, rows)], support.labels
        detector = SDMAD(bank, backbone, alignment=alignment, selection=selection, seed=seed)
        detector.fit_table(support, progress)
        z = detector.cosines(test.images, progress)
        frozen = SignSelector(selection, seed).fit((u @ v.T).numpy(), labels, detector.membership)
        scores = {
            OURS: expit(detector.logits(z)),
            STAGE1: margins(z, equal_weights(detector.membership)),
            "selection without training": frozen.transform((u_test @ v.T).numpy()),
            ZERO: zero_shot(u_test, v, membership),
            "prototypes": prototypes(u, labels, u_test),
            "CLIP-Adapter": clip_adapter(u, labels, u_test, v, membership, seed),
            "linear probe": linear_probe(u, labels, u_test, seed),
        }
        for method, score in scores.items():
            thresholds = detector.thresholds_ if method == OURS else None
            experiment.results[method].append(evaluate(score, test.labels, bank.categories, thresholds))
        for name, members in groups(test).items():
            part = evaluate(scores[OURS][members], test.labels[members], bank.categories, detector.thresholds_)
            experiment.within.setdefault(name, []).append(part)
        experiment.scores.append(scores[OURS])
        experiment.detectors.append(detector)
    return experiment


def groups(table: ImageTable) -> dict[str, np.ndarray]:
    """Rows of each value of the columns in GROUPS that take more than one value: "view=AP" -> indices."""
    out = {}
    for column in GROUPS:
        values = np.asarray(table.meta.get(column, ()))
        for value in np.unique(values):
            if len(np.unique(values)) > 1:
                out[f"{column}={value}"] = np.flatnonzero(values == value)
    return out


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
