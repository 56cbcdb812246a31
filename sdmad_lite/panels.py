"""More panels: signs of one image, protocols, embeddings, and an image that one can break. A case, a function, a line.

    case = BoardCase(scores, labels, categories, thresholds)     # computed beforehand
    figure, text = protocol_board(case, "Effusion", "detection", 0.4)  # anywhere
    board_panel(case)                                            # in a notebook, with a kernel

A figure is a pure function of the case and the values; `Panel` only passes values on. What `widgets` says of pictures
and texts holds here too.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageFilter
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from .data import read_image
from .detector import SDMAD
from .errors import DataError
from .plots import BLUE, GREY, NOTICE, ORANGE, PALETTE, RED, _clean, _figure, draw_groups, to_png
from .protocols import PROTOCOLS

Drawn = tuple[Figure, str]
"""A figure, and the same state in words (HTML)."""


class Panel(ipywidgets.VBox):
    """Controls, the picture they make and a line of text.

    Attributes:
        controls: name -> widget. picture: the Image. state: the HTML text.
    """

    def __init__(
        self,
        draw: Callable[..., Drawn],
        controls: Mapping[str, ipywidgets.Widget],
        follow: Mapping[str, Callable[[Mapping[str, ipywidgets.Widget]], None]] | None = None,
    ):
        """`follow`: for the name of a control, what brings the others in step when it moves."""
        self.draw, self.controls, self._follow, self._quiet = draw, dict(controls), dict(follow or {}), False
        self.picture, self.state = ipywidgets.Image(format="png"), ipywidgets.HTML()
        for control in self.controls.values():
            control.style.description_width = "initial"  # no label is cut
            control.observe(self._moved, "value")
        self._redraw()
        layout = ipywidgets.Layout(flex_flow="row wrap")
        super().__init__([ipywidgets.HBox(list(self.controls.values()), layout=layout), self.picture, self.state])

    def _moved(self, change) -> None:
        if self._quiet:
            return
        self._quiet = True
        try:
            for name, bring in self._follow.items():
                if self.controls[name] is change["owner"]:
                    bring(self.controls)
        finally:
            self._quiet = False
        self._redraw()

    def _redraw(self) -> None:
        figure, text = self.draw(**{name: control.value for name, control in self.controls.items()})
        self.picture.value, self.state.value = to_png(figure), f"{text}<br><small>{NOTICE}</small>"


def _choice(name: str, options: Sequence) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=list(options), value=options[0], description=name)


def _slider(name: str, low: float, high: float, value: float) -> ipywidgets.FloatSlider:
    step = (high - low) / 20
    return ipywidgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=name, continuous_update=False, readout_format=".2f"
    )


def _axes(width: float, height: float, ratios: Sequence[float], left: float, wspace: float) -> tuple[Figure, list]:
    """Fixed margins: twice as fast as a layout engine, and nothing jumps from move to move."""
    figure = _figure(width, height)
    figure.set_layout_engine("none")
    margins = {"left": left, "right": 0.98, "bottom": 0.2, "top": 0.87, "wspace": wspace}
    return figure, list(figure.subplots(1, len(ratios), width_ratios=ratios, gridspec_kw=margins))


def _one_of(value, options: Sequence, name: str) -> int:
    if value not in options:
        raise DataError(f"{name}: {value!r} is none of {', '.join(map(str, options))}")
    return list(options).index(value)


# Sign explorer


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
    def maps(self) -> dict[int, np.ndarray]:
        """Heat maps (S, h, w) of the images looked at so far."""
        return {}

    def map_of(self, image: int, text: str) -> np.ndarray:
        """(h, w) heat map of one sign."""
        if image not in self.maps:
            self.maps[image] = self.detector.sign_maps(self.images[image])
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
    c = _one_of(category, bank.categories, "category")
    _one_of(image, range(len(case.images)), "image")
    own = bank.signs_of(category)
    for text in (*signs, heat):
        _one_of(text, own, "sign")
    on = [text for text in own if text in signs][:kept]
    if not on:
        raise DataError(f"signs: keep at least one of {', '.join(own)}")
    (z, h), y = case.features, case.labels[:, c]
    weights = case.weights(c, on)
    parts = detector.scale_[c] * weights * z[image]
    by_image = detector.image_logits(h)[:, c]
    p = expit(detector.scale_[c] * (z @ weights) + detector.bias_[c] + by_image)
    figure, (picture, bars, strip) = _axes(12, 3.4, (0.9, 1.2, 1), 0.01, 0.75)
    pixels = np.asarray(read_image(case.images[image], bank.color))
    picture.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    extent = (0, pixels.shape[1], pixels.shape[0], 0)
    picture.imshow(case.map_of(image, heat), cmap="inferno", alpha=0.45, extent=extent, interpolation="bilinear")
    picture.set_title(fill(f"where: {heat}", 34), fontsize=8)
    picture.axis("off")
    normal = np.flatnonzero(case.detector.membership[0])
    names = [fill(text, 30) if text in on else fill(f"{text} (off)", 30) for text in own]
    values = [parts[bank.texts.index(text)] for text in own] + [parts[normal].sum(), by_image[image], detector.bias_[c]]
    bars.barh(range(len(values)), values, color=[BLUE if v >= 0 else RED for v in values])
    bars.set_yticks(range(len(values)), [*names, "normal signs", "image evidence", "bias"], fontsize=8)
    bars.invert_yaxis()
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set(xlabel="contribution to the logit")
    bars.locator_params(axis="x", nbins=5)
    bars.set_title(f"{category}: probability {p[image]:.2f}", fontsize=10)
    _, height = draw_groups(strip, p, case.labels, c)
    strip.axvline(threshold, color="black", linewidth=2)
    strip.plot(p[image], height[image], "o", markersize=12, markerfacecolor="none", markeredgecolor="black")
    strip.tick_params(axis="y", labelsize=8)
    strip.set(xlim=(-0.02, 1.02), xlabel="probability (line: threshold)")
    for axis in (bars, strip):
        _clean(axis)
    verdict = "called" if p[image] >= threshold else "not called"
    text = f"<b>{html.escape(category)}</b>, image {image}: {len(on)} of {len(own)} signs on, probability "
    text += f"<b>{p[image]:.3f}</b>, {verdict}; {y.sum()} positives of {len(y)} images: "
    if not 0 < y.sum() < len(y):
        return figure, text + "AP n/a"
    ap, f1 = average_precision_score(y, p), f1_score(y, p >= threshold, zero_division=0)
    strip.set_title(f"AP {ap:.2f}", fontsize=10)
    return figure, text + f"AP <b>{ap:.3f}</b>, F1 <b>{f1:.3f}</b>"


def explorer_panel(case: ExplorerCase) -> Panel:
    """The explorer with controls, first at an image with many anomalies; hold Ctrl to switch single signs."""
    bank = case.detector.bank
    own, last = bank.signs_of(bank.categories[0]), len(case.images) - 1
    most, first = max(len(bank.signs_of(c)) for c in bank.categories), int(np.argmax(np.sum(case.labels, 1)))
    controls = {
        "category": _choice("category", bank.categories),
        "image": ipywidgets.IntSlider(value=first, min=0, max=last, description="image", continuous_update=False),
        "signs": ipywidgets.SelectMultiple(options=own, value=own, description="signs on", layout={"width": "420px"}),
        "kept": ipywidgets.IntSlider(value=most, min=1, max=most, description="kept", continuous_update=False),
        "threshold": _slider("threshold", 0, 1, 0.5),
        "heat": _choice("heat map", own),
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


# Protocol board


@dataclass(frozen=True)
class BoardCase:
    """What to judge: probabilities scores (N, C), labels Y (N, C), categories, the detector's own thresholds (C,)."""

    scores: np.ndarray
    labels: np.ndarray
    categories: Sequence[str]
    thresholds: np.ndarray

    def __post_init__(self):
        wanted = (len(self.scores), len(self.categories))
        for name, shape in (("scores", wanted), ("labels", wanted), ("thresholds", wanted[1:])):
            if np.shape(getattr(self, name)) != shape:
                raise DataError(f"{name}: shape {np.shape(getattr(self, name))}, expected {shape}")


