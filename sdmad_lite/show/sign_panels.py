"""Panels about signs: the sign explorer shows what they say of one image, "signs kept" what a choice of them is worth.

case = SignCase(cosines, validation.labels, bank, selector.auroc_, selector.weights_)
figure, text = signs_kept(case, "Fibrosis", case.ranked("Fibrosis")[:2])
signs_kept_panel(case)
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill

import numpy as np
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from ..data import read_image
from ..detector import SDMAD
from ..errors import DataError
from ..explain import sign_maps
from ..selection import equal_weights
from ..signs.bank import SignBank
from .panel import (
    LARGE,
    SMALL,
    Checks,
    Controls,
    Drawn,
    Panel,
    check_shapes,
    choice,
    counter,
    number_of,
    panel_axes,
    slider,
)
from .plots import BLUE, GREY, ORANGE, clean, draw_groups, draw_heat, draw_parts

# The sign explorer


@dataclass(frozen=True)
class ExplorerCase:
    """A fitted detector and N images with labels Y (N, C) to look at; never test images, since one chooses by them."""

    detector: SDMAD
    images: Sequence
    labels: np.ndarray

    def __post_init__(self):
        check_shapes({"labels": (self.labels, (len(self.images), len(self.detector.bank.categories)))})

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (N, S) and activations (N, d), computed once."""
        return self.detector.features(self.images)

    @cached_property
    def _embeddings(self):
        """(S, D) sign embeddings of the frozen model."""
        return self.detector.backbone.encode_texts(self.detector.bank.texts)

    @cached_property
    def _maps(self) -> dict[int, np.ndarray]:
        """Heat maps (S, h, w) of the images looked at so far."""
        return {}

    def map_of(self, image: int, text: str) -> np.ndarray:
        """(h, w) heat map of one sign."""
        detector = self.detector
        if image not in self._maps:
            self._maps[image] = sign_maps(detector.backbone, detector.bank, self.images[image], self._embeddings)
        return self._maps[image][detector.bank.texts.index(text)]

    def weights(self, c: int, on: Sequence[str]) -> np.ndarray:
        """(S,) weights of stage 2 with only some of a category's signs on, scaled to sum 1 again.

        With all signs on they are the detector's. Signs that stage 2 dropped speak only where no other is left.
        """
        row = self.detector.weights_[c]
        own = [self.detector.bank.texts.index(text) for text in on]
        weights = np.minimum(row, 0)  # those of the normal signs
        left = row[own] if row[own].any() else np.ones(len(own))
        weights[own] = left / left.sum()
        return weights


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
    weights, by_image = case.weights(c, on), detector.image_logits(activations)[:, c]
    p = expit(detector.scale_[c] * (cosines @ weights) + detector.bias_[c] + by_image)
    parts = detector.scale_[c] * weights * cosines[image]
    bars = {fill(t if t in on else f"{t} (off)", 26): parts[bank.texts.index(t)] for t in own}
    bars["normal signs"] = parts[np.flatnonzero(detector.membership[0])].sum()
    bars |= {"image evidence": by_image[image], "bias": detector.bias_[c]}
    detected = "detected" if p[image] >= threshold else "not detected"
    figure, (picture, middle, strip) = panel_axes(12, 4.6, (1.05, 1, 1), 0.01, 0.8)
    pixels = np.asarray(read_image(case.images[image], bank.color))
    draw_heat(picture, pixels, case.map_of(image, heat), fill(f"where: {heat}", 28), LARGE)
    draw_parts(middle, bars, SMALL)
    middle.set(xlabel="part of the logit")
    middle.locator_params(axis="x", nbins=5)
    middle.set_title(f"{category}: {p[image]:.2f}, {detected}", fontsize=LARGE)
    # all images beside this one
    _, height = draw_groups(strip, p, case.labels, c)
    strip.axvline(threshold, color="black", linewidth=2)
    strip.plot(p[image], height[image], "o", markersize=12, markerfacecolor="none", markeredgecolor="black")
    strip.tick_params(axis="y", labelsize=SMALL)
    strip.set(xlim=(-0.02, 1.02), xlabel="probability (line: threshold)")
    clean(strip)
    text = f"<b>{html.escape(category)}</b>, image {image}: {len(on)} of {len(own)} signs on, probability "
    text += f"<b>{p[image]:.3f}</b>, {detected}; {y.sum()} positives of {len(y)} images: "
    if not 0 < y.sum() < len(y):
        return figure, text + "AP n/a"
    ap, f1 = average_precision_score(y, p), f1_score(y, p >= threshold, zero_division=0)
    every = average_precision_score(y, detector.logits(cosines, activations)[:, c])
    strip.set_title(f"AP {ap:.2f} (all signs on: {every:.2f})", fontsize=LARGE)
    return figure, text + f"AP <b>{ap:.3f}</b> (all signs on: {every:.3f}), F1 <b>{f1:.3f}</b>"


