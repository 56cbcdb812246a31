"""Panels about images: where an image stands among all others, and what happens to its scores when it is spoilt."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from textwrap import fill
from typing import cast

import numpy as np
from matplotlib.colors import ListedColormap
from PIL import Image, ImageFilter
from scipy.spatial import cKDTree

from sdmad_lite.data import read_image
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError
from sdmad_lite.explain import CategoryExplanation
from sdmad_lite.show.plots import BLUE, GREY, HAS, NORMAL, OTHER, PALETTE, TRUTH, draw_image, finish, logit_parts
from sdmad_phantoms import MODALITIES, draw_phantom

from .panel import LARGE, SMALL, Controls, Drawn, Panel, check_shapes, choice, number_of, panel_axes, slider

# Draw a sign


def draw_a_sign(modality: str, sign: str, patient: int) -> Drawn:
    """The same simulated patient without and with a sign, and where the picture changed.

    Raises:
        DataError: an unknown modality or sign.
    """
    number_of(modality, list(MODALITIES), "modality")
    texts = {s.text: str(s.id) for s in MODALITIES[modality].bank.signs}
    number_of(sign, list(texts), "sign")
    healthy = draw_phantom(patient, signs=[], modality=modality)
    shown = draw_phantom(patient, signs=[texts[sign]], modality=modality)
    mask = shown.masks.get(texts[sign], np.zeros(shown.image.shape[:2], bool))
    figure, axes = panel_axes(12, 4.2, (1, 1, 1), 0.01, 0.02)
    draw_image(axes[0], healthy.image, f"patient {patient}, nothing drawn", LARGE)
    draw_image(axes[1], shown.image, "with one sign", LARGE)
    draw_image(axes[2], shown.image, fill(sign, 44), LARGE)
    axes[2].imshow(np.ma.masked_where(~mask, mask), cmap=ListedColormap([TRUTH]), alpha=0.6)
    owners = next(s.categories for s in MODALITIES[modality].bank.signs if s.text == sign)
    return figure, f"<b>{html.escape(sign)}</b>, of {html.escape(', '.join(owners))}: {mask.mean():.1%} of the image"


def draw_panel(modality: str = "chest") -> Panel:
    """One sign drawn into a healthy image of any modality."""
    controls = {
        "modality": choice(list(MODALITIES), modality, width="220px"),
        "sign": choice([s.text for s in MODALITIES[modality].bank.signs], width="480px"),
        "patient": slider(0, 40, 0),
    }

    def new_modality(controls: Controls) -> None:
        texts = [s.text for s in MODALITIES[controls["modality"].value].bank.signs]
        controls["sign"].options, controls["sign"].value = texts, texts[0]

    return Panel(draw_a_sign, controls, {"modality": new_modality})


# The embedding explorer


@dataclass(frozen=True)
class EmbeddingCase:
    """Images in two dimensions, before and after stage 1.

    layouts: name -> (before, after), each (N, 2), such as `pictures.project` gives by UMAP or PCA. labels: Y (N, C).
    cosines: (N, S) after stage 1, and the texts of the signs. images: N pictures. attributes: name -> N values, such
    as a table's `meta`.
    """

    layouts: Mapping[str, tuple[np.ndarray, np.ndarray]]
    labels: np.ndarray
    categories: Sequence[str]
    cosines: np.ndarray
    texts: Sequence[str]
    images: Sequence
    attributes: Mapping[str, Sequence[str]]

    def __post_init__(self):
        count = len(self.images)
        check_shapes(self, labels=(count, len(self.categories)), cosines=(count, len(self.texts)))
        check_shapes(self, layouts=(2, count, 2), attributes=(count,))
        if not self.layouts:
            raise DataError("layouts: give at least one, such as {'PCA': (before, after)}")

    @property
    def colours(self) -> list[str]:
        """What points can be coloured by."""
        kinds = {"category": self.categories, "sign": self.texts, "attribute": self.attributes}
        return [f"{kind}: {name}" for kind, names in kinds.items() for name in names]

    def column(self, kind: str, name: str) -> np.ndarray:
        """(N,) whether an image has the category, its cosine with the sign, or its attribute."""
        if kind == "category":
            return self.labels[:, list(self.categories).index(name)] == 1
        return self.cosines[:, list(self.texts).index(name)] if kind == "sign" else np.asarray(self.attributes[name])


def embedding_explorer(case: EmbeddingCase, colour: str, point: int, layout: str) -> Drawn:
    """Both maps coloured by a category, a sign's cosine or an attribute; the picked image and its strongest signs.

    Each map's title says how far neighbours are alike in it, which the eye is bad at.

    Raises:
        DataError: nothing of that name to colour by, no such image or layout.
    """
    number_of(colour, case.colours, "colour")
    number_of(layout, list(case.layouts), "layout")
    number_of(point, range(len(case.images)), "point")
    kind, name = colour.split(": ", 1)
    figure, (*maps, picture) = panel_axes(12, 4.6, (1, 1, 0.8), 0.02, 0.1)
    for axis, points, when in zip(maps, case.layouts[layout], ("before", "after"), strict=True):
        if kind == "sign":
            axis.scatter(*points.T, c=case.column(kind, name), s=22, cmap="viridis", linewidths=0)
        else:
            for value, color, rows in _groups(case, kind, name):
                axis.scatter(*points[rows].T, s=22, color=color, label=f"{value} ({rows.sum()})", linewidths=0)
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 3}
            axis.legend(**place, fontsize=SMALL, frameon=False, columnspacing=0.8, handletextpad=0.1)
        axis.plot(
            *points[point], "o", markersize=14, markerfacecolor="none", markeredgecolor="black", markeredgewidth=2.5
        )
        axis.set(xticks=(), yticks=(), title=f"{layout}, {when} stage 1\n{_alike(case, kind, name, points)}")
    truth = ", ".join(c for c, y in zip(case.categories, case.labels[point], strict=True) if y) or "normal"
    draw_image(picture, case.images[point], f"image {point}:\n{truth}", LARGE)
    # the signs that this image shows most, beside what they say of the others
    cosines = case.cosines
    strongest = np.argsort(-(cosines[point] - cosines.mean(0)) / (cosines.std(0) + 1e-9))[:3]
    signs = "; ".join(f"{html.escape(case.texts[s])} ({cosines[point, s]:+.2f})" for s in strongest)
    text = f"<b>image {point}</b>: {html.escape(truth)}; its cosine is furthest above the mean for: {signs}. "
    return figure, f"{text}Colour: {html.escape(colour)}{', yellow is high' if kind == 'sign' else ''}"


def _groups(case: EmbeddingCase, kind: str, name: str) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and rows of each group of points."""
    values = case.column(kind, name)
    if kind == "category":
        normal = case.labels.sum(1) == 0
        return [("normal", NORMAL, normal), ("others", OTHER, ~values & ~normal), (name, HAS, values)]
    return [(value, color, values == value) for value, color in zip(sorted(set(values)), PALETTE, strict=False)]