def protocol_board(case: BoardCase, category: str, protocol: str, threshold: float) -> Drawn:
    """ROC and precision-recall curve with the point where a threshold stands, and who is called by it.

    Args:
        protocol: detection (negatives are normal images), discrimination (other anomalies) or multilabel (both).
        threshold: in [0, 1].

    Raises:
        DataError: an unknown category or protocol.
    """
    c = _one_of(category, case.categories, "category")
    _one_of(protocol, PROTOCOLS, "protocol")
    has, normal = case.labels[:, c] == 1, case.labels.sum(1) == 0
    among = {"detection": has | normal, "discrimination": ~normal}.get(protocol, np.ones_like(has))
    y, p = has[among], case.scores[among, c]
    called = p >= threshold
    figure, (roc, pr, bars) = _axes(11.5, 3, (1, 1, 1.2), 0.06, 0.68)
    head = f"{category}, {protocol}: {y.sum()} positives of {len(y)} images"
    if 0 < y.sum() < len(y):
        auroc, ap = roc_auc_score(y, p), average_precision_score(y, p)
        rates = called[~y].mean(), called[y].mean()
        roc.plot(*roc_curve(y, p)[:2], color=BLUE)
        precision, recall, _ = precision_recall_curve(y, p)
        pr.plot(recall, precision, color=BLUE)
        roc.plot(*rates, "o", color=RED, markersize=9)
        found = y[called].mean() if called.any() else 1.0
        pr.plot(rates[1], found, "o", color=RED, markersize=9)
        f1 = f1_score(y, called, zero_division=0)
        roc.set_title(f"AUROC {auroc:.2f}", fontsize=10)
        pr.set_title(f"AP {ap:.2f}, F1 here {f1:.2f}", fontsize=10)
        words = f"AUROC <b>{auroc:.3f}</b>, AP <b>{ap:.3f}</b>; at threshold {threshold:.2f}: F1 <b>{f1:.3f}</b>, "
        words += f"{(called & y).sum()} found, {(~called & y).sum()} missed, {(called & ~y).sum()} false"
    else:
        words = "n/a: this protocol needs positives and negatives"
    roc.plot([0, 1], [0, 1], ":", color="black", linewidth=1)
    roc.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    pr.axhline(y.mean(), linestyle=":", color="black", linewidth=1)
    pr.set(xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(-0.03, 1.05))
    _draw_called(bars, case, c, threshold)
    for axis in (roc, pr, bars):
        _clean(axis)
    return figure, f"<b>{html.escape(head)}</b><br>{words}; the detector's own threshold is {case.thresholds[c]:.2f}"


