"""Panels about signs: the explorer shows what they say of one image, "signs kept" what a choice of them is worth."""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from textwrap import fill

import numpy as np
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score

from sdmad_lite.data import read_image
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.intervals import figure_text
from sdmad_lite.evaluation.protocols import Score, evaluate
from sdmad_lite.selection import equal_weights
from sdmad_lite.show.plots import BLUE, GREY, HAS, NORMAL, OTHER, PINK, draw_heat, draw_image, draw_parts, finish
from sdmad_lite.signs.bank import SignBank

from .panel import (
    LARGE,
    SMALL,
    Checks,
    Controls,
    Drawn,
    Panel,
    check_shapes,
    choice,
    number_of,
    panel_axes,
    slider,
    switch,
)


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
    for row, (rows, color) in enumerate(zip(groups.values(), (HAS, OTHER, NORMAL), strict=True)):
        height[rows] += row
        axis.scatter(values[rows], height[rows], s=11, color=color, alpha=0.7, linewidths=0)
    finish(axis, [f"{name} ({rows.sum()})" for name, rows in groups.items()], SMALL, ylim=(2.5, -0.5))
    return groups, height


# The sign explorer


@dataclass(frozen=True)
class ExplorerCase:
    """A fitted detector and N images with labels Y (N, C) to look at; never test images, since one chooses by them.

    drawn: for each image the texts of the signs that it truly shows, where that is known, as of phantoms.
    """

    detector: SDMAD
    images: Sequence
    labels: np.ndarray
    drawn: Sequence[Collection[str]] | None = None

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
    case: ExplorerCase, category: str, image: int, signs: Sequence[str], threshold: float, heat: str, truth: bool
) -> Drawn:
    """One image: where a sign is seen, what each sign adds to the logit, and AP and F1 over all images.

    Args:
        signs: the category's signs that are on. threshold: on the probability. heat: the sign whose heat map is drawn.
        truth: whether to say what the image shows, and mark each sign that was drawn.

    Raises:
        DataError: an unknown category, image or sign, or none left on.
    """
    detector, bank = case.detector, case.detector.bank
    c = number_of(category, bank.categories, "category")
    number_of(image, range(len(case.images)), "image")
    own = bank.signs_of(category)
    for text in (*signs, heat):
        number_of(text, own, "sign")
    if not signs:
        raise DataError(f"signs: keep at least one of {', '.join(own)}")
    # the logit of every image with only these signs on, and its parts for this image
    cosines, activations = case.features
    weights = weights_of_some(detector.weights_[c], [bank.texts.index(t) for t in signs])
    by_image = detector.image_logits(activations)[:, c]
    p = expit(detector.scale_[c] * (cosines @ weights) + detector.bias_[c] + by_image)
    parts = detector.scale_[c] * weights * (cosines[image] - detector.reference_[c])
    base = detector.bias_[c] + detector.scale_[c] * (weights @ detector.reference_[c])
    bars = {_named(case, image, t, t in signs, truth): parts[bank.texts.index(t)] for t in own}
    bars["normal signs"] = parts[np.flatnonzero(detector.membership[0])].sum()
    bars |= {"image evidence": by_image[image], "bias: a typical image": base}
    detected = "detected" if p[image] >= threshold else "not detected"
    figure, axes = panel_axes(14, 4.6, (1, 1, 1, 1), 0.01, 0.5)
    for axis, (left, width) in zip(axes, ((0.005, 0.2), (0.21, 0.2), (0.575, 0.16), (0.85, 0.14)), strict=True):
        axis.set_position((left, 0.16, width, 0.7))
    plain, picture, middle, strip = axes
    pixels = np.asarray(read_image(case.images[image], bank.color, strict=False))
    shown = ", ".join(n for n, has in zip(bank.categories, case.labels[image], strict=True) if has) or "normal"
    draw_image(plain, pixels, fill(f"image {image}: {shown if truth else 'truth hidden'}", 24), LARGE)
    draw_heat(picture, pixels, case.maps_of(image)[bank.texts.index(heat)], fill(f"where: {heat}", 24), LARGE)
    draw_parts(middle, bars, SMALL, xlabel="part of the logit", title=f"{category}: {p[image]:.2f}, {detected}")
    alone = (detector.scale_[c] * (cosines - detector.reference_[c]))[:, [bank.texts.index(t) for t in own]]
    widest = 1.5 * max(np.abs(by_image).max(), np.abs(alone).max() / 2, 1.0)
    middle.set(xlim=(-widest, widest))
    said = f"<b>{html.escape(category)}</b>, image {image}: {len(signs)} of {len(own)} signs on, probability "
    every = expit(detector.logits(cosines, activations)[:, c])
    return figure, f"{said}<b>{p[image]:.3f}</b>, {detected}; {_among_all(case, strip, c, image, p, every, threshold)}"


def _among_all(
    case: ExplorerCase, strip, c: int, image: int, p: np.ndarray, every: np.ndarray, threshold: float
) -> str:
    """All images beside this one, p (N,) with some signs on, `every` (N,) with all; AP and F1 in words."""
    _, height = _draw_groups(strip, p, case.labels, c)
    strip.axvline(threshold, color="black", linewidth=2)
    strip.plot(p[image], height[image], "o", markersize=12, markerfacecolor="none", markeredgecolor="black")
    finish(strip, xlim=(-0.02, 1.02), xlabel="probability")
    y = case.labels[:, c]
    text = f"{y.sum()} positives of {len(y)} images: "
    if not 0 < y.sum() < len(y):
        return f"{text}AP n/a"
    ap, f1 = average_precision_score(y, p), f1_score(y, p >= threshold, zero_division=0)
    whole = average_precision_score(y, every)
    strip.set(title=f"AP {ap:.2f} (all: {whole:.2f})")
    return f"{text}AP <b>{ap:.3f}</b> (all signs on: {whole:.3f}), F1 <b>{f1:.3f}</b>"


