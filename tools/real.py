"""Does pretraining on phantoms help on real radiographs? `python tools/real.py DIR`.

DIR holds `labels.csv` and images of NIH ChestX-ray14 (docs/results/nih_chest14.md says which columns). The
embedded CLIP, the same architecture with random weights, and a pixel baseline get the same support draws;
each is scored on all test images and within the AP view. Writes docs/results/real_pretraining.md.
For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
from research_baselines import BASELINES
from shared import difference, table

from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import load_folder
from sdmad_lite.evaluation.experiment import BOTH_STAGES, Settings, eligible_split, groups, run_experiment
from sdmad_lite.evaluation.intervals import figure_text, mean_interval, paired
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.show.report import write_json
from sdmad_lite.signs.bank import load_bank

PAGE = Path("docs/results/real_pretraining.md")
PROBE, PIXELS = "linear probe", "pixels"
SHOWN = {
    "SD-MAD, embedded CLIP": ("embedded", BOTH_STAGES),
    "SD-MAD, random weights": ("random", BOTH_STAGES),
    "linear probe, embedded CLIP": ("embedded", PROBE),
    "linear probe, random weights": ("random", PROBE),
    "pixels (PCA and logistic regression)": ("embedded", PIXELS),
}
COMPARED = {
    "pretraining, in SD-MAD": ("SD-MAD, embedded CLIP", "SD-MAD, random weights"),
    "pretraining, in the linear probe": ("linear probe, embedded CLIP", "linear probe, random weights"),
    "SD-MAD, embedded CLIP, over pixels": ("SD-MAD, embedded CLIP", "pixels (PCA and logistic regression)"),
}
PARTS = ("all", "within AP")
FIGURES = [(figure, part) for figure in ("AUROC", "mAP") for part in PARTS]


def measure(folder: Path, shots: list[int], draws: int) -> dict:
    """Every figure of every draw: K -> title -> "AUROC all" and so on -> values; and what was measured on."""
    bank = load_bank("nih_chest14")
    train, test, _ = eligible_split(load_folder(folder, bank.categories), max(shots), 15)
    kept, bank = train.categories, bank.restricted(list(train.categories))
    backbones = {"embedded": load_clip(), "random": load_clip("embedded", pretrained="random")}
    parts = dict(zip(PARTS, (np.arange(len(test)), groups(test)["view=AP"]), strict=True))
    data = {"train": len(train), "test": len(test), "draws": draws, "shots": {}}
    data["positives"] = {c: [int(test.labels[rows, i].sum()) for rows in parts.values()] for i, c in enumerate(kept)}
    settings = Settings(baselines={name: BASELINES[name] for name in (PROBE, PIXELS)})
    for k in shots:
        runs = {
            name: run_experiment(train, test, bank, backbone, k, range(draws), settings, progress=True)
            for name, backbone in backbones.items()
        }
        data["shots"][str(k)] = {}
        for title, (name, method) in SHOWN.items():
            macro = {
                part: [evaluate(s[rows], test.labels[rows], kept).multilabel.macro for s in runs[name].scores[method]]
                for part, rows in parts.items()
            }
            data["shots"][str(k)][title] = {
                f"{figure} {part}": [row.auroc if figure == "AUROC" else row.ap for row in macro[part]]
                for figure, part in FIGURES
            }
    return data


def page(data: dict) -> str:
    counts = ", ".join(f"{name} {every} ({within})" for name, (every, within) in data["positives"].items())
    lines = [
        "# Does pretraining on phantoms help on real radiographs?",
        "",
        f"{data['train']} images to draw from, {data['test']} test images of a subset of NIH ChestX-ray14 (see "
        f"[the other page](nih_chest14.md) for what it is). Findings, with positives in test (within AP): {counts}. "
        f"Multi-label protocol, macro over findings; mean and 95 % interval over {data['draws']} support draws, the "
        "same for every row. For teaching and research; not for clinical use.",
        "",
        "The same architecture with random weights is the honest comparison: the test images of an earlier model were "
        "seen when pretraining was changed ([why](../embedded_clip.md#what-was-tried)), so small gains prove little.",
        "",
        f"Made by `python tools/real.py DIR --draws {data['draws']}`.",
    ]
    heads = [f"{figure} {part}".removesuffix(" all") for figure, part in FIGURES]
    for k, rows in data["shots"].items():
        means = {title: [figure_text(*mean_interval(v)) for v in figures.values()] for title, figures in rows.items()}
        gains = {
            name: [difference(asdict(paired(rows[ours][figure], rows[theirs][figure]))) for figure in rows[ours]]
            for name, (ours, theirs) in COMPARED.items()
        }
        lines += ["", f"## K = {k}", "", *table("", means, heads)]
        lines += ["", "Gains, paired over draws; bold where the interval excludes zero:", "", *table("", gains, heads)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with labels.csv of NIH radiographs")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    found = measure(args.data, args.shots, args.draws)
    write_json(PAGE.with_suffix(".json"), found)
    PAGE.write_text(page(found), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