def _draw_called(axis, case: BoardCase, c: int, threshold: float) -> None:
    """Share that is called the category: of those that have it, of normal images, of each other category without it."""
    has, called = case.labels[:, c] == 1, case.scores[:, c] >= threshold
    groups = {case.categories[c]: has, "normal": case.labels.sum(1) == 0}
    groups |= {f"{d} without it": ~has & (y == 1) for d, y in zip(case.categories, case.labels.T, strict=True)}
    groups.pop(f"{case.categories[c]} without it")
    for i, rows in enumerate(groups.values()):
        share = called[rows].mean() if rows.any() else 0
        axis.barh(i, share, color=BLUE if i == 0 else ORANGE if i > 1 else GREY)
        axis.text(share + 0.02, i, f"{called[rows].sum()} of {rows.sum()}", va="center", fontsize=8)
    axis.set_yticks(range(len(groups)), list(groups), fontsize=8)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.25), xticks=(0, 0.5, 1), xlabel=f"share called {case.categories[c]}")
    axis.set_title("who is called?", fontsize=10)


def board_panel(case: BoardCase) -> Panel:
    """The board with controls."""
    controls = {
        "category": _choice("category", case.categories),
        "protocol": _choice("protocol", PROTOCOLS),
        "threshold": _slider("threshold", 0, 1, 0.5),
    }
    return Panel(lambda **values: protocol_board(case, **values), controls)


# Embedding explorer


@dataclass(frozen=True)
class EmbeddingCase:
    """Images in two dimensions, before and after stage 1.

    before, after: (N, 2), such as `plots.project` gives. labels: Y (N, C). z: (N, S) cosines after stage 1 and their
    texts. images: N pictures. attributes: name -> N values, such as a table's `meta`.
    """

    before: np.ndarray
    after: np.ndarray
    labels: np.ndarray
    categories: Sequence[str]
    z: np.ndarray
    texts: Sequence[str]
    images: Sequence
    attributes: Mapping[str, Sequence[str]]

    def __post_init__(self):
        count = len(self.images)
        shapes = {"before": (count, 2), "after": (count, 2)}
        shapes |= {"labels": (count, len(self.categories)), "z": (count, len(self.texts))}
        for name, shape in shapes.items():
            if np.shape(getattr(self, name)) != shape:
                raise DataError(f"{name}: shape {np.shape(getattr(self, name))}, expected {shape}")
        for name, values in self.attributes.items():
            if len(values) != count:
                raise DataError(f"attributes: {name} has {len(values)} values for {count} images")

    @property
    def colours(self) -> list[str]:
        """What points can be coloured by."""
        signs = [f"sign: {text}" for text in self.texts]
        return [*(f"category: {c}" for c in self.categories), *signs, *(f"attribute: {a}" for a in self.attributes)]