def _named(case: ExplorerCase, image: int, text: str, on: bool, truth: bool) -> str:
    """A sign's name beside its bar, in short lines."""
    name = text if on else f"{text} (off)"
    if truth and case.drawn is not None:
        name += "  ✓ drawn" if text in case.drawn[image] else "  ✗ not drawn"
    return fill(name, 30)


def explorer_panel(case: ExplorerCase, image: int | None = None) -> Panel:
    """The explorer with controls, first at `image` or at one with many anomalies."""
    bank = case.detector.bank
    first = int(np.argmax(np.sum(case.labels, 1))) if image is None else image
    category = bank.categories[int(np.argmax(case.labels[first]))]  # one that the image has
    own = bank.signs_of(category)
    controls = {
        "category": choice(bank.categories, category),
        "image": slider(0, len(case.images) - 1, first),
        "threshold": slider(0, 1, 0.5),
        "heat": choice(own, name="heat map", width="560px"),
        "truth": switch("show the truth"),
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
        """Each sign of `ranked` in words, without what stage 2 does with it."""
        row = self.auroc[self.bank.categories.index(category)]
        return {s: f"{self.bank.texts[s]} (support AUROC {row[s]:.2f})" for s in self.ranked(category)}

    def limits(self, category: str) -> tuple[float, float]:
        """Between which margins every choice of signs lies: a mean lies between its parts."""
        alone = [self.cosines @ self.weights_of(category, [s]) for s in self.ranked(category)]
        room = 0.03 * (np.max(alone) - np.min(alone))
        return float(np.min(alone) - room), float(np.max(alone) + room)

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


def signs_kept(case: SignCase, category: str, kept: Sequence[int], verdict: bool = True) -> Drawn:
    """Margins of positive, other and normal images, and AP beside that of all signs and of stage 2.

    Args:
        kept: numbers of the category's signs that stay on. verdict: whether to say what stage 2 keeps and reaches.

    Raises:
        DataError: no sign is kept, or one that is not the category's.
    """
    scores, own = sign_scores(case, category, kept), case.ranked(category)
    now, images = scores["now"], len(case.labels)
    scores = {name: score for name, score in scores.items() if verdict or name != "stage 2"}
    figure, (strip, bars) = panel_axes(12, 3.9, (1.7, 1), 0.16, 0.25)
    # a row of dots for each group of images, and a bar at its median
    margin = case.cosines @ case.weights_of(category, kept)
    groups, _ = _draw_groups(strip, margin, case.labels, case.bank.categories.index(category))
    for row, rows in enumerate(groups.values()):
        if rows.any():
            strip.plot([np.median(margin[rows])] * 2, [row - 0.4, row + 0.4], color="black", linewidth=2)
    title = f"{category}: {len(kept)} of {len(own)} signs on"
    label = "margin: mean cosine of kept signs minus normal signs"
    finish(strip, xlabel=label, title=title, xlim=case.limits(category))
    # AP of the choices
    for i, (name, score) in enumerate(scores.items()):
        color = {"now": BLUE, "stage 2": PINK}.get(name, GREY)
        bars.barh(i, score.ap or 0, color=color, height=0.62)
        bars.text((score.ap or 0) + 0.02, i, figure_text(score.ap), va="center", fontsize=SMALL)
    bars.axvline(now.positives / images, color="black", linestyle=":", linewidth=1)
    of = f"{now.positives} positives of {images}"
    best = max(scores, key=lambda name: scores[name].ap or 0)
    title = of if now.ap is None else f"best: {best} ({of})"
    finish(bars, list(scores), SMALL, xlim=(0, 1.12), xticks=(0, 0.5, 1), xlabel="AP (dotted: by chance)", title=title)
    ap = {name: figure_text(score.ap) for name, score in scores.items()}
    text = (
        f"<b>{html.escape(category)}</b>: {len(kept)} of {len(own)} signs on, {of} validation images<br>"
        f"AP now <b>{ap['now']}</b>, AUROC now <b>{figure_text(now.auroc)}</b>; AP with all signs {ap['all signs']}"
    )
    if not verdict:
        return figure, text
    chosen = "; ".join(html.escape(case.bank.texts[s]) for s in case.chosen(category))
    return figure, f"{text}, AP with the {len(case.chosen(category))} signs of stage 2 {ap['stage 2']} (kept: {chosen})"


def signs_kept_panel(case: SignCase, category: str | None = None) -> Panel:
    """Choose a category and switch its signs on and off, or keep the best n by support AUROC."""
    first = category or case.bank.categories[0]
    count = len(case.ranked(first))
    controls = {
        "category": choice(case.bank.categories, first),
        "number": slider(1, count, count, "best by support AUROC", width="400px"),
        "verdict": switch("show the verdict of stage 2"),
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

    def draw(category: str, number: int, verdict: bool, signs: Sequence[int]) -> Drawn:
        return signs_kept(case, category, signs, verdict)

    return Panel(draw, controls, follow)
