"""Three protocols that score the same predictions.

[paper] names three evaluation protocols; [ours] their definitions, see `evaluate`. Only this file and `sealed`, which
calls it, see the labels of a test set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.labels import labels_by_name
from ..errors import DataError

PROTOCOLS = ("detection", "discrimination", "multilabel")


@dataclass(frozen=True)
class Score:
    """One category in one protocol. A figure is in [0, 1], or None where it cannot be computed."""

    positives: int
    negatives: int
    auroc: float | None
    ap: float | None
    f1: float | None = None  # multilabel with thresholds only


@dataclass(frozen=True)
class Macro:
    """Mean over the categories that can be scored, and how many these are; what follows `ap` is multilabel only."""

    categories: int
    positives: int
    auroc: float | None
    ap: float | None
    f1: float | None = None
    f1_micro: float | None = None
    exact_match: float | None = None
    hamming_loss: float | None = None
    ranking_loss: float | None = None


@dataclass(frozen=True)
class Protocol:
    """One protocol: a score for each category, their mean and, in detection, normal against any anomaly."""

    per_category: dict[str, Score]
    macro: Macro
    any_anomaly: Score | None = None

    def rows(self) -> Iterator[tuple[str, Score | Macro]]:
        """Lines of a table: each category; at the end any anomaly, where there is one, and macro."""
        yield from self.per_category.items()
        if self.any_anomaly is not None:
            yield "any anomaly", self.any_anomaly
        yield "macro", self.macro


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    detection: Protocol
    discrimination: Protocol
    multilabel: Protocol

    def protocols(self) -> dict[str, Protocol]:
        """Name -> protocol, in order."""
        return dict(vars(self))


def evaluate(
    scores: np.ndarray, labels: np.ndarray, categories: Sequence[str], thresholds: np.ndarray | None = None
) -> Evaluation:
    """Score predictions (N, C), where higher means more likely, by the three protocols; labels (N, C) are 0 or 1.

    1. detection: normal images against those of each category, and against any (by the highest score).
    2. discrimination: each category against the other anomalies only; normal images are left out.
    3. multilabel: every category on all images, and the ranking loss within images; where thresholds (C,) are given,
       which were set on the support set, also F1 (each category, macro and micro), exact match and Hamming loss of the
       decisions. A score at a threshold or above is a detection.
    """
    labels = np.asarray(labels_by_name(labels, categories))
    scores = np.asarray(labels_by_name(scores, categories, "scores"), dtype=np.float64)
    _check(scores, labels, categories, thresholds)
    has, normal = labels == 1, labels.sum(1) == 0

    def protocol(among: np.ndarray, cuts: Any = None, **across: float | None) -> Protocol:
        """Each category is ranked over the images in `among` (N,) and those that show it."""
        cuts = [None] * len(categories) if cuts is None else cuts
        columns = zip(categories, scores.T, has.T, cuts, strict=True)
        each = {name: _score(score, y, among | y, cut) for name, score, y, cut in columns}
        return Protocol(each, _macro(list(each.values()), **across))

    everyone = np.ones_like(normal)
    return Evaluation(
        detection=replace(protocol(normal), any_anomaly=_score(scores.max(1), ~normal, everyone)),
        discrimination=protocol(~normal),
        multilabel=protocol(everyone, thresholds, **_across(scores, labels, thresholds)),
    )


def confusion(decisions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C, C): of the images that show category i and not j, the share in which j was detected; nan where there is none.

    On the diagonal, of all images that show i, the share in which i was. Decisions and labels (N, C) are 0 or 1. [ours]
    """
    d, y = (np.asarray(rows, dtype=np.float64) for rows in (decisions, labels))
    shown, found = y.T @ (1 - y), y.T @ (d * (1 - y))
    np.fill_diagonal(shown, y.sum(0))
    np.fill_diagonal(found, (d * y).sum(0))
    return np.divide(found, shown, out=np.full_like(shown, np.nan), where=shown > 0)


def _check(scores: np.ndarray, labels: np.ndarray, categories: Sequence[str], thresholds: np.ndarray | None) -> None:
    count = len(categories)
    if scores.shape != labels.shape or scores.ndim != 2 or scores.shape[1] != count:
        raise DataError(f"scores {scores.shape}, labels {labels.shape} and {count} categories: give both as (N, C)")
    if not np.isfinite(scores).all():
        raise DataError(f"scores: row {np.argwhere(~np.isfinite(scores))[0][0]} is not finite; give numbers")
    if ((labels != 0) & (labels != 1)).any():
        raise DataError("labels: only 0 and 1 are allowed")
    if thresholds is not None and np.shape(thresholds) != (count,):
        raise DataError(f"thresholds: shape {np.shape(thresholds)}, expected one for each of {count} categories")


def _score(score: np.ndarray, positive: np.ndarray, among: np.ndarray, threshold: float | None = None) -> Score:
    """Rank the images in `among` by their score (N,), and decide where there is a threshold."""
    y, s = positive[among], score[among]
    auroc, ap = ranked(y, s) if 0 < y.sum() < len(y) else (None, None)
    return Score(int(y.sum()), int((~y).sum()), auroc, ap, f1=None if threshold is None else _f1(y, s >= threshold))


def ranked(y: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """AUROC and average precision of scores (N,) with y (N,) bool, some of each kind; ties count half, as one step.

    Those of scikit-learn, from one sort in the place of its two and its checks: ten times as fast, since intervals
    and draws rank the same images hundreds of times.
    """
    order = np.argsort(-score)
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of images with one score
    hits = np.cumsum(y[order])[last]
    alarms = last + 1 - hits
    new = np.diff(hits, prepend=0)
    auroc = np.sum(np.diff(alarms, prepend=0) * (hits - new / 2)) / (hits[-1] * alarms[-1])
    return float(auroc), min(1.0, float(np.sum(new * (hits / (last + 1))) / hits[-1]))


def _f1(truth: np.ndarray, decision: np.ndarray) -> float | None:
    return float(2 * (truth & decision).sum() / (truth.sum() + decision.sum())) if truth.any() else None


def _macro(scores: list[Score], **across: float | None) -> Macro:
    known = {figure: [getattr(score, figure) for score in scores] for figure in ("auroc", "ap", "f1")}
    known = {figure: [value for value in values if value is not None] for figure, values in known.items()}
    means = {figure: float(np.mean(values)) if values else None for figure, values in known.items()}
    positives = sum(score.positives for score in scores if score.auroc is not None)
    return Macro(len(known["auroc"]), positives, **means, **across)


def _across(scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None) -> dict[str, float | None]:
    """The figures of `Macro` that look at all categories of an image together."""
    found: dict[str, float | None] = {}
    has, count = labels == 1, labels.sum(1)
    pairs = count * (labels.shape[1] - count)  # of a category that an image shows and one that it does not
    if pairs.any():
        wrong = np.zeros(len(labels))
        for c, rows in enumerate(has.T):
            wrong[rows] += (~has[rows] & (scores[rows] >= scores[rows, c, None])).sum(1)
        found["ranking_loss"] = float(np.mean(wrong / np.maximum(pairs, 1)))
    if thresholds is not None:
        decided = scores >= np.asarray(thresholds)
        found["f1_micro"] = _f1(has.ravel(), decided.ravel())
        found["exact_match"] = float((has == decided).all(1).mean())
        found["hamming_loss"] = float((has != decided).mean())
    return found
