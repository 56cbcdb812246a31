"""What a mean is worth: intervals over support draws and over patients, and differences over the same draws. [ours]"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from scipy.stats import t as student_t
from tqdm import tqdm

from ..data.labels import labels_by_name
from ..errors import DataError
from .protocols import PROTOCOLS, Evaluation, Macro, evaluate


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
    return Paired(mean, low, high, len(ours), verdict("better", "worse", low, high))


def verdict(above: str, below: str, low: float | None, high: float | None) -> str:
    """What may be said of a difference: `above` or `below` only where there is an interval and it excludes zero."""
    return above if (low or 0) > 0 else below if (high or 0) < 0 else "no difference shown"


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
    patients: Sequence | np.ndarray,
    resamples: int = 200,
    random_state: int = 0,
    progress: bool = False,
) -> Interval:
    """`evaluate` on all images, with 95 % percentile intervals over resampled patients.

    [ours] It speaks of other patients for the same detector; `over_draws` speaks of other support draws.

    Args:
        patients: (N,) whose image it is; images of a patient stay together. resamples: 0 for no intervals.
    """
    scores, labels = labels_by_name(scores, categories, "scores"), labels_by_name(labels, categories)
    result, drawn = evaluate(scores, labels, categories, thresholds), []
    draws = resampled(patients, resamples, random_state)
    for rows in tqdm(draws, "resamples", resamples, disable=not progress, leave=False):
        drawn.append(evaluate(scores[rows], labels[rows], categories, thresholds))

    return _interval([result, *drawn], with_interval)


def with_interval(values: Sequence[float | None] | np.ndarray) -> list[float | None]:
    """[figure, low, high]: what all images give, first, and the 95 % percentile interval of what resamples give.

    None for what is None or nan, and for the ends where fewer than nine resamples in ten have the figure.
    """
    figure, drawn = float(values[0] or 0), np.asarray(values[1:], dtype=np.float64)
    if values[0] is None or np.isnan(figure):
        return [None] * 3
    known = drawn[~np.isnan(drawn)]
    enough = len(drawn) and len(known) >= 0.9 * len(drawn)
    return [figure, *(np.percentile(known, [2.5, 97.5]).tolist() if enough else [None, None])]


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


def figure_text(mean: float | None, low: float | None = None, high: float | None = None, *, form=".3f") -> str:
    """A figure as tables print it: "0.824 [0.818, 0.830]", "0.824" without an interval, "n/a" for None.

    `form`: "+.3f" for a difference.
    """
    if mean is None:
        return "n/a"
    return f"{mean:{form}}" if low is None or high is None else f"{mean:{form}} [{low:{form}}, {high:{form}}]"
