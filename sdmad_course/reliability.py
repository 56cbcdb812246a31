"""Are probabilities right? A reliability diagram, the Brier score, and what decisions by them are worth. [ours]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss

from sdmad_lite.evaluation.intervals import resampled


class Bin(NamedTuple):
    """The images that were given about the same probability."""

    images: int
    said: float  # mean probability
    was: float  # share that has the category
    low: float  # Wilson's 95 % interval of that share
    high: float


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 5) -> list[Bin]:
    """Bins of equally many images, from the least probability to the most, for p (N,) and labels (N,) in {0, 1}."""
    found = []
    for rows in np.array_split(np.argsort(probabilities, kind="stable"), min(bins, len(labels))):
        ends = binomtest(int(labels[rows].sum()), len(rows)).proportion_ci(method="wilson")
        found.append(Bin(len(rows), probabilities[rows].mean(), labels[rows].mean(), ends.low, ends.high))
    return found


def brier(probabilities, labels, patients: Sequence, resamples: int = 200, random_state: int = 0) -> np.ndarray:
    """(3,) mean squared error of probabilities (N,), in [0, 1], and its 95 % interval over resampled patients."""
    rows = [np.arange(len(labels)), *resampled(patients, resamples, random_state)]
    values = [brier_score_loss(labels[i], probabilities[i]) for i in rows]
    return np.array([values[0], *np.percentile(values, [2.5, 97.5])])


def net_benefit(probabilities, labels, thresholds, prevalence: float | None = None) -> np.ndarray:
    """(T, 2) decision curve [Vickers 2006] at T thresholds: true alarms less false ones at the threshold's odds.

    By the probabilities (N,), and where everything is an alarm; no alarm is worth 0. At a prevalence, or the labels'.
    """
    y, t = np.asarray(labels) == 1, np.asarray(thresholds)
    share, alarm = y.mean() if prevalence is None else prevalence, np.asarray(probabilities) >= t[:, None]
    cost = (1 - share) * t / (1 - t)
    return np.column_stack([share * alarm[:, y].mean(1) - cost * alarm[:, ~y].mean(1), share - cost])
