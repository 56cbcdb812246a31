"""From docs/results/real_sets.json to real_sets.md beside it: `python tools/real_sets_page.py`."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

from shared import less, table, with_patients

from sdmad_lite.evaluation.experiment import BOTH_STAGES, OWN
from sdmad_lite.files import NOTICE, write_text

FIGURES = ("AUROC", "mAP")
INTRO = """\
Macro figures of the multi-label protocol. In square brackets the 95 % interval over {draws} support draws on these test
images; in round ones the 95 % percentile interval over patients of the test set (images, where no patient is known),
drawn with replacement, of the mean over the same detectors. Differences are paired over the same draws and the same
patients, and bold where *both* intervals exclude zero. Categories with fewer than {least} positives in train or test,
or too few patients for the largest K, are left out by name, the same at each K. Pictures that stand in a set twice are
taken once, and none is in train and test. No image is part of this project.

The embedded CLIP saw drawn phantoms alone: the rows with random weights say what that is worth on real images, the row
of pixels what brightness and framing are worth. The two methods that meta-learn do so on phantoms: of the fundus, of
the brain, else of the chest. The best baseline is that of the highest mean on these test images, which favours it."""


def short(cells: list[dict]) -> list[str]:
    """What matters of each set in a line: against random weights, pixels, and the best of the baselines."""
    lines: list[str] = []
    for figure in FIGURES:
        rows = {}
        for cell in cells:
            for part, methods in cell["parts"].items():
                others = [m for m in methods if m not in OWN and not m.endswith("random weights")]
                best = max(others, key=lambda m: methods[m][figure]["mean"])
                against = (f"{BOTH_STAGES}, random weights", "pixels", "image evidence alone", best)
                cut = [less(methods[m][figure]["sdmad_minus"]) for m in against]
                title = f"{cell['about']['title']}{f', within {part}' if part else ''}, K = {cell['shots']}"
                rows[title] = [with_patients(methods[BOTH_STAGES][figure]), *cut[:-1], f"{cut[-1]}: {best}"]
        heads = ["SD-MAD", "less random weights", "less pixels", "less image evidence", "less the best baseline"]
        lines += ["", f"{figure}:", "", *table("", rows, heads)]
    return lines


def set_lines(cells: list[dict]) -> list[str]:
    """One set: what it is, all methods, and SD-MAD minus each."""
    about, what = cells[0]["about"], cells[0]["what"]
    whose = f"of {about['patients']} patients" if about["patients"] else "(no patient is named)"
    half = "patients" if about["patients"] else "images"
    split = "parted as published" if about["split"] else f"parted into halves of {half}"
    every, abnormal = about["cardinality"]
    lines = [
        f"## {about['title']}",
        "",
        f"{about['modality'].capitalize()}; {about['citation']}. A part of it: {about['train']} images to draw from, "
        f"{about['test']} test images {whose}, {about['normal']} of them normal; {split}. Positives in test: "
        + ", ".join(f"{name} {count}" for name, count in about["positives"].items())
        + f". Labels an image: {every:.2f}, of those that are not normal {abnormal:.2f}.",
    ]
    if about["left_out"]:
        lines += ["", "Left out: " + "; ".join(f"{name} ({why})" for name, why in about["left_out"].items()) + "."]
    heads = [f"{figure}, K = {cell['shots']}" for figure in FIGURES for cell in cells]
    columns = [(figure, cell["parts"][""]) for figure in FIGURES for cell in cells]
    rows = {f"{m}: {what[m]}": [with_patients(methods[m][figure]) for figure, methods in columns] for m in what}
    lines += ["", *table("method", rows, heads), "", f"{BOTH_STAGES} minus the method:", ""]
    others = [m for m in what if m != BOTH_STAGES]
    rows = {m: [less(methods[m][figure]["sdmad_minus"]) for figure, methods in columns] for m in others}
    return [*lines, *table("method", rows, heads), ""]


def write_page(found: Path, page: Path) -> None:
    """The page of what was found."""
    data = json.loads(found.read_text(encoding="utf-8"))
    cells = data["cells"]
    lines = ["# Real images", "", f"{NOTICE} Made by `{data['command']}`.", ""]
    lines += [INTRO.format(**data), "", "## In short", *short(cells), ""]
    for name in dict.fromkeys(cell["data"] for cell in cells):
        lines += set_lines([cell for cell in cells if cell["data"] == name])
    write_text(page, "\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help writes nothing
    write_page(Path("docs/results/real_sets.json"), Path("docs/results/real_sets.md"))
