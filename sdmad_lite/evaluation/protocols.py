"""Three protocols that score the same predictions, and the statistics over support draws.

[paper] names three evaluation protocols; [ours] their definitions, see `evaluate`. This file and
`sealed`, which calls it, are the only ones that see the labels of a test set. All functions work from scores
alone, whoever made them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    hamming_loss,
    label_ranking_loss,
    roc_auc_score,
)

from ..errors import DataError

PROTOCOLS = ("detection", "discrimination", "multilabel")


def evaluate(
    scores: np.ndarray, labels: np.ndarray, categories: Sequence[str], thresholds: np.ndarray | None = None
) -> dict[str, dict[str, dict]]:
    """Score predictions by the three protocols.

    1. detection: normal images against those of each category, and against any (by the highest score).
    2. discrimination: each category against the other anomalies only; normal images are left out.
    3. multilabel: every category on all images, and the ranking loss within images; where thresholds are given
       also F1 (each category, macro and micro), exact match and Hamming loss of the decisions.

    Args:
        scores: (N, C), higher means more likely.
        labels: (N, C) in {0, 1}.
        categories: C names.
        thresholds: (C,), set on the support set; a score at or above is a detection.

    Returns:
        protocol -> category or "macro" -> auroc, ap, positives, negatives and more. A figure that
        cannot be computed is None, and is not averaged; "macro" says how many categories it averages.

    Raises:
        DataError: shapes differ, a score is not finite, or a label is not 0 or 1.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 2 or scores.shape[1] != len(categories):
        raise DataError(
            f"scores {scores.shape}, labels {labels.shape} and {len(categories)} categories: give both as (N, C)"
        )
    if not np.isfinite(scores).all():
        raise DataError(f"scores: row {np.argwhere(~np.isfinite(scores))[0][0]} is not finite; give numbers")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels: only 0 and 1 are allowed")
    if thresholds is not None and np.shape(thresholds) != (len(categories),):
        raise DataError(
            f"thresholds: shape {np.shape(thresholds)}, expected one for each of {len(categories)} categories"
        )
    normal = labels.sum(1) == 0
    detection, discrimination, multilabel = {}, {}, {}
    for c, name in enumerate(categories):
        has = labels[:, c] == 1
        detection[name] = _ranking(scores[:, c], has, has | normal)
        discrimination[name] = _ranking(scores[:, c], has, ~normal)
        multilabel[name] = _ranking(scores[:, c], has, np.ones(len(has), dtype=bool))
        if thresholds is not None:
            multilabel[name]["f1"] = _f1(has, scores[:, c] >= thresholds[c])
    macros = {p: _macro(rows) for p, rows in zip(PROTOCOLS, (detection, discrimination, multilabel), strict=True)}
    macros["multilabel"]["ranking_loss"] = _ranking_loss(scores, labels)
    detection["any"] = _ranking(scores.max(1), ~normal, np.ones(len(normal), dtype=bool))
    if thresholds is not None:
        macros["multilabel"] |= _decisions(labels, scores >= np.asarray(thresholds)[None])
    return {
        "detection": detection | {"macro": macros["detection"]},
        "discrimination": discrimination | {"macro": macros["discrimination"]},
        "multilabel": multilabel | {"macro": macros["multilabel"]},
    }


def _ranking(score: np.ndarray, positive: np.ndarray, among: np.ndarray) -> dict:
    y, s = positive[among], score[among]
    out = {"auroc": None, "ap": None, "positives": int(y.sum()), "negatives": int((~y).sum())}
    if 0 < y.sum() < len(y):
        out |= {"auroc": float(roc_auc_score(y, s)), "ap": float(average_precision_score(y, s))}
    return out


def _f1(truth: np.ndarray, decision: np.ndarray) -> float | None:
    return float(f1_score(truth, decision, zero_division=0)) if truth.any() else None


def _macro(rows: dict[str, dict]) -> dict:
    scored = [row for row in rows.values() if row["auroc"] is not None]
    out = {
        "auroc": float(np.mean([row["auroc"] for row in scored])) if scored else None,
        "ap": float(np.mean([row["ap"] for row in scored])) if scored else None,
        "positives": sum(row["positives"] for row in scored),
        "categories": len(scored),
    }
    f1 = [row["f1"] for row in rows.values() if row.get("f1") is not None]
    return out | ({"f1": float(np.mean(f1))} if f1 else {})


def _decisions(labels: np.ndarray, decision: np.ndarray) -> dict:
    return {
        "f1_micro": _f1(labels.ravel(), decision.ravel()),
        "exact_match": float(accuracy_score(labels, decision)),
        "hamming_loss": float(hamming_loss(labels, decision)),
    }


def _ranking_loss(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """None where no image has one category and lacks another: there is nothing to rank."""
    has = labels.sum(1)
    return float(label_ranking_loss(labels, scores)) if ((has > 0) & (has < labels.shape[1])).any() else None


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over draws; with one draw the interval is (nan, nan).

    It speaks of other support draws on the same test set, not of other patients.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    half = student_t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict:
    """Difference over the same draws; `better` only where the 95 % interval excludes zero.

    Raises:
        DataError: the lists are not of equal length.
    """
    if len(ours) != len(theirs):
        raise DataError(f"paired: {len(ours)} and {len(theirs)} draws; compare the same draws")
    mean, low, high = mean_interval(np.asarray(ours) - np.asarray(theirs))
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    return {"difference": mean, "low": low, "high": high, "draws": len(ours), "verdict": verdict}


def over_draws(results: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """Average what `evaluate` gave for several draws: each figure becomes its mean, with `<figure>_interval`.

    Counts that are the same in every draw stay numbers. A figure that is None in some draw is None.
    """
    out: dict[str, dict[str, dict]] = {}
    for protocol in PROTOCOLS:
        out[protocol] = {}
        for name, first in results[0][protocol].items():
            row: dict = {}
            for figure in first:
                values = [result[protocol][name][figure] for result in results]
                if figure in ("positives", "negatives", "categories"):
                    row[figure] = values[0]
                elif any(value is None for value in values):
                    row[figure], row[f"{figure}_interval"] = None, None
                else:
                    mean, low, high = mean_interval(values)
                    row[figure], row[f"{figure}_interval"] = mean, None if np.isnan(low) else [low, high]
            out[protocol][name] = row
    return out