def _alike(case: EmbeddingCase, kind: str, name: str, points: np.ndarray) -> str:
    """How far the nearest points in a map agree, in words: [ours] the mean over the ten nearest."""
    values = case.column(kind, name)
    if len(points) < 2:
        return "no other image"
    near = values[cKDTree(points).query(points, min(10, len(points) - 1) + 1)[1][:, 1:]]  # (N, neighbours)
    if kind == "sign":
        if min(values.std(), near.mean(1).std()) < 1e-9:
            return "cosine does not vary"
        return f"neighbours' cosines: r = {np.corrcoef(values, near.mean(1))[0, 1]:.2f}"
    if kind == "category":
        if not values.any():
            return "no positive image"
        return f"{near[values].mean():.2f} of positives' neighbours have it (all: {values.mean():.2f})"
    chance = np.mean([np.mean(values == value) for value in values])
    return f"{(near == values[:, None]).mean():.2f} of neighbours share it (chance: {chance:.2f})"


def embedding_panel(case: EmbeddingCase, image: int = 0) -> Panel:
    """The explorer with controls; the slider picks a point."""
    point = slider(0, len(case.images) - 1, image, "image")
    controls = {"colour": choice(case.colours), "layout": choice(list(case.layouts)), "point": point}
    return Panel(partial(embedding_explorer, case), controls)


# Break it


