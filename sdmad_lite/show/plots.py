"""Pictures: each function takes plain results and returns a matplotlib Figure.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; each has one meaning everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle, zip_longest
from textwrap import fill

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..evaluation.intervals import Interval
from ..evaluation.protocols import PROTOCOLS, Evaluation
from ..explain import CategoryExplanation

BLUE, ORANGE, GREEN, RED, GREY, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999", "#56B4E9"
PINK, DARK = "#CC79A7", "#333333"
PALETTE = (BLUE, ORANGE, GREEN, RED, SKY, PINK, "#F0E442", "#000000")
HAS, OTHER, NORMAL = RED, GREY, DARK  # images with the category, with other anomalies only, without any
FOR, AGAINST = BLUE, ORANGE  # what speaks for a category, and what speaks against it
LOOKS, TRUTH = GREEN, SKY  # where the model looks, and where the sign was drawn
SMALL, LARGE = 10, 12  # letters in points


class _Picture(Figure):
    """A Figure that a notebook shows as PNG when it ends a cell; pyplot is not needed and keeps no copy."""

    def draw(self, renderer) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)  # a $ in a name is a $
        super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return to_png(self), {"alt": in_words(self)}


def in_words(figure: Figure) -> str:
    """What a picture shows, for those who do not see it: its titles, axes, rows and groups."""
    said = [figure.get_suptitle()]
    for axis in figure.axes:
        rows = [label.get_text() for label in axis.get_yticklabels()] if axis.axison else []
        rows = [row for row in rows if any(map(str.isalpha, row))]
        legend = axis.get_legend()
        groups = [text.get_text() for text in legend.get_texts()] if legend else []
        across = [name for name in (axis.get_xlabel(), axis.get_ylabel()) if name and axis.axison]
        said += [axis.get_title(), " against ".join(across), *(f"rows: {', '.join(rows)}" for _ in rows[:1])]
        said += [f"groups: {', '.join(groups)}" for _ in groups[:1]]
    return "; ".join(" ".join(words.split()) for words in said if words.strip()) or "picture without words"


def to_png(figure: Figure, quick: bool = False) -> bytes:
    """The picture as PNG bytes: tight, so that no title is lost; or as large as the figure, in half the time."""
    how = {"pil_kwargs": {"compress_level": 1}} if quick else {"bbox_inches": "tight", "pad_inches": 0.05}
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=110, **how)
    return stream.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    return _Picture(figsize=(width, height), layout="constrained")


def finish(axis, rows: Sequence[str] | None = None, size: float = SMALL, **labels) -> None:
    """The last strokes: names of rows from the top down in letters of a size, what `Axes.set` takes, no idle frame."""
    if rows is not None:
        axis.set_yticks(range(len(rows)), rows, fontsize=size)
        axis.invert_yaxis()
    axis.set(**labels)
    axis.spines[["top", "right"]].set_visible(False)


def draw_image(axis, image, title: str = "", size: float = LARGE) -> None:
    """A grey or colour image without axes."""
    axis.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=size)
    axis.axis("off")


def draw_heat(axis, image: np.ndarray, heat: np.ndarray, title: str, size: float) -> None:
    """An image (H, W) or (H, W, 3), and on it the tenth of the patches of a map (h, w) that agree most, in green."""
    draw_image(axis, image, title, size)
    heat = np.asarray(heat)
    extent = (0, image.shape[1], image.shape[0], 0)
    most = np.ma.masked_where(~(heat >= np.nanquantile(heat, 0.9)), heat)
    axis.imshow(most, cmap=ListedColormap([LOOKS]), alpha=0.45, extent=extent, interpolation="nearest")


def show_images(images: Sequence, titles: Sequence[str] = (), columns: int = 4, size: float = 2.4) -> Figure:
    """A contact sheet of grey or colour images, a title over each."""
    rows = -(-len(images) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    figure = new_figure(columns * size, rows * (size + 0.1 + 0.2 * lines))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(images) :]:
        axis.axis("off")
    for axis, image, title in zip_longest(axes[: len(images)], images, titles, fillvalue=""):
        draw_image(axis, image, title, SMALL)
    return figure


def plot_probabilities(explanations: Sequence[CategoryExplanation], truth: Sequence[str] = (), axis=None) -> Figure:
    """Probability of each category against its threshold, true ones in bold; on `axis` or a figure of its own."""
    axis = axis or new_figure(5.2, 0.32 * len(explanations) + 1.0).subplots()
    for i, e in enumerate(explanations):
        axis.barh(i, e.probability, color=FOR if e.detected else "#cccccc")
        axis.plot([e.threshold] * 2, [i - 0.4, i + 0.4], color="black", linewidth=2)
    finish(axis, [e.category for e in explanations], xlim=(0, 1), xlabel="probability (black: threshold)")
    for label, e in zip(axis.get_yticklabels(), explanations, strict=True):
        label.set_fontweight("bold" if e.category in truth else "normal")
    axis.set_title("detected in blue; truly present in bold" if len(truth) else "detected in blue", fontsize=LARGE)
    return axis.figure


def logit_parts(explanation: CategoryExplanation) -> dict[str, float]:
    """What each sign adds to the logit, then all normal signs together, the image evidence and the bias."""
    parts = {s.text: s.contribution for s in explanation.signs if not s.normal}
    normal = [s.contribution for s in explanation.signs if s.normal]
    parts[f"{len(normal)} normal signs"] = sum(normal)
    return parts | {"image evidence": explanation.image, "bias: a typical image": explanation.bias}


def draw_parts(axis, parts: Mapping[str, float], size: float, **labels) -> None:
    """A bar for each part of a logit, by its name; blue adds, orange takes away. `size` and `labels` as in `finish`."""
    bars = axis.barh(
        range(len(parts)), list(parts.values()), color=[FOR if part >= 0 else AGAINST for part in parts.values()]
    )
    axis.bar_label(bars, fmt="%+.2f", padding=2, fontsize=size - 1)
    axis.margins(x=0.2)  # room for the numbers
    axis.axvline(0, color="black", linewidth=0.8)
    finish(axis, list(parts), size, **labels)


def plot_explanation(explanation: CategoryExplanation, axis=None, drawn: Sequence[str] | None = None) -> Figure:
    """What each sign adds to the logit, and the image evidence; bars sum to it. On `axis` or a figure of its own.

    drawn: texts of the signs that the image truly shows, where that is known; each is marked beside its name.
    """
    dropped = {s.text for s in explanation.signs if not s.weight}
    own = {s.text for s in explanation.signs if not s.normal}
    parts = {}
    for name, part in logit_parts(explanation).items():
        truth = ""
        if drawn is not None and name in own:
            truth = "  ✓ drawn" if name in drawn else "  ✗ not drawn"
        parts[f"{name}{' (dropped)' * (name in dropped)}{truth}"] = part
    axis = axis or new_figure(9, 0.4 * len(parts) + 1.1).subplots()
    draw_parts(axis, parts, SMALL, xlabel="contribution to the logit")
    verdict = "detected" if explanation.detected else "not detected"
    axis.set_title(f"{explanation.category}: logit {explanation.logit:+.2f}, {verdict}", fontsize=LARGE)
    return axis.figure


def plot_sign_maps(image: np.ndarray, maps: Mapping[str, np.ndarray]) -> Figure:
    """The image, and for each map (h, w) the tenth of its patches that agrees most, in green."""
    figure = new_figure(2.7 * (len(maps) + 1), 3.3)
    plain, *axes = figure.subplots(1, len(maps) + 1, squeeze=False)[0]
    draw_image(plain, image, "image", SMALL)
    for axis, (name, heat) in zip(axes, maps.items(), strict=True):
        draw_heat(axis, image, heat, fill(name, 26), SMALL)
    return figure


def plot_methods(rows: Mapping[str, tuple[float, float, float]], label: str, title: str = "") -> Figure:
    """Methods with mean and 95 % interval (method -> mean, low, high), best on top."""
    ordered = sorted(rows.items(), key=lambda item: -item[1][0])
    figure = new_figure(7, 0.38 * len(ordered) + 1.0)
    axis = figure.subplots()
    for i, (name, (mean, low, high)) in enumerate(ordered):
        color = BLUE if name.startswith("SD-MAD") else GREY
        axis.plot([low, high], [i, i], color=color, linewidth=2.5)
        axis.plot(mean, i, "o", color=color, markersize=7)
        axis.text(mean, i - 0.22, f"{mean:.3f}", ha="center", fontsize=SMALL)
    axis.margins(x=0.08)  # room for the number over the lowest mean
    axis.set_title(title, fontsize=LARGE)
    xlabel = f"{label}, mean and 95 % interval over support draws"
    finish(axis, [name for name, _ in ordered], xlabel=xlabel, ylim=(len(ordered) - 0.4, -0.7))
    return figure


def plot_protocols(result: Evaluation | Interval, figure_name: str = "auroc") -> Figure:
    """Each category under the three protocols, with intervals and numbers of positives."""
    trees = (result.mean, result.low, result.high) if isinstance(result, Interval) else (result,)
    named, drawn = trees[0].multilabel.per_category, False
    figure = new_figure(8, 0.5 * len(named) + 1.2)
    axis = figure.subplots()
    for p, (protocol, color) in enumerate(zip(PROTOCOLS, PALETTE, strict=False)):
        scores = [tree.protocols()[protocol].per_category for tree in trees]
        values, *ends = np.array([[getattr(of[name], figure_name) for name in named] for of in scores], float)
        y = np.arange(len(named)) + (p - 1) * 0.22
        axis.plot(values, y, "o", color=color, markersize=5, label=protocol)
        if np.isfinite(ends).any():  # of one draw there is no interval
            drawn = True
            axis.hlines(y, *ends, color=color, linewidth=2)
    if figure_name == "auroc":
        axis.axvline(0.5, color="black", linestyle=":", linewidth=1)
    axis.set_xlim(right=min(1.02, axis.get_xlim()[1]))
    rows = [f"{name} ({score.positives} positives)" for name, score in named.items()]
    of = "95 % interval over support draws" if drawn else "one support draw"
    finish(axis, rows, xlabel=f"{figure_name.upper()} ({of})")
    figure.legend(fontsize=SMALL, loc="outside upper center", ncols=3, frameon=False)
    return figure


def plot_curves(scores: np.ndarray, labels: np.ndarray, categories: Sequence[str]) -> Figure:
    """ROC and precision-recall curves of each category that has positives and negatives."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure = new_figure(10.5, 4)
    roc, pr = figure.subplots(1, 2)
    looks = [{"color": color, "linestyle": style} for style in ("-", "--", ":") for color in PALETTE]
    for name, y, p, look in zip(categories, labels.T, scores.T, cycle(looks), strict=False):
        if 0 < y.sum() < len(y):
            roc.plot(*roc_curve(y, p)[:2], label=name, linewidth=1.4, **look)
            pr.plot(*precision_recall_curve(y, p)[1::-1], label=name, linewidth=1.4, **look)
    roc.plot([0, 1], [0, 1], ":", color="black", linewidth=1)
    finish(roc, xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    finish(pr, xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.03))
    figure.legend(*pr.get_legend_handles_labels(), fontsize=SMALL, loc="outside right center", frameon=False)
    return figure
