"""Protocol board: ROC and precision-recall curve of one category under one protocol, and who is called."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from ...errors import DataError
from ...evaluation.protocols import PROTOCOLS
from ..plots import BLUE, GREY, ORANGE, RED, _clean
from .base import LARGE, SMALL, Drawn, Panel, axes_of, choice, one_of, slider


@dataclass(frozen=True)
class BoardCase:
    """What to judge: probabilities scores (N, C), labels Y (N, C), categories, the detector's own thresholds (C,)."""

    scores: np.ndarray
    labels: np.ndarray
    categories: Sequence[str]
    thresholds: np.ndarray

    def __post_init__(self):
        wanted = (len(self.scores), len(self.categories))
        for name, shape in (("scores", wanted), ("labels", wanted), ("thresholds", wanted[1:])):
            if np.shape(getattr(self, name)) != shape:
                raise DataError(f"{name}: shape {np.shape(getattr(self, name))}, expected {shape}")


def protocol_board(case: BoardCase, category: str, protocol: str, threshold: float) -> Drawn:
    """ROC and precision-recall curve with the point where a threshold stands, and who is called by it.

    Args:
        protocol: detection (negatives are normal images), discrimination (other anomalies) or multilabel (both).
        threshold: in [0, 1].

    Raises:
        DataError: an unknown category or protocol.
    """
    c = one_of(category, case.categories, "category")
    one_of(protocol, PROTOCOLS, "protocol")
    has, normal = case.labels[:, c] == 1, case.labels.sum(1) == 0
    among = {"detection": has | normal, "discrimination": ~normal}.get(protocol, np.ones_like(has))
    y, p = has[among], case.scores[among, c]
    called = p >= threshold
    figure, (roc, pr, bars) = axes_of(12, 4.4, (1, 1, 0.9), 0.07, 0.55)
    head = f"{category}, {protocol}: {y.sum()} positives of {len(y)} images"
    if 0 < y.sum() < len(y):
        auroc, ap = roc_auc_score(y, p), average_precision_score(y, p)
        rates = called[~y].mean(), called[y].mean()
        roc.plot(*roc_curve(y, p)[:2], color=BLUE)
        precision, recall, _ = precision_recall_curve(y, p)
        pr.plot(recall, precision, color=BLUE)
        roc.plot(*rates, "o", color=RED, markersize=9)
        found = y[called].mean() if called.any() else 1.0
        pr.plot(rates[1], found, "o", color=RED, markersize=9)
        f1 = f1_score(y, called, zero_division=0)
        roc.set_title(f"AUROC {auroc:.2f}", fontsize=LARGE)
        pr.set_title(f"AP {ap:.2f}, F1 here {f1:.2f}", fontsize=LARGE)
        words = f"AUROC <b>{auroc:.3f}</b>, AP <b>{ap:.3f}</b>; at threshold {threshold:.2f}: F1 <b>{f1:.3f}</b>, "
        words += f"{(called & y).sum()} found, {(~called & y).sum()} missed, {(called & ~y).sum()} false"
    else:
        words = "n/a: this protocol needs positives and negatives"
    roc.plot([0, 1], [0, 1], ":", color="black", linewidth=1)
    roc.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    pr.axhline(y.mean(), linestyle=":", color="black", linewidth=1)
    pr.set(xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(-0.03, 1.05))
    _draw_called(bars, case, c, threshold)
    for axis in (roc, pr, bars):
        _clean(axis)
    return figure, f"<b>{html.escape(head)}</b><br>{words}; the detector's own threshold is {case.thresholds[c]:.2f}"


def _draw_called(axis, case: BoardCase, c: int, threshold: float) -> None:
    """Share that is called the category: of those that have it, of normal images, of each other category without it."""
    has, called = case.labels[:, c] == 1, case.scores[:, c] >= threshold
    groups = {case.categories[c]: has, "normal": case.labels.sum(1) == 0}
    groups |= {f"{d} without it": ~has & (y == 1) for d, y in zip(case.categories, case.labels.T, strict=True)}
    groups.pop(f"{case.categories[c]} without it")
    for i, rows in enumerate(groups.values()):
        share = called[rows].mean() if rows.any() else 0
        axis.barh(i, share, color=BLUE if i == 0 else ORANGE if i > 1 else GREY)
        axis.text(share + 0.02, i, f"{called[rows].sum()} of {rows.sum()}", va="center", fontsize=SMALL)
    axis.set_yticks(range(len(groups)), list(groups), fontsize=SMALL)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.25), xticks=(0, 0.5, 1), xlabel=f"share called {case.categories[c]}")
    axis.set_title(f"called: {(called & has).sum()} rightly, {(called & ~has).sum()} wrongly", fontsize=LARGE)


def board_panel(case: BoardCase) -> Panel:
    """The board with controls."""
    controls = {
        "category": choice("category", case.categories),
        "protocol": choice("protocol", PROTOCOLS),
        "threshold": slider("threshold", 0, 1, 0.5),
    }
    return Panel(lambda **values: protocol_board(case, **values), controls)
