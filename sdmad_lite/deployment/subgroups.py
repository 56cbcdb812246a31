"""Who pays: figures and errors of a detector by sex, age, site and their crossings. [ours]

    by_group(detector.predict_proba(table.images), table, detector.thresholds_, ["sex", "sex+site"])

fairlearn's MetricFrame takes the images apart, intervals come from resampled *patients*, whose images stay together. A
group with few patients gets "too few to say". A difference says who pays, not why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..data import ImageTable
from ..errors import DataError, needs, warn
from ..evaluation.intervals import resampled, verdict, with_interval
from ..evaluation.protocols import ranked
from ..settings import AtLeastOne, Count, checked

TOO_FEW, MACRO, UNKNOWN = "too few to say", "mean of all", "not given"
AGES, BANDS = (40, 60), ("under 40", "40 to 59", "60 and over")  # in years
Ends = tuple[float | None, ...]  # low and high; None where too few resamples have the figure
Figure = Callable[[np.ndarray, np.ndarray], float]  # of labels y (n,) and s (n,), 0 or more where it is detected


def _f1(y: np.ndarray, s: np.ndarray) -> float:
    return 2 * ((s >= 0) & (y == 1)).sum() / ((s >= 0).sum() + (y == 1).sum())


def _wrong(y: np.ndarray, s: np.ndarray, of: int) -> float:
    return ((s[y == of] >= 0) != of).mean()


FIGURES: dict[str, tuple[Figure, tuple[int, ...]]] = {
    "AUROC": (lambda y, s: ranked(y == 1, s)[0], (0, 1)),
    "F1": (_f1, (0, 1)),
    "misses": (partial(_wrong, of=1), (1,)),  # share of the positives
    "false alarms": (partial(_wrong, of=0), (0,)),  # share of the negatives
}
"""Name -> figure, and the labels that it speaks of; of each of these a group needs enough patients."""


@dataclass(frozen=True)
class GroupFigure:
    """One figure of one group, and how it differs from that of all images; None where patients are too few."""

    by: str  # column, or several joined by +
    group: str  # value, or several joined by +
    category: str  # or MACRO: the mean over categories of which every group has enough
    figure: str
    images: int
    patients: tuple[int, int]  # that have images without and with the category
    value: float | None
    interval: Ends  # 95 %, over patients
    difference: float | None  # value less that of all images
    difference_interval: Ends
    verdict: str  # "higher" or "lower" than in all images, no difference shown, or too few to say


def columns_to_group(table: ImageTable) -> list[str]:
    """Sex, age, site and view, as far as the table has them with more than one value."""
    return [name for name in ("sex", "age", "site", "view") if len(set(table.meta.get(name, ()))) > 1]


def group_names(table: ImageTable, by: str) -> np.ndarray:
    """(N,) the group of each image by a column, or several joined by +; a DataError says why one is no use."""
    columns = []
    for name in by.split("+"):
        if name not in table.meta:
            there = ", ".join(c for c in table.meta if c not in ("patient_id", "split", "signs"))
            raise DataError(f"by: the data have no column {name!r} to group by; they have {there or 'none'}")
        column = [_band(i, v) if name == "age" else v or UNKNOWN for i, v in enumerate(table.meta[name])]
        if len(set(column)) < 2:
            raise DataError(f"by: every image has {name} {column[0]!r}; name a column with two groups or more")
        columns.append(column)
    return np.array(["+".join(values) for values in zip(*columns, strict=True)], dtype=object)


def _band(row: int, age: str) -> str:
    try:
        return BANDS[np.digitize(float(age), AGES)] if age else UNKNOWN
    except ValueError:
        raise DataError(f"by: age {age!r} in row {row} is no number of years; correct it, or leave age out") from None


def metric_frame(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, figures: Mapping[str, Figure]):
    """fairlearn's MetricFrame of scores less thresholds (N, C) and labels Y (N, C), each category apart."""
    return needs("fairlearn.metrics", "fairness").MetricFrame(
        metrics=dict(figures),
        y_true=np.ravel(labels, order="F"),
        y_pred=np.ravel(scores, order="F"),
        sensitive_features={"group": np.tile(groups, labels.shape[1])},
        control_features={"category": np.repeat(np.arange(labels.shape[1]), len(labels))},
    )


