"""Panels about signs: the explorer shows what they say of one image, "signs kept" what a choice of them is worth."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from textwrap import fill

import numpy as np
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score

from sdmad_lite.data import read_image
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.protocols import Score, evaluate, figure_text
from sdmad_lite.selection import equal_weights
from sdmad_lite.show.plots import BLUE, GREY, ORANGE, RED, draw_heat, draw_parts, finish
from sdmad_lite.signs.bank import SignBank

from .panel import LARGE, SMALL, Checks, Controls, Drawn, Panel, check_shapes, choice, number_of, panel_axes, slider


def weights_of_some(row: np.ndarray, on: Sequence[int]) -> np.ndarray:
    """A category's weights (S,) with only some of its signs on, scaled to sum 1 again; normal signs keep theirs.

    Signs that were dropped, with weight 0, speak only where no other is left.
    """
    weights, left = np.minimum(row, 0), row[list(on)]
    left = left if left.any() else np.ones(len(on))
    weights[list(on)] = left / left.sum()
    return weights


def _draw_groups(axis, values: np.ndarray, labels: np.ndarray, c: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A row of dots at values (N,) for images with category c, with others, normal; their rows, and the heights."""
    has, normal = labels[:, c] == 1, labels.sum(1) == 0
    groups = {"has it": has, "other anomalies": ~has & ~normal, "normal": normal}
    height = np.random.default_rng(0).uniform(-0.3, 0.3, len(values))
    for row, (rows, color) in enumerate(zip(groups.values(), (RED, GREY, BLUE), strict=True)):
        height[rows] += row
        axis.scatter(values[rows], height[rows], s=11, color=color, alpha=0.7, linewidths=0)
    finish(axis, [f"{name} ({rows.sum()})" for name, rows in groups.items()], SMALL, ylim=(2.5, -0.5))
    return groups, height


# The sign explorer


