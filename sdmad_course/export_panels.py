"""The panel of notebook 12: how few bits will do, before decisions and reasons turn?"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from sdmad_lite.detector import SDMAD
from sdmad_lite.show.plots import BLUE, GREY, ORANGE, RED, finish

from .panel import SMALL, Drawn, Panel, check_shapes, choice, marks, number_of, panel_axes

SCALES = ("one scale for each output", "one scale for the whole layer")


def rounded(weights: Tensor, bits: int, scale: str = SCALES[0]) -> Tensor:
    """Weights (out, in) on the whole multiples of a step, 2^(bits - 1) - 1 to each side of 0.

    Args:
        bits: 2 or more. scale: of SCALES, whether each output has a step of its own or the layer has one.
    """
    most = 2 ** (bits - 1) - 1
    largest = weights.abs().amax(1, keepdim=True) if scale == SCALES[0] else weights.abs().max()
    step = (largest / most).clamp(min=1e-12)
    return torch.round(weights / step) * step


@contextmanager
def with_rounded(detector: SDMAD, bits: int, scale: str) -> Iterator[None]:
    """Inside the block the linear layers of the image tower and of its adapters have rounded weights."""
    adapters = (adapter for name, adapter in detector.adapters_.items() if name.startswith("image"))
    modules = [*detector.backbone.model.visual.modules(), *(part for one in adapters for part in one.modules())]
    weights = [module.weight for module in modules if isinstance(module, nn.Linear)]
    kept = [weight.detach().clone() for weight in weights]
    try:
        for weight, before in zip(weights, kept, strict=True):
            weight.data = rounded(before, bits, scale)
        yield
    finally:
        for weight, before in zip(weights, kept, strict=True):
            weight.data = before


@dataclass(frozen=True)
class RoundingCase:
    """N images scored by a detector as it is, and with weights in B numbers of bits on either scale of SCALES.

    cosines: z (N, S) and rounded_cosines (2, B, N, S). scores: probabilities (N, C) and rounded_scores (2, B, N, C).
    """

    detector: SDMAD
    bits: Sequence[int]
    cosines: np.ndarray
    scores: np.ndarray
    rounded_cosines: np.ndarray
    rounded_scores: np.ndarray

    def __post_init__(self):
        count, signs, categories = *np.shape(self.cosines), len(self.detector.bank.categories)
        check_shapes(self, scores=(count, categories), rounded_cosines=(2, len(self.bits), count, signs))
        check_shapes(self, rounded_scores=(2, len(self.bits), count, categories))

    def decisions_kept(self) -> np.ndarray:
        """(2, B) share of decisions that rounding leaves as they are."""
        at = self.detector.thresholds_
        return ((self.rounded_scores >= at) == (self.scores >= at)).mean((2, 3))

    def reasons_kept(self) -> np.ndarray:
        """(2, B) share of images and categories whose kept signs stay in their order."""
        same, bars = [], [self.detector.contributions(z) for z in (self.cosines, self.rounded_cosines)]
        for c, weights in enumerate(self.detector.weights_):
            before, after = (np.argsort(-of[..., c, weights > 0], -1) for of in bars)
            same.append((before == after).all(-1))
        return np.mean(same, (0, 3))


def rounding_case(detector: SDMAD, images: Sequence, bits: Sequence[int] = (2, 3, 4, 5, 6, 8)) -> RoundingCase:
    """Score images with every number of bits on both scales; that takes a pass for each."""
    z, h = detector.features(images)
    found = []
    for scale in SCALES:
        for count in bits:
            with with_rounded(detector, count, scale):
                found.append(detector.features(images))
    cosines = np.stack([cosine for cosine, _ in found])
    scores = np.stack([expit(detector.logits(*both)) for both in found])
    shape = (2, len(bits), len(z), -1)
    return RoundingCase(
        detector, tuple(bits), z, expit(detector.logits(z, h)), cosines.reshape(shape), scores.reshape(shape)
    )


def few_bits(case: RoundingCase, bits: int, scale: str, category: str) -> Drawn:
    """What stays the same with so many bits; a category's probabilities and cosines, rounded beside as they are.

    Raises:
        DataError: a number of bits, scale or category that the case does not have.
    """
    b, way = number_of(bits, case.bits, "bits"), number_of(scale, SCALES, "scale")
    c = number_of(category, case.detector.bank.categories, "category")
    figure, (shares, chances, cosines) = panel_axes(12, 4.6, (1.15, 1, 1), 0.06, 0.3)
    # what stays the same, over bits
    for name, kept, color in (
        ("decisions", case.decisions_kept(), BLUE),
        ("reasons", case.reasons_kept(), ORANGE),
    ):
        for k in range(2):
            line = {"linewidth": 2.5 if k == way else 1.2, "linestyle": "-" if k == way else ":"}
            shares.plot(range(len(case.bits)), kept[k], color=color, label=name if k == way else None, **line)
        shares.plot(
            b, kept[way, b], "o", markersize=14, markerfacecolor="none", markeredgecolor=RED, markeredgewidth=2.5
        )
    shares.set_xticks(range(len(case.bits)), case.bits)
    shares.legend(fontsize=SMALL, frameon=False, loc="lower right")
    finish(shares, xlabel="bits of a weight", ylabel="share that stays the same", ylim=(0, 1.03))
    shares.set_title("dotted: the other scale", fontsize=SMALL)
    # probabilities of one category
    before, after, at = case.scores[:, c], case.rounded_scores[way, b, :, c], case.detector.thresholds_[c]
    turned = (before >= at) != (after >= at)
    chances.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    chances.plot(before[~turned], after[~turned], ".", color=BLUE)
    chances.plot(before[turned], after[turned], "o", color=RED, markersize=8)
    chances.axvline(at, color="black", linewidth=0.8)
    chances.axhline(at, color="black", linewidth=0.8)
    finish(chances, xlabel="probability as it is", ylabel="rounded", xlim=(0, 1), ylim=(0, 1))
    chances.set_title(f"{category}: {turned.sum()} decisions turn (red)", fontsize=SMALL)
    # cosines of its kept signs
    own = case.detector.weights_[c] > 0
    z, moved = case.cosines[:, own], case.rounded_cosines[way, b][:, own]
    ends = [min(z.min(), moved.min()), max(z.max(), moved.max())]
    cosines.plot(ends, ends, color=GREY, linewidth=1)
    cosines.plot(z.ravel(), moved.ravel(), ".", color=BLUE, markersize=3)
    finish(cosines, xlabel="cosine of a kept sign as it is", ylabel="rounded")
    cosines.set_title(f"cosines move by {np.abs(moved - z).mean():.3f} on average", fontsize=SMALL)
    decisions, reasons = case.decisions_kept()[way, b], case.reasons_kept()[way, b]
    return figure, (
        f"<b>{bits} bits</b>, {html.escape(scale)}: {decisions:.1%} of decisions and {reasons:.1%} of orders of reasons"
        f" stay (all categories, {len(case.scores)} images). {html.escape(category)}: {turned.sum()} decisions turn"
    )


def bits_panel(case: RoundingCase) -> Panel:
    """The rounding with controls, first at the fewest bits."""
    controls = {"bits": marks(case.bits, case.bits[0]), "scale": choice(SCALES)}
    return Panel(partial(few_bits, case), controls | {"category": choice(case.detector.bank.categories)})
