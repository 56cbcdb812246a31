"""Panels of a detector at work: remedies at another hospital; prototypes and figures as cases come in.

And what a lesson needs beside them: `meta_learnt`, a space learnt on episodes of other categories.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from sdmad_lite.alignment import inter_anomaly_loss
from sdmad_lite.evaluation.baselines import prototypes
from sdmad_lite.show.plots import DARK, GREY, RED, finish

from .panel import SMALL, Drawn, Panel, check_shapes, choice, number_of, panel_axes, slider


@dataclass(frozen=True)
class RemedyCase:
    """Labels Y (N, C) of the same patients at home and at a site; logits: remedy -> (2, N, C), at home and there.

    thresholds (C,) as probabilities.
    """

    labels: np.ndarray
    categories: Sequence[str]
    thresholds: np.ndarray
    logits: Mapping[str, np.ndarray]

    def __post_init__(self):
        count = len(self.labels), len(self.categories)
        check_shapes(self, labels=count, thresholds=count[1:], logits=(2, *count))


def remedy_picture(case: RemedyCase, category: str, remedy: str) -> Drawn:
    """Logits of one category at home and at the site, of images that have it, others and normal ones."""
    c = number_of(category, case.categories, "category")
    number_of(remedy, list(case.logits), "remedy")
    has, normal = case.labels[:, c] == 1, case.labels.sum(1) == 0
    groups = {f"has {category}": (has, RED), "another anomaly": (~has & ~normal, GREY), "normal": (normal, DARK)}
    cut = np.log(case.thresholds[c] / (1 - case.thresholds[c]))
    figure, axes = panel_axes(12, 4.2, (1, 1), 0.16, 0.55)
    ends = np.concatenate([logits[..., c].ravel() for logits in case.logits.values()])
    shake = np.random.default_rng(0).uniform(-0.3, 0.3, len(has))
    said = []
    for axis, title, logits in zip(axes, ("home", "the other hospital"), case.logits[remedy][..., c], strict=True):
        for row, (among, color) in enumerate(groups.values()):
            axis.plot(logits[among], row + shake[among], ".", color=color, markersize=5)
        axis.axvline(cut, color="black", linestyle=":", linewidth=2)
        auroc, alarms = roc_auc_score(has, logits), (logits[normal] >= cut).mean()
        names = [f"{name}\n{(logits[among] >= cut).sum()} of {among.sum()}" for name, (among, _) in groups.items()]
        finish(axis, names, SMALL, xlabel="logit; dotted: the threshold", title=f"{title}: AUROC {auroc:.2f}")
        axis.set_xlim(ends.min() - 0.5, ends.max() + 0.5)
        said.append(
            f"{title}: AUROC <b>{auroc:.3f}</b>, {(logits[has] >= cut).mean():.0%} found, {alarms:.0%} of normal"
        )
    return figure, f"<b>{html.escape(remedy)}</b>. " + "; ".join(said)


def remedy_panel(case: RemedyCase) -> Panel:
    """Which remedy moves the line, and which the groups?"""
    controls = {"category": choice(list(case.categories)), "remedy": choice(list(case.logits))}
    return Panel(partial(remedy_picture, case), controls)


@dataclass(frozen=True)
class StreamCase:
    """Embeddings u (N, D) of cases in order with labels Y (N, C), and figures: after so many -> AUROC (C,)."""

    u: np.ndarray
    labels: np.ndarray
    categories: Sequence[str]
    auroc: Mapping[int, np.ndarray]

    def __post_init__(self):
        check_shapes(self, u=(len(self.labels), np.shape(self.u)[1]), auroc=(len(self.categories),))


def stream_picture(case: StreamCase, category: str, cases: int) -> Drawn:
    """The first cases with the prototypes of those with a category and of the others; the AUROC as cases come in."""
    c = number_of(category, case.categories, "category")
    points = PCA(2, random_state=0).fit_transform(case.u)
    has = case.labels[:, c] == 1
    figure, (space, curve) = panel_axes(12, 4.4, (1, 1), 0.07, 0.25)
    space.plot(*points[cases:].T, ".", color="#DDDDDD", markersize=4)
    for among, color in ((~has, GREY), (has, RED)):
        first = np.flatnonzero(among[:cases])
        space.plot(*points[first].T, ".", color=color, markersize=8)
        if len(first):
            space.plot(*points[first].mean(0), "*", color=color, markersize=24, markeredgecolor="black")
    shown = int(has[:cases].sum())
    finish(space, title=f"{cases} cases, {shown} with {category}; stars: prototypes", xlabel="PCA 1", ylabel="PCA 2")
    done = [n for n in case.auroc if n <= cases]
    curve.plot(list(case.auroc), [value[c] for value in case.auroc.values()], "o-", color=GREY)
    curve.plot(done[-1], case.auroc[done[-1]][c], "o", color=RED, markersize=14)
    finish(curve, xlabel="confirmed cases", ylabel="AUROC on other images", title=category)
    curve.set_ylim(min(value.min() for value in case.auroc.values()) - 0.02, 1)
    return figure, f"after {done[-1]} cases AUROC <b>{case.auroc[done[-1]][c]:.3f}</b>, at first {case.auroc[0][c]:.3f}"


def stream_panel(case: StreamCase) -> Panel:
    """Cases come in: where do the prototypes go, and what is it worth?"""
    controls = {"category": choice(list(case.categories)), "cases": slider(1, len(case.u), 10)}
    return Panel(partial(stream_picture, case), controls)


def episode(labels: np.ndarray, shots: int, queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows to be asked, disjoint: so many of each category and of normal ones."""
    groups = [np.flatnonzero(column) for column in (*labels.T, labels.sum(1) == 0)]
    groups = [rng.permutation(rows) for rows in groups]
    support = np.unique(np.concatenate([rows[:shots] for rows in groups]))
    return support, np.setdiff1d(np.concatenate([rows[shots : shots + queries] for rows in groups]), support)


def meta_learnt(u: torch.Tensor, labels: np.ndarray, shots: int, episodes: int = 150, seed: int = 0) -> torch.Tensor:
    """(D, D): a linear map of embeddings after which prototypes of few images tell new ones, learnt on episodes.

    Source: Snell et al. 2017 (arXiv 1703.05175); a linear map that starts at the identity [ours].
    """
    rng, change = np.random.default_rng(seed), torch.zeros(u.shape[1], u.shape[1], requires_grad=True)
    steep = torch.tensor(10.0, requires_grad=True)
    optimizer = torch.optim.Adam([change, steep], lr=3e-3)
    for _ in range(episodes):
        few, asked = episode(labels, shots, 8, rng)
        moved = F.normalize(u + u @ change, dim=1)
        loss = inter_anomaly_loss(
            steep * prototypes(moved[few], labels[few], moved[asked]), torch.as_tensor(labels[asked], dtype=u.dtype)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.eye(u.shape[1]) + change.detach()