@dataclass(frozen=True)
class ExplorerCase:
    """A fitted detector and N images with labels Y (N, C) to look at; never test images, since one chooses by them."""

    detector: SDMAD
    images: Sequence
    labels: np.ndarray

    def __post_init__(self):
        check_shapes(self, labels=(len(self.images), len(self.detector.bank.categories)))

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (N, S) and activations (N, d), computed once."""
        return self.detector.features(self.images)

    @cached_property
    def maps_of(self) -> Callable[[int], np.ndarray]:
        """Number of an image -> heat maps (S, h, w) of all signs, each computed once."""
        return cache(lambda image: self.detector.sign_maps(self.images[image]))


def sign_explorer(
    case: ExplorerCase, category: str, image: int, signs: Sequence[str], kept: int, threshold: float, heat: str
) -> Drawn:
    """One image: where a sign is seen, what each sign adds to the logit, and AP and F1 over all images.

    Args:
        signs: the category's signs that are on. kept: of these only the first so many stay, in the bank's order.
        threshold: on the probability. heat: the sign whose heat map is drawn.

    Raises:
        DataError: an unknown category, image or sign, or none left on.
    """
    detector, bank = case.detector, case.detector.bank
    c = number_of(category, bank.categories, "category")
    number_of(image, range(len(case.images)), "image")
    own = bank.signs_of(category)
    for text in (*signs, heat):
        number_of(text, own, "sign")
    on = [text for text in own if text in signs][:kept]
    if not on:
        raise DataError(f"signs: keep at least one of {', '.join(own)}")
    # the logit of every image with only these signs on, and its parts for this image
    (cosines, activations), y = case.features, case.labels[:, c]
    weights = weights_of_some(detector.weights_[c], [bank.texts.index(t) for t in on])
    by_image = detector.image_logits(activations)[:, c]
    p = expit(detector.scale_[c] * (cosines @ weights) + detector.bias_[c] + by_image)
    parts = detector.scale_[c] * weights * cosines[image]
    bars = {fill(t if t in on else f"{t} (off)", 26): parts[bank.texts.index(t)] for t in own}
    bars["normal signs"] = parts[np.flatnonzero(detector.membership[0])].sum()
    bars |= {"image evidence": by_image[image], "bias": detector.bias_[c]}
    detected = "detected" if p[image] >= threshold else "not detected"
    figure, (picture, middle, strip) = panel_axes(12, 4.6, (1.05, 1, 1), 0.01, 0.8)
    pixels = np.asarray(read_image(case.images[image], bank.color, strict=False))
    draw_heat(picture, pixels, case.maps_of(image)[bank.texts.index(heat)], fill(f"where: {heat}", 28), LARGE)
    draw_parts(middle, bars, SMALL, xlabel="part of the logit", title=f"{category}: {p[image]:.2f}, {detected}")
    middle.locator_params(axis="x", nbins=5)
    # all images beside this one
    _, height = _draw_groups(strip, p, case.labels, c)
    strip.axvline(threshold, color="black", linewidth=2)
    strip.plot(p[image], height[image], "o", markersize=12, markerfacecolor="none", markeredgecolor="black")
    finish(strip, xlim=(-0.02, 1.02), xlabel="probability (line: threshold)")
    text = f"<b>{html.escape(category)}</b>, image {image}: {len(on)} of {len(own)} signs on, probability "
    text += f"<b>{p[image]:.3f}</b>, {detected}; {y.sum()} positives of {len(y)} images: "
    if not 0 < y.sum() < len(y):
        return figure, text + "AP n/a"
    ap, f1 = average_precision_score(y, p), f1_score(y, p >= threshold, zero_division=0)
    every = average_precision_score(y, detector.logits(cosines, activations)[:, c])
    strip.set(title=f"AP {ap:.2f} (all signs on: {every:.2f})")
    return figure, text + f"AP <b>{ap:.3f}</b> (all signs on: {every:.3f}), F1 <b>{f1:.3f}</b>"


def explorer_panel(case: ExplorerCase) -> Panel:
    """The explorer with controls, first at an image with many anomalies."""
    bank = case.detector.bank
    own, most = bank.signs_of(bank.categories[0]), max(len(bank.signs_of(c)) for c in bank.categories)
    controls = {
        "category": choice(bank.categories),
        "image": slider(0, len(case.images) - 1, int(np.argmax(np.sum(case.labels, 1)))),
        "kept": slider(1, most, most),
        "threshold": slider(0, 1, 0.5),
        "heat": choice(own, name="heat map", width="520px"),
        "signs": Checks({text: text for text in own}),
    }

    def new_category(controls: Controls) -> None:
        own = bank.signs_of(controls["category"].value)
        controls["signs"].offer({text: text for text in own})
        controls["heat"].options, controls["heat"].value = own, own[0]

    return Panel(partial(sign_explorer, case), controls, {"category": new_category})


# Signs kept


@dataclass(frozen=True)
class SignCase:
    """What a choice of signs is judged by; all of it is computed beforehand.

    cosines: (N, S) of validation images and signs; never of test images, since a user chooses by them.
    labels: Y (N, C). bank: gives M, the texts and the categories. auroc: (C, S) support AUROC, by which
    signs are ranked. weights: W (C, S) of stage 2.
    """

    cosines: np.ndarray
    labels: np.ndarray
    bank: SignBank
    auroc: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        images, shape = len(self.cosines), (len(self.bank.categories), len(self.bank.texts))
        check_shapes(self, cosines=(images, shape[1]), labels=(images, shape[0]), auroc=shape, weights=shape)

    def ranked(self, category: str) -> list[int]:
        """Numbers of the category's signs, best support AUROC first."""
        c = self.bank.categories.index(category)
        own = np.flatnonzero(self.bank.membership()[c + 1])
        return own[np.argsort(-self.auroc[c, own], kind="stable")].tolist()

    def chosen(self, category: str) -> list[int]:
        """The signs that stage 2 kept, in the order of `ranked`."""
        row = self.weights[self.bank.categories.index(category)]
        return [s for s in self.ranked(category) if row[s] > 0]

    def labelled(self, category: str) -> dict[int, str]:
        """Each sign of `ranked` in words."""
        row, chosen = self.auroc[self.bank.categories.index(category)], self.chosen(category)
        does = {s: "keeps" if s in chosen else "drops" for s in self.ranked(category)}
        return {s: f"{self.bank.texts[s]} (support AUROC {row[s]:.2f}, stage 2 {d} it)" for s, d in does.items()}

    def weights_of(self, category: str, kept: Sequence[int]) -> np.ndarray:
        """(S,) equal weights of the kept signs minus equal weights of the normal signs.

        Raises:
            DataError: no sign is kept, or one that is not the category's.
        """
        if not len(kept) or not set(kept) <= set(self.ranked(category)):
            raise DataError(f"{category}: keep at least one of its own signs {self.ranked(category)}, not {list(kept)}")
        equal = equal_weights(self.bank.membership().astype(np.float64))
        return weights_of_some(equal[self.bank.categories.index(category)], kept)


