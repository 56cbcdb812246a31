"""Panels for the notebooks: move something and see what it does.

The logic of a panel is a pure function of its values, on cosines computed once, so that a move costs
milliseconds; the widgets only pass values on. Pictures are `widgets.Image` and numbers `widgets.HTML`:
`Output` and `interact` can stall a notebook that runs without a browser.

    case = SignCase(z, validation.labels, bank, selector.auroc_, selector.weights_)
    SignPanel(case)                # in a notebook, with a kernel
    sign_panel_figure(case)        # the same picture, anywhere
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

from ..errors import DataError
from ..selection.sign_selector import equal_weights
from ..signs.bank import SignBank
from .panels.base import LARGE, SMALL, axes_of, panel_png
from .plots import BLUE, GREY, ORANGE, _clean, draw_groups


@dataclass(frozen=True)
class SignCase:
    """What a sign panel looks at; all of it is computed beforehand.

    z: (N, S) cosines of validation images and signs; never of test images, since a user chooses by them.
    labels: Y (N, C). bank: gives M, the texts and the categories. auroc: (C, S) support AUROC, by which
    signs are ranked. weights: W (C, S) of stage 2.
    """

    z: np.ndarray
    labels: np.ndarray
    bank: SignBank
    auroc: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        categories, signs = len(self.bank.categories), len(self.bank.texts)
        shapes = {
            "z": (len(self.z), signs),
            "labels": (len(self.z), categories),
            "auroc": (categories, signs),
            "weights": (categories, signs),
        }
        for name, shape in shapes.items():
            if np.shape(getattr(self, name)) != shape:
                raise DataError(f"{name}: shape {np.shape(getattr(self, name))}, expected {shape}")

    def ranked(self, category: str) -> list[int]:
        """Numbers of the category's signs, best support AUROC first."""
        c = self.bank.categories.index(category)
        own = np.flatnonzero(self.bank.membership()[c + 1])
        return own[np.argsort(-self.auroc[c, own], kind="stable")].tolist()

    def chosen(self, category: str) -> list[int]:
        """The signs that stage 2 kept, in the order of `ranked`."""
        row = self.weights[self.bank.categories.index(category)]
        return [s for s in self.ranked(category) if row[s] > 0]

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
    ap: float | None
    auroc: float | None
    ap_all: float | None
    ap_stage2: float | None


def sign_numbers(case: SignCase, category: str, kept: Sequence[int]) -> SignNumbers:
    """AP and AUROC with the kept signs (equal weights), all signs, and the signs and weights of stage 2."""
    c = case.bank.categories.index(category)
    y = case.labels[:, c]
    now = case.z @ case.weights_of(category, kept)
    every = case.z @ case.weights_of(category, case.ranked(category))
    stage2 = case.z @ case.weights[c]
    if not 0 < y.sum() < len(y):
        return SignNumbers(int(y.sum()), len(y), None, None, None, None)
    ap, ap_all, ap_stage2 = (float(average_precision_score(y, g)) for g in (now, every, stage2))
    return SignNumbers(int(y.sum()), len(y), ap, float(roc_auc_score(y, now)), ap_all, ap_stage2)


def sign_panel_figure(case: SignCase, category: str | None = None, kept: Sequence[int] | None = None) -> Figure:
    """Margins of positive, other and normal images, and AP beside that of all signs and of stage 2.

    Args:
        category: the first of the bank when left out.
        kept: numbers of the category's signs that stay on; all of them when left out.
    """
    category = category or case.bank.categories[0]
    kept = case.ranked(category) if kept is None else list(kept)
    numbers = sign_numbers(case, category, kept)
    figure, (strip, bars) = axes_of(12, 3.6, (1.7, 1), 0.16, 0.25)
    _draw_margins(strip, case, category, kept)
    names = ("all signs", "stage 2", "now")
    values = (numbers.ap_all, numbers.ap_stage2, numbers.ap)
    for i, (value, color) in enumerate(zip(values, (GREY, ORANGE, BLUE), strict=True)):
        bars.barh(i, value or 0, color=color, height=0.62)
        bars.text((value or 0) + 0.02, i, _number(value, 2), va="center", fontsize=SMALL)
    bars.axvline(numbers.positives / numbers.images, color="black", linestyle=":", linewidth=1)
    bars.set_yticks(range(3), names)
    bars.set(xlim=(0, 1.12), xticks=(0, 0.5, 1), xlabel="AP (dotted: by chance)")
    of = f"{numbers.positives} positives of {numbers.images}"
    best = max(zip(values, names, strict=True), key=lambda pair: pair[0] or 0)[1]
    bars.set_title(of if numbers.ap is None else f"best: {best} ({of})", fontsize=LARGE)
    bars.invert_yaxis()
    for axis in (strip, bars):
        _clean(axis)
    return figure


