"""Draw the pictures of the README and the docs: `python scripts/pictures.py`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from sdmad_lite import plots
from sdmad_lite.backbone import load_clip
from sdmad_lite.course import chest_samples, load_or_fit, support_and_validation
from sdmad_lite.data import read_image
from sdmad_lite.phantoms import KEPT_OUT, chest_bank, draw_phantom, sample_phantoms

FOLDER = Path("docs/pictures")


def method() -> Figure:
    """The two stages as boxes and arrows."""
    figure = Figure(figsize=(11, 3.4))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 110), ylim=(0, 34))
    axis.axis("off")

    def box(x, y, w, h, text, color, size=10):
        axis.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.4", facecolor=color, edgecolor="#333333", linewidth=1)
        )
        axis.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size)

    def arrow(start, end):
        axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color="#333333", linewidth=1.3))

    box(1, 21, 20, 9, 'sign bank\n"blunted costophrenic angle"\n"enlarged cardiac silhouette" ...', "#fdf3dc", 8)
    box(1, 4, 20, 9, "K images per category,\nseveral categories each,\nand K normal ones", "#fdf3dc", 8)
    box(27, 21, 18, 9, "text tower, frozen\n+ Shift Adapters", "#dcebf7")
    box(27, 4, 18, 9, "image tower, frozen\n+ Shift Adapters", "#dcebf7")
    box(51, 11, 20, 12, "stage 1: align\ncosines z = u · v\nsigns to their categories,\ncategories apart", "#d8efe6", 9)
    box(77, 11, 15, 12, "stage 2: select\nsigns that help,\ncross-fitted on the\nsupport set", "#fbe3d6", 9)
    box(97, 13, 12, 8, "score of each\ncategory, and\nwhy", "#eeeeee", 9)
    for start, end in (
        ((21.6, 25.5), (26.4, 25.5)),
        ((21.6, 8.5), (26.4, 8.5)),
        ((45.6, 25.5), (50.6, 20)),
        ((45.6, 8.5), (50.6, 14)),
        ((71.6, 17), (76.4, 17)),
        ((92.6, 17), (96.4, 17)),
    ):
        arrow(start, end)
    return figure


def contact_sheet() -> Figure:
    """Phantoms as they are sampled, with their categories."""
    drawn = list(sample_phantoms(48, 3))[::2]
    return plots.show_images(
        [p.image for p in drawn], ["\n".join(p.categories) or "normal" for p in drawn], columns=8, size=1.7
    )


def sign_sheet() -> Figure:
    """Every sign alone, on the same patient."""
    signs = [sign.id for sign in chest_bank().signs]
    drawn = [draw_phantom(5), *(draw_phantom(5, signs=[s]) for s in signs)]
    return plots.show_images(
        [p.image for p in drawn], ["normal", *(s.replace("_", " ") for s in signs)], columns=8, size=1.6
    )


def explanation() -> Figure:
    """A test phantom with several kept-out categories, its probabilities and the signs behind them."""
    bank, train, test = chest_samples()
    bank, train, test = bank.restricted(list(KEPT_OUT)), train.restricted(KEPT_OUT), test.restricted(KEPT_OUT)
    support, _ = support_and_validation(train, 16, 0)
    detector = load_or_fit(support, bank, load_clip(), "quickstart")
    right = (detector.predict(test.images) == test.labels).all(1)
    row = int(np.argmax(test.labels.sum(1) + 10 * right * (test.labels.sum(1) > 1)))  # a success, to show how it reads
    explained = detector.explain(test.images[row])
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    picture, chances, parts = figure.subplots(1, 3, width_ratios=(1, 1, 1.7))
    picture.imshow(np.asarray(read_image(test.images[row])), cmap="gray", vmin=0, vmax=255)
    truth = [c for c, y in zip(bank.categories, test.labels[row], strict=True) if y]
    picture.set_title("truly present:\n" + " and ".join(truth), fontsize=10)
    picture.axis("off")
    plots.draw_probabilities(chances, explained, truth)
    plots.draw_explanation(parts, max(explained, key=lambda e: e.logit))
    return figure


def pretraining() -> Figure:
    """The three losses of pretraining over images seen."""
    rows = [json.loads(line) for line in Path("docs/results/pretraining.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    for name, color in zip(("signs", "captions", "patches"), plots.PALETTE, strict=False):
        axis.plot([row["images"] for row in rows], [row[name] for row in rows], color=color, label=name)
    axis.set(
        xlabel="images seen", ylabel="loss", title=f"Pretraining: {rows[-1]['seconds'] / 60:.0f} minutes on one core"
    )
    axis.legend()
    axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for make in (method, contact_sheet, sign_sheet, pretraining, explanation):
        make().savefig(FOLDER / f"{make.__name__}.png", dpi=110, bbox_inches="tight", pad_inches=0.1)
        print(FOLDER / f"{make.__name__}.png")
