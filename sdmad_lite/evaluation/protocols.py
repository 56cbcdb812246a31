"""Three protocols that score the same predictions, and the statistics over support draws and over patients.

[paper] names three evaluation protocols; [ours] their definitions, see `evaluate`. Only this file and `sealed`, which
calls it, see the labels of a test set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from scipy.stats import t as student_t
from sklearn import config_context, metrics
from tqdm import tqdm

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
        return {name: getattr(self, name) for name in PROTOCOLS}


@dataclass(frozen=True)
class Interval:
    """The same tree three times: each figure, and the ends of its 95 % interval, None where there is none.

    A count is the same number in all three.
    """

    mean: Evaluation
    low: Evaluation
    high: Evaluation

    @classmethod
    def from_dict(cls, data: dict) -> Interval:
        """Back from `dataclasses.asdict`, as metrics.json has it beside other entries."""
        return TypeAdapter(cls).validate_python(data)

    def macro(self, protocol: str = "multilabel") -> tuple[Macro, Macro, Macro]:
        """(mean, low, high) of one protocol's macro figures."""
        return dict(self.rows(protocol))["macro"]

    def rows(self, protocol: str) -> Iterator[tuple[str, Any]]:
        """Lines of a table, as `Protocol.rows`: title and (mean, low, high), each a Score or Macro."""
        trees = (getattr(tree, protocol).rows() for tree in (self.mean, self.low, self.high))
        yield from ((three[0][0], tuple(row for _, row in three)) for three in zip(*trees, strict=True))


@dataclass(frozen=True)
class Paired:
    """Mean difference over the same draws, its 95 % interval (nan for one draw), and what may be said of it."""

    difference: float
    low: float
    high: float
    draws: int
    verdict: str  # "better" or "worse" only where the interval excludes zero, else "no difference shown"


def evaluate(
    scores: np.ndarray, labels: np.ndarray, categories: Sequence[str], thresholds: np.ndarray | None = None
) -> Evaluation:
    """Score predictions by the three protocols.

    1. detection: normal images against those of each category, and against any (by the highest score).
    2. discrimination: each category against the other anomalies only; normal images are left out.
    3. multilabel: every category on all images, and the ranking loss within images; where thresholds are given
       also F1 (each category, macro and micro), exact match and Hamming loss of the decisions.

    Args:
        scores: (N, C), higher means more likely. labels: (N, C) in {0, 1}. categories: C names.
        thresholds: (C,), set on the support set; a score at or above is a detection.

    Raises:
        DataError: shapes differ, a score is not finite, or a label is not 0 or 1.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    _check(scores, labels, categories, thresholds)
    has, normal, everyone = labels == 1, labels.sum(1) == 0, np.ones_like(labels, dtype=bool)

    def protocol(among: np.ndarray, cuts: Any = None, **more: Any) -> Protocol:
        """Each category c is ranked over the images in `among`[:, c]."""
        cuts = [None] * len(categories) if cuts is None else cuts
        each = {name: _score(scores[:, c], has[:, c], among[:, c], cuts[c]) for c, name in enumerate(categories)}
        return Protocol(each, replace(_macro(list(each.values())), **more))

    detection = protocol(has | normal[:, None])
    return Evaluation(
        detection=replace(detection, any_anomaly=_score(scores.max(1), ~normal, everyone[:, 0])),
        discrimination=protocol(everyone & ~normal[:, None]),
        multilabel=protocol(everyone, thresholds, **_across(scores, labels, thresholds)),
    )


def _check(scores: np.ndarray, labels: np.ndarray, categories: Sequence[str], thresholds: np.ndarray | None) -> None:
    count = len(categories)
    if scores.shape != labels.shape or scores.ndim != 2 or scores.shape[1] != count:
        raise DataError(f"scores {scores.shape}, labels {labels.shape} and {count} categories: give both as (N, C)")
    if not np.isfinite(scores).all():
        raise DataError(f"scores: row {np.argwhere(~np.isfinite(scores))[0][0]} is not finite; give numbers")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels: only 0 and 1 are allowed")
    if thresholds is not None and np.shape(thresholds) != (count,):
        raise DataError(f"thresholds: shape {np.shape(thresholds)}, expected one for each of {count} categories")


def _score(score: np.ndarray, positive: np.ndarray, among: np.ndarray, threshold: float | None = None) -> Score:
    """Rank the images in `among` by their score (N,), and decide where there is a threshold."""
    y, s = positive[among], score[among]
    auroc = ap = None
    if 0 < y.sum() < len(y):
        auroc, ap = float(metrics.roc_auc_score(y, s)), float(metrics.average_precision_score(y, s))
    return Score(int(y.sum()), int((~y).sum()), auroc, ap, f1=None if threshold is None else _f1(y, s >= threshold))


def _f1(truth: np.ndarray, decision: np.ndarray) -> float | None:
    return float(metrics.f1_score(truth, decision, zero_division=0)) if truth.any() else None


def _macro(scores: list[Score]) -> Macro:
    ranked, means = [score for score in scores if score.auroc is not None], {}
    for figure in ("auroc", "ap", "f1"):
        known = [value for score in scores if (value := getattr(score, figure)) is not None]
        means[figure] = float(np.mean(known)) if known else None
    return Macro(categories=len(ranked), positives=sum(score.positives for score in ranked), **means)


def _across(scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None) -> dict[str, Any]:
    """The figures of `Macro` that look at all categories of an image together."""
    found: dict[str, Any] = {}
    # An image can be ranked if it has one category and lacks another.
    if ((labels.sum(1) > 0) & (labels.sum(1) < labels.shape[1])).any():
        found["ranking_loss"] = float(metrics.label_ranking_loss(labels, scores))
    if thresholds is not None:
        decided = scores >= np.asarray(thresholds)[None]
        found["f1_micro"] = _f1(labels.ravel(), decided.ravel())
        found["exact_match"] = float(metrics.accuracy_score(labels, decided))
        found["hamming_loss"] = float(metrics.hamming_loss(labels, decided))
    return found


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over support draws on one test set; with one draw the interval is (nan, nan)."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    half = student_t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Difference over the same draws; `better` only where the 95 % interval excludes zero.

    Raises:
        DataError: the lists are not of equal length.
    """
    if len(ours) != len(theirs):
        raise DataError(f"paired: {len(ours)} and {len(theirs)} draws; compare the same draws")
    mean, low, high = mean_interval(np.asarray(ours) - np.asarray(theirs))
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    return Paired(difference=mean, low=low, high=high, draws=len(ours), verdict=verdict)


