"""Panels about scores: the protocol board, and how much shots, λ and the terms of the loss are worth."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.protocols import PROTOCOLS
from sdmad_lite.show.plots import BLUE, GREY, HAS, NORMAL, OTHER, finish

from .panel import SMALL, Drawn, Panel, check_shapes, choice, marks, number_of, panel_axes, slider

# The protocol board


@dataclass(frozen=True)
class BoardCase:
    """What to judge: probabilities scores (N, C), labels Y (N, C), categories, the detector's own thresholds (C,)."""

    scores: np.ndarray
    labels: np.ndarray
    categories: Sequence[str]
    thresholds: np.ndarray

    def __post_init__(self):
        shape = len(self.scores), len(self.categories)
        check_shapes(self, scores=shape, labels=shape, thresholds=shape[1:])


def protocol_board(case: BoardCase, category: str, protocol: str, threshold: float) -> Drawn:
    """ROC and precision-recall curve with the point where a threshold stands, and in whom it detects the category.

    Args:
        protocol: detection (negatives are normal images), discrimination (other anomalies) or multilabel (both).
        threshold: in [0, 1].

    Raises:
        DataError: an unknown category or protocol.
    """
    c = number_of(category, case.categories, "category")
    number_of(protocol, PROTOCOLS, "protocol")
    has, normal = case.labels[:, c] == 1, case.labels.sum(1) == 0
    among = {"detection": has | normal, "discrimination": ~normal}.get(protocol, np.ones_like(has))
    y, p = has[among], case.scores[among, c]
    figure, (roc, pr, bars) = panel_axes(13, 4.6, (1, 1, 0.8), 0.06, 0.5)
    words = "n/a: this protocol needs positives and negatives"
    if 0 < y.sum() < len(y):
        words = _draw_curves(roc, pr, y, p, threshold)
    roc.plot([0, 1], [0, 1], ":", color="black", linewidth=1)
    finish(roc, xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    pr.axhline(y.mean(), linestyle=":", color="black", linewidth=1)
    finish(pr, xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(-0.03, 1.05))
    _draw_detected(bars, case, c, threshold)
    head = html.escape(f"{category}, {protocol}: {y.sum()} positives of {len(y)} images")
    return figure, f"<b>{head}</b><br>{words}; the detector's own threshold is {case.thresholds[c]:.2f}"


def _draw_curves(roc, pr, y: np.ndarray, p: np.ndarray, threshold: float) -> str:
    """Both curves of probabilities p (n,) against the truth y (n,), and what the threshold does in words."""
    auroc, ap, detected = roc_auc_score(y, p), average_precision_score(y, p), p >= threshold
    f1, found = f1_score(y, detected, zero_division=0), detected[y].mean()
    roc.plot(*roc_curve(y, p)[:2], color=BLUE)
    precision, recall, _ = precision_recall_curve(y, p)
    pr.plot(recall, precision, color=BLUE)
    # the threshold is one point on each
    roc.plot(detected[~y].mean(), found, "o", color="black", markersize=9)
    pr.plot(found, y[detected].mean() if detected.any() else 1.0, "o", color="black", markersize=9)
    roc.set(title=f"AUROC {auroc:.2f}")
    pr.set(title=f"AP {ap:.2f}, F1 here {f1:.2f}")
    return (
        f"AUROC <b>{auroc:.3f}</b>, AP <b>{ap:.3f}</b>; at threshold {threshold:.2f}: F1 <b>{f1:.3f}</b>, "
        f"{(detected & y).sum()} found, {(~detected & y).sum()} missed, {(detected & ~y).sum()} false"
    )


def _draw_detected(axis, case: BoardCase, c: int, threshold: float) -> None:
    """In whom it is detected: those that have it, normal images, each other category without it."""
    has, detected = case.labels[:, c] == 1, case.scores[:, c] >= threshold
    groups = {case.categories[c]: has, "normal": case.labels.sum(1) == 0}
    others = [d for d in range(len(case.categories)) if d != c]
    groups |= {f"{case.categories[d]}\nwithout it": ~has & (case.labels[:, d] == 1) for d in others}
    for i, rows in enumerate(groups.values()):
        share = detected[rows].mean() if rows.any() else 0
        axis.barh(i, share, color=HAS if i == 0 else OTHER if i > 1 else NORMAL)
        axis.text(share + 0.02, i, f"{detected[rows].sum()} of {rows.sum()}", va="center", fontsize=SMALL)
    title = f"from {threshold:.2f} on: {(detected & has).sum()} rightly, {(detected & ~has).sum()} wrongly"
    finish(
        axis,
        ["\n".join(fill(line, 16) for line in name.split("\n")) for name in groups],
        SMALL,
        xlim=(0, 1.3),
        xticks=(0, 0.5, 1),
        xlabel="share detected",
        title=title,
    )


def board_panel(case: BoardCase) -> Panel:
    """The board with controls."""
    controls = {"category": choice(case.categories), "protocol": choice(PROTOCOLS), "threshold": slider(0, 1, 0.5)}
    return Panel(partial(protocol_board, case), controls)


# Shots and strength, from fits that `make grid` did beforehand

GRID = Path(__file__).parents[1] / "docs" / "results" / "shots_strength.json"
SCORES = ("SD-MAD", "signs alone")  # of all the logit, or only of what the signs add to it
MACRO = "mean of all"


@dataclass(frozen=True)
class GridCase:
    """AP of fits on a grid.

    ap: score -> (T, L, K, D, C) over choices of loss terms, λ, shots, support draws and categories.
    positives: (K, C) and images: (K,) of the first draw's validation images. model: what was fitted, CLIP and `local`.
    """

    categories: Sequence[str]
    terms: Sequence[str]
    lambdas: Sequence[float]
    shots: Sequence[int]
    positives: np.ndarray
    images: np.ndarray
    ap: Mapping[str, np.ndarray]
    model: str

    def __post_init__(self):
        shots, categories = len(self.shots), len(self.categories)
        draws = np.shape(next(iter(self.ap.values()), 0))[3:4] or (1,)
        shape = (len(self.terms), len(self.lambdas), shots, *draws, categories)
        check_shapes(self, ap=shape, positives=(shots, categories), images=(shots,))

    def values(self, score: str, category: str) -> np.ndarray:
        """(T, L, K, D) AP of one category, or the mean over categories."""
        number_of(score, list(self.ap), "score")
        if category == MACRO:
            return np.mean(self.ap[score], axis=4)
        return np.asarray(self.ap[score])[..., number_of(category, self.categories, "category")]


def load_grid(path: str | Path = GRID) -> GridCase:
    """Read what `make grid` wrote.

    Raises:
        DataError: the file is missing or not such a grid.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        positives, images = (np.array([data[x][str(k)] for k in data["shots"]]) for x in ("positives", "images"))
        ap = {score: np.array(values, dtype=float) for score, values in data["ap"].items()}
        axes = {name: data[name] for name in ("categories", "terms", "lambdas", "shots", "model")}
        return GridCase(positives=positives, images=images, ap=ap, **axes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a grid ({type(error).__name__}: {error}); `make grid` writes one") from None


def shots_and_strength(case: GridCase, shots: int, lam: float, terms: str, score: str, category: str) -> Drawn:
    """AP over shots for each λ, and at these shots for each choice of loss terms; dots are single support draws.

    Raises:
        DataError: a value that the grid does not have.
    """
    k, at = number_of(shots, case.shots, "shots"), number_of(lam, case.lambdas, "lam")
    t = number_of(terms, case.terms, "terms")
    values = case.values(score, category)  # (T, L, K, D)
    here, means, draws = values[t, at, k], values.mean(3), values.shape[3]
    figure, (curves, bars) = panel_axes(12, 4.6, (1.2, 1), 0.07, 0.45)
    # AP over shots, a line for each λ
    for i, other in enumerate(case.lambdas):
        line = {"color": GREY, "linewidth": 1.3, "linestyle": (":", "--", "-.", "-")[i % 4], "zorder": 2}
        if i == at:
            line = {"color": BLUE, "linewidth": 3, "zorder": 3}
        curves.plot(range(len(case.shots)), means[t, i], label=f"λ = {other:g}", **line)
    for i in range(len(case.shots)):
        curves.plot([i] * draws, values[t, at, i], ".", color=BLUE, markersize=9, alpha=0.6, zorder=4)
    ring = {"markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 2}
    curves.plot(k, means[t, at, k], "o", markersize=15, **ring)
    curves.legend(fontsize=SMALL, frameon=False, loc="upper left")
    curves.set_xticks(range(len(case.shots)), case.shots)
    finish(
        curves,
        xlabel="shots per category, K",
        ylabel=f"AP, {score}",
        xlim=(-0.3, len(case.shots) - 0.7),
        ylim=_limits(values),
    )
    best = case.lambdas[int(means[t, :, k].argmax())]
    curves.set(title=f"K = {shots}, λ = {lam:g}: AP {here.mean():.2f}; best λ here: {best:g}")
    # the terms of the loss, at these shots and this λ
    for i in range(len(case.terms)):
        bars.plot(values[i, at, k], [i] * draws, ".", color=BLUE if i == t else GREY, markersize=11)
        bars.plot([means[i, at, k]] * 2, [i - 0.3, i + 0.3], color=BLUE if i == t else "black", linewidth=3)
    title = f"terms differ by {np.ptp(means[:, at, k]):.3f}, draws by {np.ptp(here):.3f}"
    finish(bars, case.terms, SMALL, xlabel=f"AP at K = {shots}, λ = {lam:g}", title=title, xlim=_limits(values))
    chosen = case.categories if category == MACRO else [category]
    counts = " + ".join(str(case.positives[k][list(case.categories).index(c)]) for c in chosen)
    return figure, (
        f"<b>{html.escape(category)}</b>, {html.escape(score)}, {html.escape(terms)}: AP <b>{here.mean():.3f}</b> "
        f"(draws {here.min():.3f} to {here.max():.3f}), {counts} positives of {case.images[k]} validation images. "
        f"λ = 1 silences the adapters; fitted with {html.escape(case.model)}"
    )


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The same ends of an axis for every place in a grid."""
    return float(values.min()) - 0.02, float(values.max()) + 0.02


def grid_panel(case: GridCase) -> Panel:
    """The grid with controls, first at 4 shots and λ 0.7 where it has them."""
    controls = {"shots": marks(case.shots, 4, "shots, K"), "lam": marks(case.lambdas, 0.7, "λ")}
    controls |= {"terms": choice(case.terms, name="loss"), "score": choice(list(case.ap))}
    return Panel(partial(shots_and_strength, case), controls | {"category": choice([MACRO, *case.categories])})
