"""Draw the pictures of the README and the docs: `python tools/pictures.py`."""

from __future__ import annotations

import json
import textwrap
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from sdmad_course import load_or_fit, samples, support_and_validation
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import read_image
from sdmad_lite.show import plots
from sdmad_phantoms import ATTRIBUTES, CHEST, MODALITIES, Modality, draw_phantom, sample_phantoms

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
    box(77, 11, 15, 12, "stage 2: weigh\nsigns together on\nthe support set,\ndrop what misleads", "#fbe3d6", 9)
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


def samples_strip() -> Figure:
    """A few phantoms of every modality, for the README."""
    drawn = [p for m in MODALITIES for p in list(sample_phantoms(32, 3, modality=m))[2:16:2]]
    titles = ["\n".join(p.categories) or "normal" for p in drawn]
    return plots.show_images([p.image for p in drawn], titles, columns=7, size=1.7)


def contact_sheet(kind: Modality) -> Figure:
    """Seven phantoms of each category alone, and normal ones first."""
    rows = [(), *((category,) for category in kind.bank.categories)]
    drawn = [draw_phantom([3, r, i], row, modality=kind.name) for r, row in enumerate(rows) for i in range(7)]
    titles = [(*p.categories, "normal")[0] if i % 7 == 0 else "" for i, p in enumerate(drawn)]
    return plots.show_images([p.image for p in drawn], titles, columns=7, size=1.7)


def sign_sheet(kind: Modality) -> Figure:
    """Every sign alone, on the same patient."""
    signs = kind.bank.signs
    drawn = [draw_phantom(5, modality=kind.name), *(draw_phantom(5, signs=[s.id], modality=kind.name) for s in signs)]
    titles = ["normal", *(textwrap.fill(s.text, 22) for s in signs)]
    return plots.show_images([p.image for p in drawn], titles, columns=8, size=1.7)


def attributes() -> Figure:
    """The same normal patients with the trace of every attribute, and with none."""
    pictures, titles = [], []
    for kind in MODALITIES.values():
        for effects in (ATTRIBUTES, ()):
            for p in sample_phantoms(6, 11, [], images_per_patient=1, modality=kind.name, effects=effects):
                pictures.append(p.image)
                titles.append(f"{p.patient.age} {p.patient.sex}, site {p.patient.site}" if effects else "no trace")
    return plots.show_images(pictures, titles, columns=6, size=1.7)


def explanation() -> Figure:
    """A test phantom with several kept-out categories, its probabilities and the signs behind them."""
    bank, train, test = samples()
    names = CHEST.kept_out
    bank, train, test = bank.restricted(list(names)), train.restricted(names), test.restricted(names)
    support, _ = support_and_validation(train, 16, 0)
    detector = load_or_fit(support, bank, load_clip(), "quickstart")
    right = (detector.predict(test.images) == test.labels).all(1)
    row = int(np.argmax(test.labels.sum(1) + 10 * right * (test.labels.sum(1) > 1)))  # a success, to show how it reads
    explained = detector.explain(test.images[row])
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    picture, chances, parts = figure.subplots(1, 3, width_ratios=(1, 1, 1.7))
    picture.imshow(np.asarray(read_image(test.images[row])), cmap="gray", vmin=0, vmax=255)
    truth = [c for c, y in zip(bank.categories, test.labels[row], strict=True) if y]
    picture.set_title("truly present:\n" + "\nand ".join(truth), fontsize=10)
    picture.axis("off")
    plots.plot_probabilities(explained, truth, chances)
    plots.plot_explanation(max(explained, key=lambda e: e.logit), parts)
    return figure


def pretraining() -> Figure:
    """The five losses of pretraining over its steps; in the first the text tower reads the teacher's texts alone."""
    rows = [json.loads(line) for line in Path("docs/results/pretraining.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    for name, color in zip(("signs", "findings", "patches", "thumbnail", "teacher"), plots.PALETTE, strict=False):
        known = [row for row in rows if name in row]
        axis.plot([row["step"] for row in known], [row[name] for row in known], color=color, label=name)
    axis.set(xlabel="steps (first the texts alone, then with images)", ylabel="loss", yscale="log")
    axis.set_title(f"All losses of images still fall after {rows[-1]['seconds']} seconds on a GPU")
    axis.legend(ncols=2)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def failures() -> Figure:
    """Of each modality: the two drawn signs that the embedded CLIP ranks lowest among images without them."""
    backbone, pictures, titles = load_clip(), [], []
    for kind in MODALITIES.values():
        signs = kind.seen_signs
        drawn = list(sample_phantoms(400, 12, kind.seen, images_per_patient=1, modality=kind.name))
        u = backbone.encode_images([p.image for p in drawn], color=kind.bank.color)
        z = (u @ backbone.encode_texts([s.text for s in signs]).T).numpy()
        truth = np.array([[s.id in p.signs for s in signs] for p in drawn])
        above = np.stack([(z[~t, s][None] > z[:, s][:, None]).mean(1) for s, t in enumerate(truth.T)], 1) * truth
        for flat in np.argsort(-above, axis=None)[:4]:
            row, s = np.unravel_index(flat, above.shape)
            pictures.append(drawn[row].image)
            titles.append(f"{textwrap.fill(signs[s].text, 26)}\nbelow {above[row, s]:.0%} of images without")
    return plots.show_images(pictures, titles, columns=4, size=2.4)


def save(figure: Figure, name: str) -> None:
    figure.savefig(FOLDER / name, dpi=100, bbox_inches="tight", pad_inches=0.1)
    print(FOLDER / name)


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help writes nothing
    FOLDER.mkdir(parents=True, exist_ok=True)
    for kind in MODALITIES.values():  # JPEG for the large sheets of photographs
        save(contact_sheet(kind), f"contact_sheet_{kind.name}.jpg")
        save(sign_sheet(kind), f"sign_sheet_{kind.name}.jpg")
    save(attributes(), "attributes.jpg")
    save(samples_strip(), "samples.jpg")
    for make in (method, pretraining, failures, explanation):
        save(make(), f"{make.__name__}.png")
