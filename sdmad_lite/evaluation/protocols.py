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


@dataclass(frozen=True)
class Interval:
    """The same tree three times: each figure, and the ends of its 95 % interval, None where there is none."""

    mean: Evaluation
    low: Evaluation
    high: Evaluation

    @classmethod
    def from_dict(cls, data: dict) -> Interval:
        """Back from `dataclasses.asdict`, as metrics.json has it beside other entries."""
        return TypeAdapter(cls).validate_python(data)

    def macro(self, protocol: str = "multilabel") -> tuple[Macro, Macro, Macro]:
        """(mean, low, high) of one protocol's macro figures."""
        mean, low, high = (getattr(tree, protocol).macro for tree in vars(self).values())
        return mean, low, high

    def rows(self, protocol: str) -> Iterator[tuple[str, Any]]:
        """Lines of a table, as `Protocol.rows`: title and (mean, low, high), each a Score or Macro."""
        for three in zip(*(getattr(tree, protocol).rows() for tree in vars(self).values()), strict=True):
            yield three[0][0], tuple(row for _, row in three)


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
        auroc, ap = float(metrics.roc_auc_score(y, s)), min(1.0, float(metrics.average_precision_score(y, s)))
    return Score(int(y.sum()), int((~y).sum()), auroc, ap, f1=None if threshold is None else _f1(y, s >= threshold))


def _f1(truth: np.ndarray, decision: np.ndarray) -> float | None:
    return float(metrics.f1_score(truth, decision, zero_division=0)) if truth.any() else None


def _macro(scores: list[Score], **across: float | None) -> Macro:
    known = {figure: [getattr(score, figure) for score in scores] for figure in ("auroc", "ap", "f1")}
    known = {figure: [value for value in values if value is not None] for figure, values in known.items()}
    means = {figure: float(np.mean(values)) if values else None for figure, values in known.items()}
    positives = sum(score.positives for score in scores if score.auroc is not None)
    return Macro(len(known["auroc"]), positives, **means, **across)


def _across(scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None) -> dict[str, float | None]:
    """The figures of `Macro` that look at all categories of an image together."""
    found: dict[str, float | None] = {}
    # an image can be ranked if it has one category and lacks another
    if ((labels.sum(1) > 0) & (labels.sum(1) < labels.shape[1])).any():
        found["ranking_loss"] = float(metrics.label_ranking_loss(labels, scores))
    if thresholds is not None:
        decided = scores >= np.asarray(thresholds)
        found["f1_micro"] = _f1(labels.ravel(), decided.ravel())
        found["exact_match"] = float(metrics.accuracy_score(labels, decided))
        found["hamming_loss"] = float(metrics.hamming_loss(labels, decided))
    return found


def mean_interval(values: Sequence[float], bounds: tuple[float, float] = (0, 1)) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over support draws on one test set; with one draw the interval is (nan, nan).

    Its ends stay within the `bounds` of the figure; differences of figures have (-1, 1).
    """
    given = np.asarray(values, dtype=np.float64)
    x = np.clip(given, *bounds)
    if (np.abs(given - x) > 1e-9).any():  # more than rounding
        raise DataError(f"mean_interval: a value lies outside {bounds}; give the figure's own bounds")
    mean = float(x.mean())
    half = student_t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
    return mean, float(np.maximum(mean - half, bounds[0])), float(np.minimum(mean + half, bounds[1]))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Difference over the same draws; `better` only where the 95 % interval excludes zero."""
    if len(ours) != len(theirs):
        raise DataError(f"paired: {len(ours)} and {len(theirs)} draws; compare the same draws")
    mean, low, high = mean_interval(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float), bounds=(-1, 1))
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    return Paired(difference=mean, low=low, high=high, draws=len(ours), verdict=verdict)


def over_draws(results: Sequence[Evaluation]) -> Interval:
    """Mean and t-interval (`mean_interval`) of each figure over support draws; None where some draw has none."""

    def over(values: list) -> list:
        return [None] * 3 if None in values else [None if np.isnan(end) else end for end in mean_interval(values)]

    return _interval(results, over)


def resampled(patients: Sequence | np.ndarray, resamples: int, random_state: int = 0) -> Iterator[np.ndarray]:
    """Rows of as many patients as there are, drawn with replacement, each with all of its images; `resamples` times."""
    number = np.unique(patients, return_inverse=True)[1]
    rows_of = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    rng = np.random.default_rng(random_state)
    for _ in range(resamples):
        yield np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])


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

    [ours] It speaks of other patients for the same detector; `over_draws` speaks of other support draws. A figure gets
    an interval where at least nine resamples in ten have it.

    Args:
        patients: (N,) whose image it is; images of a patient stay together. resamples: 0 for no intervals.
    """
    scores, labels = labels_by_name(scores, categories, "scores"), labels_by_name(labels, categories)
    result, drawn = evaluate(scores, labels, categories, thresholds), []
    draws = resampled(patients, resamples, random_state)
    for rows in tqdm(draws, "resamples", resamples, disable=not progress, leave=False):
        with config_context(assume_finite=True, skip_parameter_validation=True):  # checked once, on all images
            drawn.append(evaluate(scores[rows], labels[rows], categories, thresholds))

    def over(values: list) -> list:
        figure, known = values[0], [value for value in values[1:] if value is not None]
        enough = figure is not None and drawn and len(known) >= 0.9 * len(drawn)
        return [figure, *(np.percentile(known, [2.5, 97.5]).tolist() if enough else [None, None])]

    return _interval([result, *drawn], over)


def _interval(trees: Sequence[Evaluation], over: Callable[[list], list]) -> Interval:
    """`over` makes [mean, low, high] of the values that a figure has in the trees; a count is the first tree's."""

    def combined(trees: Sequence[Any], end: int) -> Any:
        first = trees[0]
        if isinstance(first, dict):
            return {name: combined([tree[name] for tree in trees], end) for name in first}
        if first is None or isinstance(first, float):
            return over(list(trees))[end]
        return first if isinstance(first, int) else type(first)(**combined([vars(tree) for tree in trees], end))

    return Interval(*(combined(trees, end) for end in range(3)))


def remarks(result: Interval, draws: int | None = None) -> list[str]:
    """What a reader must not miss: too few draws, and what is ranked backwards, its whole interval below chance."""
    found = [f"too few draws: {draws}; an interval means something from five on"] if draws and draws < 5 else []
    backwards: dict[str, list[str]] = {}
    for protocol in PROTOCOLS:
        for title, row in result.rows(protocol):
            ends = [end.auroc for end in row]
            if ends[2] is not None and ends[2] < 0.5:
                backwards.setdefault(title, []).append(f"{figure_text(*ends)} in {protocol}")
    lines = (f"{title} is ranked backwards: AUROC {', '.join(where)}" for title, where in backwards.items())
    return found + [f"{line}; check its labels and signs" for line in lines]


def figure_text(mean: float | None, low: float | None = None, high: float | None = None) -> str:
    """A figure as tables print it: "0.824 [0.818, 0.830]", "0.824" without an interval, "n/a" for None."""
    if mean is None:
        return "n/a"
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
