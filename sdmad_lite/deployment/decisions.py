"""Decisions after the fit, from scores that never trained on the image that they score. [ours]

    decisions = cross_fit(detector, support)  # refits in folds of patients
    decisions.answers(detector.decision_function(images), level=0.9)

A support set holds more sick people than a hospital does. So prevalence comes in apart from what a logit says, and a
promise for positives is made of positives alone. Where these are few, "too few to say" is the answer.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from ..data import ImageTable, patient_folds
from ..detector import SDMAD
from ..errors import DataError, DetectorError, needs
from ..files import NOTICE, write_text
from ..settings import checked
from .scoring import about

FILE = "decisions.json"  # in the folder of the detector
TOO_FEW = "too few to say"
WORDS = np.array([["unlike both", "present"], ["absent", "unsure"]])  # [may it be absent?][may it be present?]
Part = Annotated[float, Field(gt=0, lt=1)]


def promised_cover(n: int, level: float = 0.9) -> tuple[float, float, float] | None:
    """Share of new images that sets cover which n images calibrated: mean, and what one set in 20 is below or above.

    It is a Beta(k, n + 1 - k) with k = ceil((n + 1) level) [Vovk 2012]. None where n is too small for MAPIE.
    """
    k = ceil((n + 1) * checked("level", level, Part) - 1e-9)
    enough = n * min(level, 1 - level) > 1 + 1e-9
    return (k / (n + 1), *map(float, beta(k, n + 1 - k).ppf([0.05, 0.95]))) if enough else None


@dataclass(frozen=True, eq=False)
class Decisions:
    """What to make of the logits of one detector."""

    categories: tuple[str, ...]
    logits: np.ndarray  # (N, C) of labelled images, from detectors that did not train on them
    labels: np.ndarray  # Y (N, C) in {0, 1}, both in each column
    detector: str = ""  # hash of the one whose logits are decided on

    def __post_init__(self):
        if np.shape(self.logits) != np.shape(self.labels) or not np.isfinite(self.logits).all():
            raise DataError(f"logits: expected finite ones of the labels' shape {np.shape(self.labels)}")
        for name, kinds in zip(self.categories, map(np.unique, np.transpose(self.labels)), strict=True):
            if kinds.tolist() != [0, 1]:
                raise DataError(f"labels: {name!r} needs images with it, 1, and without it, 0; add those that lack")

    @property
    def counts(self) -> np.ndarray:
        """(C, 2) labelled images without each category, and with it."""
        return np.stack([(self.labels == value).sum(0) for value in (0, 1)], 1)

    @cached_property
    def models(self) -> list[LogisticRegression]:
        """For each category from a logit to the probability at even odds, pulled to 1/2 where images are few."""
        pairs = zip(self.logits.T, self.labels.T, strict=True)
        return [LogisticRegression(class_weight="balanced").fit(x[:, None], y) for x, y in pairs]

    def evidence(self, logits: np.ndarray) -> np.ndarray:
        """(M, C) log likelihood ratios: by how much each logit raises the log odds of its category."""
        return np.column_stack([m.decision_function(x[:, None]) for m, x in zip(self.models, logits.T, strict=True)])

    def shares(self, prevalence: float | np.ndarray | None = None) -> np.ndarray:
        """(C,) prevalence of each category: one for all or (C,), or that of the labelled images."""
        prior = self.labels.mean(0) if prevalence is None else np.asarray(prevalence, float)
        if not ((0 < prior) & (prior < 1)).all() or prior.shape not in ((), (len(self.categories),)):
            raise DataError(f"prevalence is {prevalence}: give a share between 0 and 1, or one for each category")
        return np.broadcast_to(prior, len(self.categories))

    def probabilities(self, logits: np.ndarray, prevalence: float | np.ndarray | None = None) -> np.ndarray:
        """(M, C) in [0, 1], calibrated, at a prevalence as `shares` takes it."""
        return expit(self.evidence(logits) + logit(self.shares(prevalence)))

    def prevalence(self, logits: np.ndarray, resamples: int = 200, random_state: int = 0) -> np.ndarray:
        """(C, 3): likeliest share of each category among M unlabelled images, and its 95 % interval over both sets.

        A category has to look there as in the support set [Saerens et al. 2002].
        """

        def likeliest(own: Decisions, rows: np.ndarray) -> list[float]:
            losses = [lambda p, r=r: -np.logaddexp(np.log(p) + r, np.log1p(-p)).sum() for r in own.evidence(rows).T]
            return [minimize_scalar(loss, bounds=(1e-4, 1 - 1e-4), method="bounded").x for loss in losses]

        rng, found = np.random.default_rng(random_state), [likeliest(self, logits)]
        while len(found) <= resamples:
            own, other = (rng.integers(len(rows), size=len(rows)) for rows in (self.labels, logits))
            if (np.ptp(self.labels[own], axis=0) > 0).all():
                found.append(likeliest(Decisions(self.categories, self.logits[own], self.labels[own]), logits[other]))
        return np.column_stack([found[0], *np.percentile(found, [2.5, 97.5], axis=0)])

    def sets(self, logits: np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Conformal sets (M, C, 2) bool: may the category be absent, may it be present? And (C, 2) who is enough.

        Of images with a category, and of those without, a share `level` has the truth in its set: each kind is
        calibrated on its own images. Where these are too few, nothing can be excluded.
        """
        classifier = needs("mapie.classification", "decisions").SplitConformalClassifier
        enough = np.array([[promised_cover(n, level) is not None for n in pair] for pair in self.counts])
        sets = np.ones((len(logits), *enough.shape), bool)
        for c, value in np.argwhere(enough):
            rows = self.labels[:, c] == value
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # that one of two kinds is given
                found = classifier(self.models[c], confidence_level=level)
                found.conformalize(self.logits[rows, c][:, None], self.labels[rows, c])
            sets[:, c, value] = found.predict_set(logits[:, c][:, None])[1][:, value, 0]
        return sets, enough

    def answers(self, logits: np.ndarray, level: float = 0.9) -> np.ndarray:
        """(M, C) in words: present or absent where the other is excluded, unsure, unlike both, or too few to say."""
        sets, enough = self.sets(logits, level)
        return np.where(enough.all(1), WORDS[sets[..., 0].astype(int), sets[..., 1].astype(int)], TOO_FEW)

    def safe_thresholds(self, recall: float = 0.9, confidence: float = 0.9) -> np.ndarray:
        """(C,) thresholds of `predict_proba` that find a share `recall` of positives; nan where these are too few.

        It holds for a share `confidence` of support sets, by MAPIE's risk control [Learn Then Test].
        """
        control, found = needs("mapie.risk_control", "decisions").BinaryClassificationController, []
        limits = checked("recall", recall, Part), checked("confidence", confidence, Part)
        for p, y in zip(expit(self.logits).T, self.labels.T, strict=True):
            steps = np.append(np.unique(p[y == 1]), 1.0)  # recall falls from the first to the last
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # that no threshold will do
                one = control(lambda p: np.hstack([1 - p, p]), "recall", *limits, "auto", steps, "fixed_sequence")
                found.append(one.calibrate(p[:, None], y).best_predict_param)
        return np.array(found, dtype=float)

    def save(self, folder: str | Path) -> Path:
        """Write decisions.json into the folder of the detector."""
        state = {"detector": self.detector, "categories": self.categories, "notice": NOTICE}
        state |= {name: np.asarray(getattr(self, name)).tolist() for name in ("logits", "labels")}
        return write_text(Path(folder) / FILE, json.dumps(state) + "\n")

    @classmethod
    def load(cls, folder: str | Path, detector: SDMAD) -> Decisions:
        """Read what `save` wrote; a DetectorError says that it is not there, broken, or of another detector."""
        path, how = Path(folder) / FILE, "it is written by 'sdmad decide --data'"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            arrays = np.array(state["logits"], float), np.array(state["labels"], int)
            found = cls(tuple(state["categories"]), *arrays, state["detector"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DetectorError(f"{path}: cannot be read ({type(error).__name__}: {error}); {how}") from None
        if found.detector != about(detector)["detector"]:
            raise DetectorError(f"{path}: is of another detector; {how}")
        return found


def cross_fit(detector: SDMAD, support: ImageTable, folds: int = 5, progress: bool = False) -> Decisions:
    """Decisions for a fitted detector: each support image is scored by a refit that never saw its patient."""
    table = support.by_name(detector.bank.categories)
    logits, fold = np.empty(table.labels.shape), patient_folds(table, folds, detector.random_state)
    for k in tqdm(range(fold.max() + 1), desc="folds", disable=not progress):
        others, held = (table.rows(np.flatnonzero(rows)) for rows in (fold != k, fold == k))
        logits[fold == k] = copy.copy(detector).fit_table(others).decision_function(held.images)
    return Decisions(detector.bank.categories, logits, np.asarray(table.labels), about(detector)["detector"])


def cost_threshold(miss: float, false_alarm: float = 1.0) -> float:
    """The probability from which an alarm costs less than to wait: a / (a + m)."""
    return false_alarm / (false_alarm + miss)
