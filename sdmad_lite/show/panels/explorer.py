"""Sign explorer: one image, where a sign is seen, what each sign adds, and what switching signs does to all images."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill

import ipywidgets
import numpy as np
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score

from ...data import read_image
from ...detector import SDMAD
from ...errors import DataError
from ...explain import sign_maps
from ..plots import BLUE, RED, _clean, draw_groups
from .base import LARGE, SMALL, Drawn, Panel, axes_of, choice, one_of, slider


@dataclass(frozen=True)
class ExplorerCase:
    """A fitted detector and N images with labels Y (N, C) to look at; never test images, since one chooses by them."""

    detector: SDMAD
    images: Sequence
    labels: np.ndarray

    def __post_init__(self):
        shape = (len(self.images), len(self.detector.bank.categories))
        if np.shape(self.labels) != shape:
            raise DataError(f"labels: shape {np.shape(self.labels)}, expected {shape}")

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """z (N, S) and h (N, d), computed once."""
        return self.detector.features(self.images)

    @cached_property
    def _texts(self):
        """(S, D) sign embeddings of the frozen model."""
        return self.detector.backbone.encode_texts(self.detector.bank.texts)

    @cached_property
    def maps(self) -> dict[int, np.ndarray]:
        """Heat maps (S, h, w) of the images looked at so far."""
        return {}

    def map_of(self, image: int, text: str) -> np.ndarray:
        """(h, w) heat map of one sign."""
        if image not in self.maps:
            detector = self.detector
            self.maps[image] = sign_maps(detector.backbone, detector.bank, self.images[image], self._texts)
        return self.maps[image][self.detector.bank.texts.index(text)]

    def weights(self, c: int, on: Sequence[str]) -> np.ndarray:
        """(S,) weights of stage 2 with only some of a category's signs on, scaled to sum 1 again.

        With all signs on they are the detector's. Signs that stage 2 dropped speak only where no other is left.
        """
        bank, row = self.detector.bank, self.detector.weights_[c]
        own = [bank.texts.index(text) for text in on]
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
    c = one_of(category, bank.categories, "category")
    one_of(image, range(len(case.images)), "image")
    own = bank.signs_of(category)
    for text in (*signs, heat):
        one_of(text, own, "sign")
    on = [text for text in own if text in signs][:kept]
    if not on:
        raise DataError(f"signs: keep at least one of {', '.join(own)}")
    (z, h), y = case.features, case.labels[:, c]
    weights = case.weights(c, on)
    parts = detector.scale_[c] * weights * z[image]
    by_image = detector.image_logits(h)[:, c]
    p = expit(detector.scale_[c] * (z @ weights) + detector.bias_[c] + by_image)
    verdict = "called" if p[image] >= threshold else "not called"
    figure, (picture, bars, strip) = axes_of(12, 4.6, (1.05, 1, 1), 0.01, 0.8)
    _draw_heat(picture, case, image, heat)
    _draw_parts(bars, case, own, on, parts, (by_image[image], detector.bias_[c]))
    bars.set_title(f"{category}: {p[image]:.2f}, {verdict}", fontsize=LARGE)
    _, height = draw_groups(strip, p, case.labels, c)
    strip.axvline(threshold, color="black", linewidth=2)
    strip.plot(p[image], height[image], "o", markersize=12, markerfacecolor="none", markeredgecolor="black")
    strip.tick_params(axis="y", labelsize=SMALL)
    strip.set(xlim=(-0.02, 1.02), xlabel="probability (line: threshold)")
    _clean(strip)
    text = f"<b>{html.escape(category)}</b>, image {image}: {len(on)} of {len(own)} signs on, probability "
    text += f"<b>{p[image]:.3f}</b>, {verdict}; {y.sum()} positives of {len(y)} images: "
    if not 0 < y.sum() < len(y):
        return figure, text + "AP n/a"
    ap, f1 = average_precision_score(y, p), f1_score(y, p >= threshold, zero_division=0)
    every = average_precision_score(y, detector.logits(z, h)[:, c])
    strip.set_title(f"AP {ap:.2f} (all signs on: {every:.2f})", fontsize=LARGE)
    return figure, text + f"AP <b>{ap:.3f}</b> (all signs on: {every:.3f}), F1 <b>{f1:.3f}</b>"


def _draw_heat(axis, case: ExplorerCase, image: int, heat: str) -> None:
    pixels = np.asarray(read_image(case.images[image], case.detector.bank.color))
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    extent = (0, pixels.shape[1], pixels.shape[0], 0)
    axis.imshow(case.map_of(image, heat), cmap="inferno", alpha=0.45, extent=extent, interpolation="bilinear")
    axis.set_title(fill(f"where: {heat}", 28), fontsize=LARGE)
    axis.axis("off")


def _draw_parts(
    axis, case: ExplorerCase, own: Sequence[str], on: Sequence[str], parts: np.ndarray, others: Sequence[float]
) -> None:
    """A bar for each sign's part of the logit, then the normal signs and the `others`: image evidence and bias."""
    names = [fill(text if text in on else f"{text} (off)", 26) for text in own]
    normal = parts[np.flatnonzero(case.detector.membership[0])].sum()
    values = [*(parts[case.detector.bank.texts.index(text)] for text in own), normal, *others]
    axis.barh(range(len(values)), values, color=[BLUE if v >= 0 else RED for v in values])
    axis.set_yticks(range(len(values)), [*names, "normal signs", "image evidence", "bias"], fontsize=SMALL)
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="part of the logit")
    axis.locator_params(axis="x", nbins=5)
    _clean(axis)


def explorer_panel(case: ExplorerCase) -> Panel:
    """The explorer with controls, first at an image with many anomalies; hold Ctrl to switch single signs."""
    bank = case.detector.bank
    own, last = bank.signs_of(bank.categories[0]), len(case.images) - 1
    most, first = max(len(bank.signs_of(c)) for c in bank.categories), int(np.argmax(np.sum(case.labels, 1)))
    controls = {
        "category": choice("category", bank.categories),
        "image": ipywidgets.IntSlider(value=first, min=0, max=last, description="image", continuous_update=False),
        "signs": ipywidgets.SelectMultiple(
            options=own, value=own, description="signs on", rows=most, layout={"width": "540px"}
        ),
        "kept": ipywidgets.IntSlider(value=most, min=1, max=most, description="kept", continuous_update=False),
        "threshold": slider("threshold", 0, 1, 0.5),
        "heat": choice("heat map", own, width="520px"),
    }

    def new_category(controls: Mapping[str, ipywidgets.Widget]) -> None:
        own = bank.signs_of(controls["category"].value)
        controls["signs"].options, controls["heat"].options = own, own
        controls["signs"].value, controls["heat"].value = tuple(own), own[0]

    def never_none(controls: Mapping[str, ipywidgets.Widget]) -> None:
        if not controls["signs"].value:
            controls["signs"].value = controls["signs"].options[:1]

    follow = {"category": new_category, "signs": never_none}
    return Panel(lambda **values: sign_explorer(case, **values), controls, follow)