def over_draws(results: Sequence[Evaluation]) -> Interval:
    """Mean and t-interval (`mean_interval`) of each figure over support draws.

    A figure that is None in some draw is None; one draw gives no interval.
    """

    def over(values: list) -> list:
        return [None] * 3 if None in values else [None if np.isnan(end) else end for end in mean_interval(values)]

    return _interval(results, over)


def bootstrap(
    scores: np.ndarray,
    labels: np.ndarray,
    categories: Sequence[str],
    thresholds: np.ndarray | None,
    patients: Sequence,
    resamples: int = 200,
    random_state: int = 0,
    progress: bool = False,
) -> Interval:
    """`evaluate` on all images, with 95 % percentile intervals over resampled patients.

    [ours] It speaks of other patients for the same detector; `over_draws` speaks of other support draws.
    A figure gets an interval where at least nine resamples in ten have it.

    Args:
        scores, labels, categories, thresholds: as in `evaluate`.
        patients: (N,) whose image it is; images of a patient stay together.
        resamples: 0 for no intervals.
    """
    result, drawn = evaluate(scores, labels, categories, thresholds), []
    number = np.unique(patients, return_inverse=True)[1]
    rows_of = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    rng = np.random.default_rng(random_state)
    for _ in tqdm(range(resamples), desc="resamples", disable=not progress, leave=False):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])
        with config_context(assume_finite=True, skip_parameter_validation=True):  # checked once, on all images
            drawn.append(evaluate(scores[rows], labels[rows], categories, thresholds))

    def over(values: list) -> list:
        figure, known = values[0], [value for value in values[1:] if value is not None]
        enough = figure is not None and drawn and len(known) >= 0.9 * len(drawn)
        return [figure, *(np.percentile(known, [2.5, 97.5]).tolist() if enough else [None, None])]

    return _interval([result, *drawn], over)


def _interval(trees: Sequence[Evaluation], over: Callable[[list], list]) -> Interval:
    """`over` makes [mean, low, high] of the values that a figure has in the trees."""
    ends = _combined(trees, over)
    picks: list[Callable[[list], Any]] = [lambda v: v[0][0], lambda v: v[0][1], lambda v: v[0][2]]
    return Interval(*(_combined([ends], pick) for pick in picks))


def _combined(trees: Sequence[Any], combine: Callable[[list], Any]) -> Any:
    """One tree from several of the same form: each figure is what `combine` makes of theirs, a count is the first's."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: _combined([tree[name] for tree in trees], combine) for name in first}
    if first is None or isinstance(first, (float, list)):
        return combine(list(trees))
    return first if isinstance(first, int) else type(first)(**_combined([vars(tree) for tree in trees], combine))


def figure_text(mean: float | None, low: float | None = None, high: float | None = None) -> str:
    """A figure as tables print it: "0.824 [0.818, 0.830]", "0.824" without an interval, "n/a" for None."""
    if mean is None:
        return "n/a"
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