def sign_scores(case: SignCase, category: str, kept: Sequence[int]) -> dict[str, Score]:
    """AP and AUROC with all signs, with the signs and weights of stage 2, and "now": the kept ones, weighed equally."""
    c = case.bank.categories.index(category)
    weights = case.weights_of(category, case.ranked(category)), case.weights[c], case.weights_of(category, kept)
    # three choices for one category, scored as if they were three categories
    choices, labels = ("all signs", "stage 2", "now"), np.repeat(case.labels[:, [c]], 3, 1)
    return evaluate(case.cosines @ np.transpose(weights), labels, choices).multilabel.per_category


def signs_kept(case: SignCase, category: str, kept: Sequence[int]) -> Drawn:
    """Margins of positive, other and normal images, and AP beside that of all signs and of stage 2.

    Args:
        kept: numbers of the category's signs that stay on.

    Raises:
        DataError: no sign is kept, or one that is not the category's.
    """
    scores, own = sign_scores(case, category, kept), case.ranked(category)
    now, images = scores["now"], len(case.labels)
    figure, (strip, bars) = panel_axes(12, 3.6, (1.7, 1), 0.16, 0.25)
    # a row of dots for each group of images, and a bar at its median
    margin = case.cosines @ case.weights_of(category, kept)
    groups, _ = _draw_groups(strip, margin, case.labels, case.bank.categories.index(category))
    for row, rows in enumerate(groups.values()):
        if rows.any():
            strip.plot([np.median(margin[rows])] * 2, [row - 0.4, row + 0.4], color="black", linewidth=2)
    title = f"{category}: {len(kept)} of {len(own)} signs on"
    finish(strip, xlabel="margin: mean cosine of kept signs minus normal signs", title=title)
    # AP of three choices
    for i, (score, color) in enumerate(zip(scores.values(), (GREY, ORANGE, BLUE), strict=True)):
        bars.barh(i, score.ap or 0, color=color, height=0.62)
        bars.text(
            (score.ap or 0) + 0.02, i, "n/a" if score.ap is None else f"{score.ap:.2f}", va="center", fontsize=SMALL
        )
    bars.axvline(now.positives / images, color="black", linestyle=":", linewidth=1)
    of = f"{now.positives} positives of {images}"
    best = max(scores, key=lambda name: scores[name].ap or 0)
    title = of if now.ap is None else f"best: {best} ({of})"
    finish(bars, list(scores), SMALL, xlim=(0, 1.12), xticks=(0, 0.5, 1), xlabel="AP (dotted: by chance)", title=title)
    ap = {name: figure_text(score.ap) for name, score in scores.items()}
    return figure, (
        f"<b>{html.escape(category)}</b>: {len(kept)} of {len(own)} signs on, {of} validation images<br>"
        f"AP now <b>{ap['now']}</b>, AUROC now <b>{figure_text(now.auroc)}</b>; AP with all signs {ap['all signs']}, "
        f"AP with the {len(case.chosen(category))} signs of stage 2 {ap['stage 2']}"
    )


def signs_kept_panel(case: SignCase, category: str | None = None) -> Panel:
    """Choose a category and switch its signs on and off, or keep the best n by support AUROC."""
    first = category or case.bank.categories[0]
    count = len(case.ranked(first))
    controls = {
        "category": choice(case.bank.categories, first),
        "number": slider(1, count, count, "number kept"),
        "signs": Checks(case.labelled(first)),
    }

    def new_category(controls: Controls) -> None:
        controls["signs"].offer(case.labelled(controls["category"].value))
        controls["number"].max = controls["number"].value = len(controls["signs"].options)

    def new_number(controls: Controls) -> None:
        controls["signs"].value = controls["signs"].options[: controls["number"].value]

    def new_signs(controls: Controls) -> None:
        controls["number"].value = len(controls["signs"].value)

    follow = {"category": new_category, "number": new_number, "signs": new_signs}
    return Panel(lambda category, number, signs: signs_kept(case, category, signs), controls, follow)
