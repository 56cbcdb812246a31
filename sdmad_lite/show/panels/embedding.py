"""Embedding explorer: all images in the plane before and after stage 1, coloured by what one asks; one is picked."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ipywidgets
import numpy as np
from scipy.spatial import cKDTree

from ...errors import DataError
from ..plots import BLUE, GREY, ORANGE, PALETTE, RED
from .base import LARGE, SMALL, Drawn, Panel, axes_of, choice, one_of

NEIGHBOURS = 10


@dataclass(frozen=True)
class EmbeddingCase:
    """Images in two dimensions, before and after stage 1.

    layouts: name -> (before, after), each (N, 2), such as `plots.project` gives by UMAP or PCA. labels: Y (N, C).
    z: (N, S) cosines after stage 1 and their texts. images: N pictures. attributes: name -> N values, such as a
    table's `meta`.
    """

    layouts: Mapping[str, tuple[np.ndarray, np.ndarray]]
    labels: np.ndarray
    categories: Sequence[str]
    z: np.ndarray
    texts: Sequence[str]
    images: Sequence
    attributes: Mapping[str, Sequence[str]]

    def __post_init__(self):
        count = len(self.images)
        arrays = {"labels": (self.labels, (count, len(self.categories))), "z": (self.z, (count, len(self.texts)))}
        for name, pair in self.layouts.items():
            arrays |= {
                f"layouts, {name}, {when}": (x, (count, 2)) for when, x in zip(("before", "after"), pair, strict=True)
            }
        for name, (array, shape) in arrays.items():
            if np.shape(array) != shape:
                raise DataError(f"{name}: shape {np.shape(array)}, expected {shape}")
        if not self.layouts:
            raise DataError("layouts: give at least one, such as {'PCA': (before, after)}")
        for name, values in self.attributes.items():
            if len(values) != count:
                raise DataError(f"attributes: {name} has {len(values)} values for {count} images")

    @property
    def colours(self) -> list[str]:
        """What points can be coloured by."""
        signs = [f"sign: {text}" for text in self.texts]
        return [*(f"category: {c}" for c in self.categories), *signs, *(f"attribute: {a}" for a in self.attributes)]


def embedding_explorer(case: EmbeddingCase, colour: str, point: int, layout: str) -> Drawn:
    """Both maps coloured by a category, a sign's cosine or an attribute; the picked image and its strongest signs.

    Each map's title says how far neighbours are alike in it, which the eye is bad at.

    Raises:
        DataError: nothing of that name to colour by, no such image or layout.
    """
    one_of(colour, case.colours, "colour")
    one_of(layout, list(case.layouts), "layout")
    one_of(point, range(len(case.images)), "point")
    kind, name = colour.split(": ", 1)
    figure, (*maps, picture) = axes_of(12, 4.6, (1, 1, 0.8), 0.02, 0.1)
    for axis, points, when in zip(maps, case.layouts[layout], ("before", "after"), strict=True):
        if kind == "sign":
            values = case.z[:, list(case.texts).index(name)]
            axis.scatter(*points.T, c=values, s=22, cmap="viridis", linewidths=0)
        else:
            for value, color, rows in _groups(case, kind, name):
                axis.scatter(*points[rows].T, s=22, color=color, label=f"{value} ({rows.sum()})", linewidths=0)
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 3}
            axis.legend(**place, fontsize=SMALL, frameon=False, columnspacing=0.8, handletextpad=0.1)
        axis.plot(*points[point], "o", markersize=14, markerfacecolor="none", markeredgecolor=RED, markeredgewidth=2.5)
        axis.set(xticks=(), yticks=())
        axis.set_title(f"{layout}, {when} stage 1\n{_alike(case, kind, name, points)}", fontsize=LARGE)
    picture.imshow(np.asarray(case.images[point]), cmap="gray", vmin=0, vmax=255)
    picture.axis("off")
    truth = ", ".join(c for c, y in zip(case.categories, case.labels[point], strict=True) if y) or "normal"
    picture.set_title(f"image {point}:\n{truth}", fontsize=LARGE)
    strongest = np.argsort(-(case.z[point] - case.z.mean(0)) / (case.z.std(0) + 1e-9))[:3]
    signs = "; ".join(f"{html.escape(case.texts[s])} ({case.z[point, s]:+.2f})" for s in strongest)
    text = f"<b>image {point}</b>: {html.escape(truth)}; its cosine is furthest above the mean for: {signs}. "
    return figure, f"{text}Colour: {html.escape(colour)}{', yellow is high' if kind == 'sign' else ''}"


def _groups(case: EmbeddingCase, kind: str, name: str) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and rows of each group of points."""
    if kind == "category":
        has, normal = case.labels[:, list(case.categories).index(name)] == 1, case.labels.sum(1) == 0
        return [("normal", GREY, normal), ("others", ORANGE, ~has & ~normal), (name, BLUE, has)]
    values = np.asarray(case.attributes[name])
    return [(v, PALETTE[i % len(PALETTE)], values == v) for i, v in enumerate(sorted(set(values))[: len(PALETTE)])]


def _alike(case: EmbeddingCase, kind: str, name: str, points: np.ndarray) -> str:
    """How far the nearest points in a map agree, in words: [ours] the mean over the ten nearest."""
    count = min(NEIGHBOURS, len(points) - 1)
    near = cKDTree(points).query(points, count + 1)[1][:, 1:]
    if kind == "sign":
        values = case.z[:, list(case.texts).index(name)]
        if min(values.std(), values[near].mean(1).std()) < 1e-9:
            return "cosine does not vary"
        return f"neighbours' cosines: r = {np.corrcoef(values, values[near].mean(1))[0, 1]:.2f}"
    if kind == "category":
        has = case.labels[:, list(case.categories).index(name)] == 1
        if not has.any():
            return "no positive image"
        return f"{has[near][has].mean():.2f} of positives' neighbours have it (all: {has.mean():.2f})"
    values = np.asarray(case.attributes[name])
    chance = np.mean([np.mean(values == value) for value in values])
    return f"{(values[near] == values[:, None]).mean():.2f} of neighbours share it (chance: {chance:.2f})"


def embedding_panel(case: EmbeddingCase) -> Panel:
    """The explorer with controls; the slider picks a point."""
    last = len(case.images) - 1
    controls = {
        "colour": choice("colour", case.colours),
        "layout": choice("layout", list(case.layouts)),
        "point": ipywidgets.IntSlider(value=0, min=0, max=last, description="image", continuous_update=False),
    }
    return Panel(lambda **values: embedding_explorer(case, **values), controls)
