"""Several hospitals: patients dealt to houses, and what the sum over a few patients gives away of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.show.plots import BLUE, GREY, ORANGE, finish

from .panel import SMALL, Drawn, Panel, panel_axes, slider

MOST = 20


def divided(table: ImageTable, shots: Sequence[int], seed: int) -> list[ImageTable]:
    """A support set for each house, of so many shots; no patient is in two of them."""
    houses = []
    for number, k in enumerate(shots):
        houses.append(table.rows(draw_support(table, k, 1000 * number + seed)))
        table = table.rows(np.flatnonzero(~np.isin(table.patients(), houses[-1].patients())))
    return houses


def joined(tables: Sequence[ImageTable]) -> ImageTable:
    """The rows of all tables, which have the same categories and columns."""
    meta = {name: sum((one.meta[name] for one in tables), ()) for name in tables[0].meta}
    images = sum((one.images for one in tables), ())
    return ImageTable(images, np.concatenate([one.labels for one in tables]), tables[0].categories, meta)


@dataclass(frozen=True)
class SumCase:
    """Features x (N, d) of an archive, standardised; the first `MOST` rows of `order` (N,) are summed, target first."""

    features: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, target: int, seed: int = 0) -> SumCase:
        """Of plain features; what is summed with the target is drawn."""
        scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
        order = np.random.default_rng(seed).permutation(len(features))
        return cls(scaled, np.array([target, *order[order != target]]))

    def likeness(self, patients: int, known: int) -> np.ndarray:
        """(N,): how like each image of the archive is to what is left of the sum over `patients`, by cosine.

        Of those summed with the target, `known` are known to whoever looks, and are taken off.
        """
        hidden = [self.order[0], *self.order[1 + min(known, patients - 1) : patients]]
        left = self.features[hidden].sum(0)
        return self.features @ left / np.linalg.norm(self.features, axis=1) / np.linalg.norm(left)


def sum_of_patients(case: SumCase, patients: int, known: int) -> Drawn:
    """The archive by its likeness to a sum, and where the target stands in it."""
    known, target = min(known, patients - 1), int(case.order[0])
    like = case.likeness(patients, known)
    rank = int((like > like[target]).sum()) + 1
    figure, (axis,) = panel_axes(11, 4.0, (1,), 0.08, 0.1)
    others = np.delete(like, case.order[:patients])
    axis.hist(others, np.linspace(-1, 1, 61), color=GREY, label="images that are not in the sum")
    for row in case.order[1 + known : patients]:
        axis.axvline(like[row], 0, 0.25, color=BLUE, linewidth=2)
    axis.axvline(like[target], color=ORANGE, linewidth=3, label="the patient who is looked for")
    axis.legend(fontsize=SMALL, frameon=False, loc="upper left")
    finish(axis, xlabel="likeness to what is left of the sum", ylabel="images", xlim=(-1, 1.02))
    axis.set(title=f"sum over {patients}, of whom {known} are known: rank {rank} of {len(like)}")
    words = f"sum over {patients} patients, {known} of them known: the patient looked for is at rank <b>{rank}</b>"
    return figure, f"{words} of {len(like)} (blue: the others in the sum who are not known)"


def sum_panel(case: SumCase) -> Panel:
    """How many are summed, and how many of them somebody knows."""
    controls = {"patients": slider(1, MOST, 1, "patients in the sum"), "known": slider(0, MOST - 1, 0, "of them known")}
    return Panel(lambda patients, known: sum_of_patients(case, patients, known), controls)
