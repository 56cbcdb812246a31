"""Pictures and panel of lesson 05b: are probabilities right, and which answers so many positives allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from sdmad_course.reliability import reliability
from sdmad_lite.deployment.decisions import TOO_FEW, Decisions
from sdmad_lite.show.plots import BLUE, GREY, ORANGE, PALETTE, finish, new_figure

from .panel import SMALL, Drawn, Panel, choice, marks, number_of, panel_axes

ANSWERS = {"absent": GREY, "unsure": PALETTE[4], "unlike both": ORANGE, "present": BLUE, TOO_FEW: "#ffffff"}


@dataclass(frozen=True)
class DecisionCase:
    """Decisions, and the logits (V, C) and labels (V, C) of images to decide on."""

    decisions: Decisions
    logits: np.ndarray
    labels: np.ndarray

    def with_positives(self, category: int, count: int) -> Decisions:
        """One category alone, calibrated on `count` of its positives and on all images without it."""
        y = self.decisions.labels[:, category]
        rows = np.sort(np.concatenate([np.flatnonzero(y == 1)[:count], np.flatnonzero(y == 0)]))
        one = slice(category, category + 1)
        logits, labels = self.decisions.logits[rows, one], np.asarray(self.decisions.labels)[rows, one]
        return Decisions(self.decisions.categories[one], logits, labels)


def draw_reliability(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Name -> probabilities (N,) and labels (N,): what was said, and what share was so, with Wilson's intervals."""
    figure = new_figure(4.6, 4.2)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], ":", color="black", linewidth=1)
    for (name, (p, y)), color in zip(curves.items(), (GREY, BLUE), strict=False):
        bins = reliability(p, y)
        was = np.array([one.was for one in bins])
        error = np.abs([[one.low for one in bins] - was, [one.high for one in bins] - was])
        axis.errorbar([one.said for one in bins], was, error, color=color, marker="o", capsize=3, label=name)
    axis.legend(frameon=False, fontsize=SMALL, loc="upper left")
    finish(axis, xlabel="probability said", ylabel="share that was so", xlim=(0, 1), ylim=(0, 1))
    return figure


def which_answers(case: DecisionCase, category: str, positives: int, level: float) -> Drawn:
    """Where on the scale of logits each answer is given, and who gets it."""
    c = number_of(category, case.decisions.categories, "category")
    decisions = case.with_positives(c, positives)
    logits, y = case.logits[:, c], np.asarray(case.labels)[:, c] == 1
    figure, (scale, shares) = panel_axes(12, 4.2, (1.5, 1), 0.12, 0.35)
    grid = np.linspace(logits.min() - 0.5, logits.max() + 0.5, 400)
    zones = decisions.answers(grid[:, None], level)[:, 0]
    for word, color in ANSWERS.items():
        scale.fill_between(grid, -0.6, 1.6, where=zones == word, color=color, alpha=0.35, linewidth=0)
    rng = np.random.default_rng(0)
    for row, has in enumerate((True, False)):
        points = logits[y == has]
        scale.plot(points, row + rng.uniform(-0.25, 0.25, len(points)), ".", color="black", markersize=5)
    finish(scale, [f"{category}", "without it"], SMALL, xlabel="logit", title=f"{positives} positives, level {level:g}")
    said = decisions.answers(logits[:, None], level)[:, 0]
    words = [word for word in ANSWERS if (said == word).any()]
    for row, has in enumerate((True, False)):
        left = 0.0
        for word in words:
            share = float((said[y == has] == word).mean())
            shares.barh(row, share, left=left, color=ANSWERS[word], edgecolor="black", linewidth=0.5)
            left += share
    finish(shares, ["", ""], SMALL, xlim=(0, 1), xlabel="share of images, by answer")
    handles = [shares.barh(0, 0, color=ANSWERS[word], edgecolor="black", label=word) for word in words]
    shares.legend(handles=handles, frameon=False, fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    sets, enough = decisions.sets(logits[:, None], level)
    cover = [sets[y == has, 0, int(has)].mean() for has in (True, False)]
    kept = [f"{share:.2f}" if able else TOO_FEW for share, able in zip(cover, enough[0, ::-1], strict=True)]
    return figure, f"truth in the set: of images with it <b>{kept[0]}</b>, of images without it <b>{kept[1]}</b>"


def decision_panel(case: DecisionCase) -> Panel:
    """A category, how many of its positives there are, and the level asked for."""
    most = int(case.decisions.counts[:, 1].min())
    controls = {"category": choice(case.decisions.categories)}
    controls["positives"] = marks([k for k in (2, 4, 8, 11, 12, 14, 16, 20) if k <= most], most, "positives, K")
    controls["level"] = marks((0.7, 0.8, 0.9, 0.95), 0.9, "level")
    return Panel(partial(which_answers, case), controls)