def explorer_panel(case: ExplorerCase) -> Panel:
    """The explorer with controls, first at an image with many anomalies."""
    bank = case.detector.bank
    own, most = bank.signs_of(bank.categories[0]), max(len(bank.signs_of(c)) for c in bank.categories)
    controls = {
        "category": choice("category", bank.categories),
        "image": counter("image", 0, len(case.images) - 1, int(np.argmax(np.sum(case.labels, 1)))),
        "kept": counter("kept", 1, most, most),
        "threshold": slider("threshold", 0, 1, 0.5),
        "heat": choice("heat map", own, width="520px"),
        "signs": Checks({text: text for text in own}),
    }

    def new_category(controls: Controls) -> None:
        own = bank.signs_of(controls["category"].value)
        controls["signs"].offer({text: text for text in own})
        controls["heat"].options, controls["heat"].value = own, own[0]

    return Panel(lambda **values: sign_explorer(case, **values), controls, {"category": new_category})


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
        images, categories, signs = len(self.cosines), len(self.bank.categories), len(self.bank.texts)
        check_shapes(
            {
                "cosines": (self.cosines, (images, signs)),
                "labels": (self.labels, (images, categories)),
                "auroc": (self.auroc, (categories, signs)),
                "weights": (self.weights, (categories, signs)),
            }
        )

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
        weights = np.minimum(equal[self.bank.categories.index(category)], 0)  # those of the normal signs
        weights[list(kept)] = 1 / len(kept)
        return weights


@dataclass(frozen=True)
class SignNumbers:
    """What a choice of signs is worth on the case's images; a figure is None without positives or negatives."""

    positives: int
    images: int
    ap: float | None = None
    auroc: float | None = None
    ap_all: float | None = None
    ap_stage2: float | None = None


def sign_numbers(case: SignCase, category: str, kept: Sequence[int]) -> SignNumbers:
    """AP and AUROC with the kept signs (equal weights), all signs, and the signs and weights of stage 2."""
    c = case.bank.categories.index(category)
    y, now = case.labels[:, c], case.cosines @ case.weights_of(category, kept)
    if not 0 < y.sum() < len(y):
        return SignNumbers(int(y.sum()), len(y))
    others = case.cosines @ case.weights_of(category, case.ranked(category)), case.cosines @ case.weights[c]
    ap, ap_all, ap_stage2 = (float(average_precision_score(y, margin)) for margin in (now, *others))
    return SignNumbers(int(y.sum()), len(y), ap, float(roc_auc_score(y, now)), ap_all, ap_stage2)


def signs_kept(case: SignCase, category: str, kept: Sequence[int]) -> Drawn:
    """Margins of positive, other and normal images, and AP beside that of all signs and of stage 2.

    Args:
        kept: numbers of the category's signs that stay on.

    Raises:
        DataError: no sign is kept, or one that is not the category's.
    """
    n, own = sign_numbers(case, category, kept), case.ranked(category)
    figure, (strip, bars) = panel_axes(12, 3.6, (1.7, 1), 0.16, 0.25)
    # a row of dots for each group of images, and a bar at its median
    margin = case.cosines @ case.weights_of(category, kept)
    groups, _ = draw_groups(strip, margin, case.labels, case.bank.categories.index(category))
    for row, rows in enumerate(groups.values()):
        if rows.any():
            strip.plot([np.median(margin[rows])] * 2, [row - 0.4, row + 0.4], color="black", linewidth=2)
    strip.set(xlabel="margin: mean cosine of kept signs minus normal signs")
    strip.set_title(f"{category}: {len(kept)} of {len(own)} signs on", fontsize=LARGE)
    # AP of three choices
    values = {"all signs": n.ap_all, "stage 2": n.ap_stage2, "now": n.ap}
    for i, (value, color) in enumerate(zip(values.values(), (GREY, ORANGE, BLUE), strict=True)):
        bars.barh(i, value or 0, color=color, height=0.62)
        bars.text((value or 0) + 0.02, i, _number(value, 2), va="center", fontsize=SMALL)
    bars.axvline(n.positives / n.images, color="black", linestyle=":", linewidth=1)
    bars.set_yticks(range(3), list(values))
    bars.set(xlim=(0, 1.12), xticks=(0, 0.5, 1), xlabel="AP (dotted: by chance)")
    of = f"{n.positives} positives of {n.images}"
    best = max(values, key=lambda name: values[name] or 0)
    bars.set_title(of if n.ap is None else f"best: {best} ({of})", fontsize=LARGE)
    bars.invert_yaxis()
    for axis in (strip, bars):
        clean(axis)
    return figure, (
        f"<b>{html.escape(category)}</b>: {len(kept)} of {len(own)} signs on, {of} validation images<br>"
        f"AP now <b>{_number(n.ap)}</b>, AUROC now <b>{_number(n.auroc)}</b>; AP with all signs "
        f"{_number(n.ap_all)}, AP with the {len(case.chosen(category))} signs of stage 2 {_number(n.ap_stage2)}"
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def signs_kept_panel(case: SignCase, category: str | None = None) -> Panel:
    """Choose a category and switch its signs on and off, or keep the best n by support AUROC."""
    first = category or case.bank.categories[0]
    count = len(case.ranked(first))
    controls = {
        "category": choice("category", case.bank.categories, first),
        "number": counter("number kept", 1, count, count),
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
