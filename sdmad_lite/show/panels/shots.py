"""Shots and strength: how many shots, which λ, which terms of the loss; from fits that `make grid` did beforehand."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..plots import BLUE, GREY, ORANGE, _clean
from .base import LARGE, SMALL, Drawn, Panel, axes_of, choice, marks, one_of

GRID = Path(__file__).parents[3] / "docs" / "results" / "shots_strength.json"
SCORES = ("SD-MAD", "signs alone")
"""What is scored: all of the logit, or only what the signs add to it."""
MACRO = "mean of all"


@dataclass(frozen=True)
class GridCase:
    """AP of fits on a grid.

    ap: score -> (T, L, K, D, C) over choices of loss terms, λ, shots, support draws and categories.
    positives: (K, C) and images: (K,) of the first draw's validation images.
    """

    categories: Sequence[str]
    terms: Sequence[str]
    lambdas: Sequence[float]
    shots: Sequence[int]
    positives: np.ndarray
    images: np.ndarray
    ap: Mapping[str, np.ndarray]

    def __post_init__(self):
        wanted = (len(self.terms), len(self.lambdas), len(self.shots))
        for name, values in self.ap.items():
            shape = np.shape(values)
            if len(shape) != 5 or shape[:3] != wanted or shape[4] != len(self.categories) or not shape[3]:
                raise DataError(f"ap, {name}: shape {shape}, expected {wanted} and draws, {len(self.categories)}")
        if np.shape(self.positives) != (len(self.shots), len(self.categories)):
            raise DataError(f"positives: shape {np.shape(self.positives)} is not (shots, categories)")

    def values(self, score: str, category: str) -> np.ndarray:
        """(T, L, K, D) AP of one category, or the mean over categories."""
        one_of(score, list(self.ap), "score")
        if category == MACRO:
            return np.mean(self.ap[score], axis=4)
        return np.asarray(self.ap[score])[..., one_of(category, self.categories, "category")]


def load_grid(path: str | Path = GRID) -> GridCase:
    """Read what `make grid` wrote.

    Raises:
        DataError: the file is missing or not such a grid.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        shots = data["shots"]
        positives = np.array([data["positives"][str(k)] for k in shots])
        images = np.array([data["images"][str(k)] for k in shots])
        ap = {score: np.array(values, dtype=float) for score, values in data["ap"].items()}
        names = (data[name] for name in ("categories", "terms", "lambdas", "shots"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a grid ({type(error).__name__}: {error}); `make grid` writes one") from None
    return GridCase(*names, positives, images, ap)


def shots_and_strength(case: GridCase, shots: int, lam: float, terms: str, score: str, category: str) -> Drawn:
    """AP over shots for each λ, and at these shots for each choice of loss terms; dots are single support draws.

    Raises:
        DataError: a value that the grid does not have.
    """
    k, at = one_of(shots, case.shots, "shots"), one_of(lam, case.lambdas, "lam")
    t = one_of(terms, case.terms, "terms")
    values = case.values(score, category)
    here, means = values[t, at, k], values.mean(3)
    figure, (curves, bars) = axes_of(12, 4.6, (1.2, 1), 0.07, 0.45)
    for i, other in enumerate(case.lambdas):
        color, width = (BLUE, 3) if i == at else (GREY, 1.3)
        style = (":", "--", "-.", "-")[i % 4] if i != at else "-"
        line = {"color": color, "linewidth": width, "linestyle": style, "zorder": 2 + (i == at)}
        curves.plot(range(len(case.shots)), means[t, i], label=f"λ = {other:g}", **line)
    for i in range(len(case.shots)):
        curves.plot([i] * values.shape[3], values[t, at, i], ".", color=BLUE, markersize=9, alpha=0.6, zorder=4)
    curves.plot(
        k, means[t, at, k], "o", markersize=15, markerfacecolor="none", markeredgecolor=ORANGE, markeredgewidth=3
    )
    curves.legend(fontsize=SMALL, frameon=False, loc="upper left")
    curves.set_xticks(range(len(case.shots)), case.shots)
    curves.set(xlabel="shots per category, K", ylabel=f"AP, {score}", xlim=(-0.3, len(case.shots) - 0.7))
    best = case.lambdas[int(means[t, :, k].argmax())]
    curves.set_title(f"K = {shots}, λ = {lam:g}: AP {here.mean():.2f}; best λ here: {best:g}", fontsize=LARGE)
    for i in range(len(case.terms)):
        bars.plot(values[i, at, k], [i] * values.shape[3], ".", color=BLUE if i == t else GREY, markersize=11)
        bars.plot([means[i, at, k]] * 2, [i - 0.3, i + 0.3], color=BLUE if i == t else "black", linewidth=3)
    bars.set_yticks(range(len(case.terms)), case.terms, fontsize=SMALL)
    bars.invert_yaxis()
    bars.set(xlabel=f"AP at K = {shots}, λ = {lam:g}")
    apart, spread = np.ptp(means[:, at, k]), np.ptp(here)
    bars.set_title(f"terms differ by {apart:.3f}, draws by {spread:.3f}", fontsize=LARGE)
    for axis in (curves, bars):
        _clean(axis)
    whose = case.positives[k] if category == MACRO else case.positives[k][[list(case.categories).index(category)]]
    counts = " + ".join(map(str, whose))
    return figure, (
        f"<b>{html.escape(category)}</b>, {html.escape(score)}, {html.escape(terms)}: AP <b>{here.mean():.3f}</b> "
        f"(draws {here.min():.3f} to {here.max():.3f}), {counts} positives of {case.images[k]} validation images. "
        f"λ = 1 silences the adapters"
    )


def grid_panel(case: GridCase) -> Panel:
    """The grid with controls, first at 4 shots and λ 0.7 where it has them."""
    controls = {
        "shots": marks("shots, K", case.shots, 4),
        "lam": marks("λ", case.lambdas, 0.7),
        "terms": choice("loss", case.terms),
        "score": choice("score", list(case.ap)),
        "category": choice("category", [MACRO, *case.categories]),
    }
    return Panel(lambda **values: shots_and_strength(case, **values), controls)