def by_group(
    scores: np.ndarray,
    table: ImageTable,
    thresholds: np.ndarray,
    by: Sequence[str],
    *,
    figures: Mapping[str, tuple[Figure, tuple[int, ...]]] = FIGURES,
    least: int = 10,
    resamples: int = 200,
    random_state: int = 0,
) -> list[GroupFigure]:
    """Each figure of each group and category, and how it differs from that of all images.

    Args:
        scores: (N, C), for the table's categories. thresholds: (C,) from which a category is detected.
        by: columns of the table, such as "sex", or crossings, "sex+site". figures: in the form of FIGURES.
        least: patients that a group must have for a figure. resamples: of patients, for 95 % percentile intervals.

    Raises:
        DataError: as `group_names`, another shape, or no figure of which two groups have enough patients.
    """
    least, resamples = checked("least", least, AtLeastOne), checked("resamples", resamples, Count)
    if np.shape(scores) != table.labels.shape:
        raise DataError(f"scores of shape {np.shape(scores)}, expected {table.labels.shape} (images, categories)")
    y, s, patients = np.asarray(table.labels), np.asarray(scores) - thresholds, table.patients()
    draws, columns = list(resampled(patients, resamples, random_state)), range(y.shape[1])
    rows: list[GroupFigure] = []
    for name in by:
        groups = group_names(table, name)
        names = np.unique(groups)
        inside = np.array([*(groups == one for one in names), np.full(len(y), True)])  # (G + 1, N), the last is all
        counts = np.array([[[len(set(patients[g & (own == k)])) for k in (0, 1)] for own in y.T] for g in inside])
        for g, c in np.argwhere((counts[:-1] == 0).any(2)):
            kind = "with" if counts[g, c, 0] == 0 else "without"
            warn(f"by {name!r}: {names[g]} has only images {kind} {table.categories[c]}; add others to compare it")
        for figure, (function, of) in figures.items():
            known = partial(_where_known, function, of)
            frame = metric_frame(s, y, groups, {figure: known})
            seen = np.vstack([frame.by_group[figure].unstack(0).to_numpy(float), frame.overall[figure].to_numpy(float)])
            drawn = [[[known(y[r, c], s[r, c]) for c in columns] for r in (d[g[d]] for g in inside)] for d in draws]
            values = np.array([seen, *drawn])  # (1 + resamples, G + 1, C)
            values[:, (counts[:, :, list(of)] < least).any(2)] = np.nan
            rows += _rows(name, names, table.categories, figure, inside.sum(1), counts, values)
    if all(row.value is None for row in rows):
        raise DataError(f"by {', '.join(by)}: no group has least={least} patients of a kind; give more, or lower it")
    return rows


def _where_known(function: Figure, of: Sequence[int], y, s) -> float:
    y, s = np.asarray(y), np.asarray(s)
    return float(function(y, s)) if all((y == label).any() for label in of) else np.nan


def _rows(by, names, categories, figure, images, counts, values) -> Iterator[GroupFigure]:
    """Rows from images (G + 1,), patients (G + 1, C, 2) and values (1 + R, G + 1, C), the observed first."""
    known = ~np.isnan(values[0])
    shared = known[known.any(1)].all(0)  # so that the means of groups are of the same categories
    if shared.any() and len(categories) > 1:
        values = np.concatenate([values, values[:, :, shared].mean(2, keepdims=True)], 2)
        counts = np.concatenate([counts, counts[:, shared].min(1, keepdims=True)], 1)
    for c, category in enumerate([*categories, MACRO][: values.shape[2]]):
        for g, name in enumerate(names):
            value, *ends = with_interval(values[:, g, c])
            difference, *apart = with_interval(values[:, g, c] - values[:, -1, c])
            told = TOO_FEW if value is None else verdict("higher", "lower", *apart)
            about = by, str(name), category, figure, int(images[g]), tuple(counts[g, c].tolist())
            yield GroupFigure(*about, value, tuple(ends), difference, tuple(apart), told)
