"""Looks at a test set: a training that is watched, and what choosing among looks is worth where nothing is learnt."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from sdmad_lite.alignment import AlignmentConfig, RunConfig, align, build_adapters, installed, split_image_tower
from sdmad_lite.clip.backbone import Backbone
from sdmad_lite.data import ImageTable
from sdmad_lite.selection import equal_weights, margins
from sdmad_lite.show.plots import BLUE, GREY, finish
from sdmad_lite.signs.bank import SignBank

from .panel import SMALL, Drawn, Panel, marks, panel_axes, slider


class Watcher:
    """Trains stage 1 and looks at tables of images on the way; what lies below the adapters is computed once."""

    def __init__(self, clip: Backbone, bank: SignBank, tables: Mapping[str, ImageTable]):
        self.clip, self.bank, self.weights = clip, bank, equal_weights(torch.from_numpy(bank.membership()))
        with installed(clip, build_adapters(clip)):
            self._below, self._embed = split_image_tower(clip)
        self.activations = {name: self.prepare(table.images) for name, table in tables.items()}

    @torch.no_grad()
    def prepare(self, images) -> torch.Tensor:
        """Activations below the first adapter."""
        return self._below(self.clip.prepare(images))

    @torch.no_grad()
    def scores(self, activations: torch.Tensor) -> np.ndarray:
        """Margins (N, C) with the adapters that stand in the backbone now."""
        signs = self.clip.encode_texts(self.bank.texts)
        return margins(self._embed(activations)[:, 0].cpu() @ signs.T, self.weights).numpy()

    def finished(self, adapters):
        """A predictor with a checkpoint's adapters, from what `prepare` gives."""

        def predict(activations: torch.Tensor) -> np.ndarray:
            with installed(self.clip, adapters):
                return self.scores(activations)

        return predict

    def train(self, support: ImageTable, steps: int, every: int, seed: int) -> list[Look]:
        """A look after every so many steps."""
        adapters, looks = build_adapters(self.clip, seed=seed), list[Look]()

        def watch(step: int) -> None:
            if step % every == 0:
                found = {name: self.scores(x) for name, x in self.activations.items()}
                looks.append(Look(step, copy.deepcopy(adapters), found))

        run, config = RunConfig(after_step=watch), AlignmentConfig(steps=steps, augmentations=4)
        align(self.clip, adapters, support.images, support.labels, self.bank, config, seed, run)
        return looks


class Look(NamedTuple):
    """step; a copy of the adapters, as other code keeps a checkpoint; scores (N, C) of each table."""

    step: int
    adapters: torch.nn.Module
    scores: dict[str, np.ndarray]


@cache
def best_so_far(images: int, looks: int = 50, shared: float = 0.0, repeats: int = 300, seed: int = 0) -> np.ndarray:
    """(looks,) expected best AP after 1, 2, ... looks at detectors that are all equally good.

    One image in five is positive and scores one higher on average; the rest is noise, of which the looks share a part.
    """
    rng, y = np.random.default_rng(seed), np.arange(images) < images // 5
    common, own = rng.standard_normal((repeats, 1, images)), rng.standard_normal((repeats, looks, images))
    scores = y + np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    hits = y[(-scores).argsort(-1)]
    ap = (hits * hits.cumsum(-1) / np.arange(1, images + 1)).sum(-1) / y.sum()
    return np.maximum.accumulate(ap, axis=1).mean(0)


def gift_of_looking(looks: int, images: int, shared: float) -> Drawn:
    """Points of AP that the best of several looks gains, where nothing was learnt between them."""
    figure, (axis,) = panel_axes(11, 4.2, (1,), 0.08, 0.1)
    for size, style in {50: ":", 100: "--", 200: "-.", 400: "-"}.items():
        curve = best_so_far(size, shared=shared)
        line = {"color": BLUE, "linewidth": 3} if size == images else {"color": GREY, "linewidth": 1.5}
        line["linestyle"] = "-" if size == images else style
        axis.plot(np.arange(1, len(curve) + 1), 100 * (curve - curve[0]), label=f"{size} test images", **line)
    curve = best_so_far(images, shared=shared)
    gift = 100 * (curve[looks - 1] - curve[0])
    axis.plot(looks, gift, "o", markersize=14, markerfacecolor="none", markeredgecolor="black", markeredgewidth=2)
    axis.legend(fontsize=SMALL, frameon=False, loc="upper left")
    finish(axis, xlabel="looks at the test set", ylabel="gift, points of AP", ylim=(0, 30), xlim=(0, 51))
    axis.set(title=f"{looks} looks at {images} images: {gift:+.1f} points")
    return figure, f"{looks} looks at {images} test images, {shared:.0%} of the noise shared: <b>{gift:+.1f}</b> points"


def looks_panel() -> Panel:
    """How many looks, at how many images, how much alike."""
    controls = {
        "looks": slider(1, 50, 10),
        "images": marks((50, 100, 200, 400), 100, "test images"),
        "shared": marks((0.0, 0.5, 0.75, 0.9), 0.0, "share of noise in common"),
    }
    return Panel(gift_of_looking, controls)