@dataclass(frozen=True)
class BreakCase:
    """A fitted detector and images to spoil."""

    detector: SDMAD
    images: Sequence

    def picture(self, image: int) -> Image.Image:
        """The image of that number as it is."""
        number_of(image, range(len(self.images)), "image")
        return read_image(self.images[image], self.detector.bank.color, strict=False)

    @cached_property
    def before(self) -> Callable[[int], list[CategoryExplanation]]:
        """Number of an image -> its explanation, made once."""
        return cache(lambda image: cast(list[CategoryExplanation], self.detector.explain(self.picture(image))))


def broken(
    picture: Image.Image, noise: float, blur: float, exposure: float, occlusion: float, seed: int = 0
) -> Image.Image:
    """Spoil a picture.

    Args:
        noise: standard deviation, in shares of white. blur: radius in pixels. exposure: in stops; 1 doubles the light.
        occlusion: side of a grey square in the middle, as a share of the shorter side.
    """
    x = np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float64) * 2**exposure
    x = x + 255 * noise * np.random.default_rng(seed).standard_normal(x.shape[:2] + (1,) * (x.ndim - 2))
    half = round(occlusion * min(x.shape[:2]) / 2)
    row, column = (n // 2 for n in x.shape[:2])
    x[row - half : row + half, column - half : column + half] = 110
    return Image.fromarray(x.clip(0, 255).astype(np.uint8))


def break_it(
    case: BreakCase, category: str, image: int, noise: float, blur: float, exposure: float, occlusion: float
) -> Drawn:
    """The spoilt image, all probabilities before and now, and what each sign of a category adds before and now."""
    c = number_of(category, case.detector.bank.categories, "category")
    spoilt = broken(case.picture(image), noise, blur, exposure, occlusion)
    before, now = case.before(image), cast(list[CategoryExplanation], case.detector.explain(spoilt))
    figure, (picture, chances, parts) = panel_axes(13, 4.8, (1.05, 0.85, 1), 0.01, 0.8)
    draw_image(picture, spoilt, f"image {image}", LARGE)
    _draw_pairs(chances, [e.category for e in now], [e.probability for e in before], [e.probability for e in now])
    for i, e in enumerate(now):
        chances.plot([e.threshold] * 2, [i - 0.4, i + 0.4], color="black", linewidth=2)
    turned = [new.category for old, new in zip(before, now, strict=True) if old.detected != new.detected]
    decisions = f"{len(turned)} of {len(now)} decisions turned" if turned else "no decision turned"
    title = f"{decisions}\n(grey: before, blue: now)"
    chances.set(xlim=(0, 1), xlabel="probability (black: threshold)", title=title)
    old, new = logit_parts(before[c]), logit_parts(now[c])
    _draw_pairs(parts, [fill(name, 26) for name in new], list(old.values()), list(new.values()))
    widest = max(2.0, *(2 * abs(part) for e in before for part in logit_parts(e).values()))
    title = f"{category}: {before[c].logit:+.2f}, now {now[c].logit:+.2f}"
    parts.set(xlabel="part of the logit", title=title, xlim=(-widest, widest))
    parts.locator_params(axis="x", nbins=5)
    parts.axvline(0, color="black", linewidth=0.8)
    text = f"<b>{html.escape(category)}</b>: probability {before[c].probability:.3f}, "
    text += f"now <b>{now[c].probability:.3f}</b>; decisions that turned: "
    return figure, text + (html.escape(", ".join(turned)) or "none")


def _draw_pairs(axis, names: Sequence[str], before: Sequence[float], now: Sequence[float]) -> None:
    """Two bars for each name."""
    axis.barh(np.arange(len(names)) - 0.2, before, height=0.36, color=GREY)
    axis.barh(np.arange(len(names)) + 0.2, now, height=0.36, color=BLUE)
    finish(axis, names, SMALL)


def break_panel(case: BreakCase, image: int = 0, category: str | None = None) -> Panel:
    """Controls to spoil an image, first that of number `image`, and the parts of a category."""
    ranges = {"noise": (0, 0.4), "blur": (0, 8), "exposure": (-2, 2), "occlusion": (0, 0.8)}
    controls = {name: slider(low, high, 0.0) for name, (low, high) in ranges.items()}
    which = {
        "category": choice(case.detector.bank.categories, category),
        "image": slider(0, len(case.images) - 1, image),
    }
    return Panel(partial(break_it, case), which | controls)