def _draw_margins(axis, case: SignCase, category: str, kept: Sequence[int]) -> None:
    """A row of dots for each group of images, and a bar at its median."""
    margin = case.z @ case.weights_of(category, kept)
    groups, _ = draw_groups(axis, margin, case.labels, case.bank.categories.index(category))
    for row, rows in enumerate(groups.values()):
        if rows.any():
            axis.plot([np.median(margin[rows])] * 2, [row - 0.4, row + 0.4], color="black", linewidth=2)
    axis.set(xlabel="margin: mean cosine of kept signs minus normal signs")
    axis.set_title(f"{category}: {len(kept)} of {len(case.ranked(category))} signs on", fontsize=LARGE)


def sign_panel_text(case: SignCase, category: str, kept: Sequence[int], note: str = "") -> str:
    """The same state in words, as HTML."""
    n = sign_numbers(case, category, kept)
    lines = [
        f"<b>{html.escape(category)}</b>: {len(kept)} of {len(case.ranked(category))} signs on, "
        f"{n.positives} positives of {n.images} validation images",
        f"AP now <b>{_number(n.ap)}</b>, AUROC now <b>{_number(n.auroc)}</b>; AP with all signs "
        f"{_number(n.ap_all)}, AP with the {len(case.chosen(category))} signs of stage 2 {_number(n.ap_stage2)}",
    ]
    return "<br>".join([*lines, f"<i>{html.escape(note)}</i>"] if note else lines)


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


class SignPanel(ipywidgets.VBox):
    """Choose a category and switch its signs on and off, or keep the best n by support AUROC.

    Attributes:
        category: the Dropdown. slider: number kept. checks: a Checkbox per sign, best support AUROC first.
        picture: the Image. state: the HTML text.
    """

    def __init__(self, case: SignCase, category: str | None = None):
        self.case = case
        self.category = ipywidgets.Dropdown(
            options=list(case.bank.categories), value=category or case.bank.categories[0], description="category"
        )
        self.slider = ipywidgets.IntSlider(value=1, min=1, max=1, description="number kept", continuous_update=False)
        self.slider.style.description_width = "initial"
        self.checks: list[ipywidgets.Checkbox] = []
        self.picture = ipywidgets.Image(format="png")
        self.state = ipywidgets.HTML()
        self._box = ipywidgets.VBox()
        self._quiet = False
        self.category.observe(self._on_category, "value")
        self.slider.observe(self._on_slider, "value")
        self._on_category()
        super().__init__([ipywidgets.HBox([self.category, self.slider]), self._box, self.picture, self.state])

    def kept(self) -> list[int]:
        """Numbers of the signs that are on."""
        pairs = zip(self.case.ranked(self.category.value), self.checks, strict=True)
        return [s for s, check in pairs if check.value]

    def _on_category(self, change=None) -> None:
        """A checkbox for each sign of the category, all on."""
        category = self.category.value
        row, chosen = self.case.auroc[self.case.bank.categories.index(category)], self.case.chosen(category)
        self.checks = []
        for s in self.case.ranked(category):
            kept = "stage 2 keeps it" if s in chosen else "stage 2 drops it"
            text = f"{self.case.bank.texts[s]} (support AUROC {row[s]:.2f}, {kept})"
            check = ipywidgets.Checkbox(value=True, description=text, indent=False, layout={"width": "auto"})
            check.observe(self._on_check, "value")
            self.checks.append(check)
        self._box.children = self.checks
        self._show([True] * len(self.checks))

    def _on_slider(self, change) -> None:
        if not self._quiet:
            self._show([rank < change["new"] for rank in range(len(self.checks))])

    def _on_check(self, change) -> None:
        if self._quiet:
            return
        values = [check.value for check in self.checks]
        note = ""
        if not any(values):
            values[self.checks.index(change["owner"])] = True
            note = "At least one sign must stay on: this one was switched on again."
        self._show(values, note)

    def _show(self, values: list[bool], note: str = "") -> None:
        """Bring checkboxes and slider in step, then draw once."""
        self._quiet = True
        try:
            self.slider.max = len(values)
            self.slider.value = sum(values)
            for check, value in zip(self.checks, values, strict=True):
                check.value = value
        finally:
            self._quiet = False
        category, kept = self.category.value, self.kept()
        self.picture.value = panel_png(sign_panel_figure(self.case, category, kept))
        self.state.value = sign_panel_text(self.case, category, kept, note)