def embedding_explorer(case: EmbeddingCase, colour: str, point: int) -> Drawn:
    """Both maps coloured by a category, a sign's cosine or an attribute; the picked image and its strongest signs.

    Raises:
        DataError: nothing of that name to colour by, or no such image.
    """
    _one_of(colour, case.colours, "colour")
    if not 0 <= point < len(case.images):
        raise DataError(f"point: {point} is none of 0 to {len(case.images) - 1}")
    kind, name = colour.split(": ", 1)
    figure, (*maps, picture) = _axes(11, 3.6, (1, 1, 0.8), 0.03, 0.12)
    for axis, points, title in zip(maps, (case.before, case.after), ("before stage 1", "after stage 1"), strict=True):
        if kind == "sign":
            values = case.z[:, list(case.texts).index(name)]
            axis.scatter(*points.T, c=values, s=14, cmap="viridis", linewidths=0)
        else:
            for value, color, rows in _groups(case, kind, name):
                axis.scatter(*points[rows].T, s=14, color=color, label=f"{value} ({rows.sum()})", linewidths=0)
            axis.legend(fontsize=7, frameon=False, loc="best")
        axis.plot(*points[point], "o", markersize=13, markerfacecolor="none", markeredgecolor=RED, markeredgewidth=2)
        axis.set(xticks=(), yticks=(), title=title)
        axis.title.set_fontsize(10)
    picture.imshow(np.asarray(case.images[point]), cmap="gray", vmin=0, vmax=255)
    picture.axis("off")
    truth = ", ".join(c for c, y in zip(case.categories, case.labels[point], strict=True) if y) or "normal"
    picture.set_title(f"image {point}: {truth}", fontsize=9)
    strongest = np.argsort(-(case.z[point] - case.z.mean(0)) / (case.z.std(0) + 1e-9))[:3]
    signs = "; ".join(f"{html.escape(case.texts[s])} ({case.z[point, s]:+.2f})" for s in strongest)
    return figure, (
        f"<b>image {point}</b>: {html.escape(truth)}; its cosine is furthest above the mean for: {signs}. "
        f"Colour: {html.escape(colour)}"
    )


def _groups(case: EmbeddingCase, kind: str, name: str) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and rows of each group of points."""
    if kind == "category":
        has, normal = case.labels[:, list(case.categories).index(name)] == 1, case.labels.sum(1) == 0
        return [("normal", GREY, normal), ("other anomalies", ORANGE, ~has & ~normal), (name, BLUE, has)]
    values = np.asarray(case.attributes[name])
    return [(v, PALETTE[i % len(PALETTE)], values == v) for i, v in enumerate(sorted(set(values))[: len(PALETTE)])]


def embedding_panel(case: EmbeddingCase) -> Panel:
    """The explorer with controls; the slider picks a point."""
    last = len(case.images) - 1
    controls = {
        "colour": _choice("colour", case.colours),
        "point": ipywidgets.IntSlider(value=0, min=0, max=last, description="image", continuous_update=False),
    }
    return Panel(lambda **values: embedding_explorer(case, **values), controls)


# Break it


@dataclass(frozen=True)
class BreakCase:
    """A fitted detector and one image to spoil."""

    detector: SDMAD
    image: object

    @cached_property
    def picture(self) -> Image.Image:
        return read_image(self.image, self.detector.bank.color)

    @cached_property
    def before(self) -> list:
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
    c = _one_of(category, case.detector.bank.categories, "category")
    spoilt = broken(case.picture, noise, blur, exposure, occlusion)
    now = case.detector.explain(spoilt)
    figure, (picture, chances, parts) = _axes(12, 3.6, (0.9, 1, 1.2), 0.01, 0.75)
    picture.imshow(np.asarray(spoilt), cmap="gray", vmin=0, vmax=255)
    picture.axis("off")
    pairs = [(e.probability, f.probability) for e, f in zip(case.before, now, strict=True)]
    _draw_pairs(chances, [e.category for e in now], pairs)
    for i, e in enumerate(now):
        chances.plot([e.threshold] * 2, [i - 0.4, i + 0.4], color="black", linewidth=2)
    chances.set(xlim=(0, 1), xlabel="probability (black: threshold)")
    chances.set_title("grey: before, blue: now", fontsize=10)
    a, b = case.before[c], now[c]
    names = [fill(s.text, 30) for s in b.signs if not s.normal] + ["normal signs", "image evidence"]
    _draw_pairs(parts, names, list(zip(_parts(a), _parts(b), strict=True)))
    parts.set(xlabel="contribution to the logit")
    parts.locator_params(axis="x", nbins=5)
    parts.set_title(f"{category}: logit {a.logit:+.2f}, now {b.logit:+.2f}", fontsize=10)
    parts.axvline(0, color="black", linewidth=0.8)
    turned = [new.category for old, new in zip(case.before, now, strict=True) if _called(old) != _called(new)]
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
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    _clean(axis)


def break_panel(case: BreakCase) -> Panel:
    """One image with controls to spoil it."""
    controls = {
        "category": _choice("category", case.detector.bank.categories),
        "noise": _slider("noise", 0, 0.4, 0),
        "blur": _slider("blur", 0, 8, 0),
        "exposure": _slider("exposure", -2, 2, 0),
        "occlusion": _slider("occlusion", 0, 0.8, 0),
    }
    return Panel(lambda **values: break_it(case, **values), controls)
