"""Break it: spoil an image, and see what happens to its signs and scores."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill

import numpy as np
from PIL import Image, ImageFilter

from ...data import read_image
from ...detector import SDMAD
from ...explain import CategoryExplanation
from ..plots import BLUE, GREY, _clean
from .base import LARGE, SMALL, Drawn, Panel, axes_of, choice, one_of, slider


@dataclass(frozen=True)
class BreakCase:
    """A fitted detector and one image to spoil."""

    detector: SDMAD
    image: object

    @cached_property
    def picture(self) -> Image.Image:
        return read_image(self.image, self.detector.bank.color)

    @cached_property
    def before(self) -> list[CategoryExplanation]:
        """The explanation of the image as it is."""
        return self.detector.explain(self.picture)


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
    y, c = (n // 2 for n in x.shape[:2])
    x[y - half : y + half, c - half : c + half] = 110
    return Image.fromarray(x.clip(0, 255).astype(np.uint8))


def break_it(case: BreakCase, category: str, noise: float, blur: float, exposure: float, occlusion: float) -> Drawn:
    """The spoilt image, all probabilities before and now, and what each sign of a category adds before and now."""
    c = one_of(category, case.detector.bank.categories, "category")
    spoilt = broken(case.picture, noise, blur, exposure, occlusion)
    now = case.detector.explain(spoilt)
    figure, (picture, chances, parts) = axes_of(12, 4.6, (1.05, 0.85, 1), 0.01, 0.8)
    picture.imshow(np.asarray(spoilt), cmap="gray", vmin=0, vmax=255)
    picture.axis("off")
    pairs = [(e.probability, f.probability) for e, f in zip(case.before, now, strict=True)]
    _draw_pairs(chances, [e.category for e in now], pairs)
    for i, e in enumerate(now):
        chances.plot([e.threshold] * 2, [i - 0.4, i + 0.4], color="black", linewidth=2)
    chances.set(xlim=(0, 1), xlabel="probability (black: threshold)")
    a, b = case.before[c], now[c]
    names = [fill(s.text, 26) for s in b.signs if not s.normal] + ["normal signs", "image evidence"]
    _draw_pairs(parts, names, list(zip(_parts(a), _parts(b), strict=True)))
    parts.set(xlabel="part of the logit")
    parts.locator_params(axis="x", nbins=5)
    parts.set_title(f"{category}: logit {a.logit:+.2f}, now {b.logit:+.2f}", fontsize=LARGE)
    parts.axvline(0, color="black", linewidth=0.8)
    turned = [new.category for old, new in zip(case.before, now, strict=True) if _called(old) != _called(new)]
    decisions = f"{len(turned)} of {len(now)} decisions turned" if turned else "no decision turned"
    chances.set_title(f"{decisions}\n(grey: before, blue: now)", fontsize=LARGE)
    text = f"<b>{html.escape(category)}</b>: probability {a.probability:.3f}, now <b>{b.probability:.3f}</b>"
    return figure, f"{text}; decisions that turned: {html.escape(', '.join(turned)) or 'none'}"


def _called(e) -> bool:
    return e.probability >= e.threshold


def _parts(e) -> list[float]:
    own = [s.contribution for s in e.signs if not s.normal]
    return [*own, sum(s.contribution for s in e.signs if s.normal), e.image]


def _draw_pairs(axis, names: Sequence[str], pairs: Sequence[tuple[float, float]]) -> None:
    for i, (before, now) in enumerate(pairs):
        axis.barh(i - 0.2, before, height=0.36, color=GREY)
        axis.barh(i + 0.2, now, height=0.36, color=BLUE)
    axis.set_yticks(range(len(names)), names, fontsize=SMALL)
    axis.invert_yaxis()
    _clean(axis)


def break_panel(case: BreakCase) -> Panel:
    """One image with controls to spoil it."""
    controls = {
        "category": choice("category", case.detector.bank.categories),
        "noise": slider("noise", 0, 0.4, 0),
        "blur": slider("blur", 0, 8, 0),
        "exposure": slider("exposure", -2, 2, 0),
        "occlusion": slider("occlusion", 0, 0.8, 0),
    }
    return Panel(lambda **values: break_it(case, **values), controls)
