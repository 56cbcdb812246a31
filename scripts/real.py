"""Does pretraining on phantoms help on real radiographs? `python scripts/real.py DIR`.

DIR holds `labels.csv` and images of NIH ChestX-ray14 (docs/results/nih_chest14.md says which columns). The
embedded CLIP, the same architecture with random weights, and a pixel baseline get the same support draws;
each is scored on all test images and within the AP view. Writes docs/results/real_pretraining.md.
For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sdmad_lite.backbone import load_clip
from sdmad_lite.baselines import BASELINES
from sdmad_lite.data import load_folder, split_train_test
from sdmad_lite.experiment import OURS, eligible, run_experiment
from sdmad_lite.protocols import evaluate, mean_interval, paired
from sdmad_lite.report import write_json
from sdmad_lite.sealed import groups
from sdmad_lite.signs import load_bank

PAGE = Path("docs/results/real_pretraining.md")
PROBE, PIXELS = "linear probe", "pixels"
SHOWN = {
    "SD-MAD, embedded CLIP": ("embedded", OURS),
    "SD-MAD, random weights": ("random", OURS),
    "linear probe, embedded CLIP": ("embedded", PROBE),
    "linear probe, random weights": ("random", PROBE),
    "pixels (PCA and logistic regression)": ("embedded", PIXELS),
}
FIRST = next(iter(SHOWN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    bank = load_bank("nih_chest14")
    train, test = split_train_test(load_folder(args.data, bank.categories))
    kept = [c for c in bank.categories if c not in eligible(train, test, max(args.shots), 15)]
    bank, train, test = bank.restricted(kept), train.restricted(kept), test.restricted(kept)
    backbones = {"embedded": load_clip(), "random": load_clip("embedded", pretrained="random")}
    parts = {"all": np.arange(len(test)), "within AP": groups(test)["view=AP"]}
    positives = {name: test.labels[rows].sum(0) for name, rows in parts.items()}
    lines = [
        "# Does pretraining on phantoms help on real radiographs?",
        "",
        f"{len(train)} images to draw from, {len(test)} test images of a subset of NIH ChestX-ray14 (see "
        "[the other page](nih_chest14.md) for what it is). Findings, with positives in test (within AP): "
        + ", ".join(f"{c} {a} ({b})" for c, a, b in zip(kept, *positives.values(), strict=True))
        + f". Multi-label protocol, macro over findings; mean and 95 % interval over {args.draws} support draws, the "
        "same for every row. For teaching and research; not for clinical use.",
        "",
        f"Made by `python scripts/real.py DIR --draws {args.draws}`.",
    ]
    data, baselines = {}, {name: BASELINES[name] for name in (PROBE, PIXELS)}
    for shots in args.shots:
        runs = {
            name: run_experiment(
                train, test, bank, backbone, shots, range(args.draws), progress=True, baselines=baselines
            )
            for name, backbone in backbones.items()
        }
        scores = {(name, method): run.scores[method] for name, run in runs.items() for method in run.methods}
        lines += [
            "",
            f"## K = {shots}",
            "",
            "| | AUROC | AUROC within AP | mAP | mAP within AP | AUROC: first row minus this |",
        ]
        lines += ["|---|---|---|---|---|---|"]
        figures: dict[str, dict[str, list[float]]] = {}
        for title, key in SHOWN.items():
            results = {
                p: [evaluate(s[rows], test.labels[rows], kept) for s in scores[key]] for p, rows in parts.items()
            }
            figures[title] = {
                f"{figure} {part}": [r["multilabel"]["macro"][figure] for r in results[part]]
                for figure in ("auroc", "ap")
                for part in parts
            }
            cells = ("{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval(values)) for values in figures[title].values())
            versus = ""
            if title != FIRST:
                pair = paired(figures[FIRST]["auroc all"], figures[title]["auroc all"])
                versus = f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}], {pair['verdict']}"
            lines.append(f"| {title} | {' | '.join(cells)} | {versus} |")
        data[f"K={shots}"] = figures
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(PAGE.with_suffix(".json"), data)
    print(PAGE)


if __name__ == "__main__":
    main()
