"""Fill docs/results/ with measured tables and figures.

    python scripts/results.py phantoms                  # kept-out categories on phantoms, K = 1, 4, 16
    python scripts/results.py render NAME RUN_FOLDER    # a page from the metrics.json of a run

Every number on the pages comes from one of these commands. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from sdmad_lite import plots
from sdmad_lite.backbone import load_clip
from sdmad_lite.data import ImageTable
from sdmad_lite.experiment import METHODS, OURS, STAGE1, ZERO, run_experiment
from sdmad_lite.phantoms import KEPT_OUT, chest_bank, sample_phantoms
from sdmad_lite.protocols import mean_interval
from sdmad_lite.report import write_json

FOLDER = Path("docs/results")


def phantom_table(count: int, seed: int) -> ImageTable:
    """Phantoms as a table, all nine categories drawn, labels of the kept-out ones."""
    drawn = list(sample_phantoms(count, seed))
    categories = chest_bank().categories
    labels = np.array([[int(c in p.categories) for c in categories] for p in drawn])
    meta = {name: tuple(str(getattr(p.patient, name)) for p in drawn) for name in ("patient_id", "sex", "site")}
    return ImageTable(tuple(p.image for p in drawn), labels, categories, meta).restricted(KEPT_OUT)


def cell(values: list[float]) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def phantoms(args: argparse.Namespace) -> None:
    """Categories that the embedded CLIP never saw, from few shots."""
    train, test = phantom_table(args.train, args.seed), phantom_table(args.test, args.seed + 1)
    bank, backbone = chest_bank().restricted(list(KEPT_OUT)), load_clip()
    positives = dict(zip(KEPT_OUT, test.labels.sum(0).tolist(), strict=True))
    counts = ", ".join(f"{count} with {name}" for name, count in positives.items())
    lines = [
        "# Kept-out categories on phantoms",
        "",
        f"{', '.join(KEPT_OUT)}: never drawn in pretraining. Test: {len(test)} phantoms ({counts}), "
        f"{args.draws} support draws from {len(train)} phantoms of other patients. Macro mAP and AUROC of the "
        "multi-label protocol, mean and 95 % interval over draws. For teaching and research; not for clinical use.",
        "",
        f"Made by `python scripts/results.py phantoms --draws {args.draws} --seed {args.seed}`.",
    ]
    data: dict = {
        "positives": positives,
        "test": len(test),
        "train": len(train),
        "draws": args.draws,
        "seed": args.seed,
    }
    for shots in args.shots:
        run = run_experiment(train, test, bank, backbone, shots, range(args.draws), progress=True)
        lines += [
            "",
            f"## K = {shots}",
            "",
            "| method | mAP | AUROC | SD-MAD minus this, mAP | |",
            "|---|---|---|---|---|",
        ]
        data[f"K={shots}"] = {}
        for method in METHODS:
            pair = run.compare(OURS, method)
            row = {"ap": run.series(method), "auroc": run.series(method, figure="auroc"), "paired_ap": pair}
            data[f"K={shots}"][method] = row
            versus = "" if method == OURS else f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]"
            verdict = "" if method == OURS else pair["verdict"]
            lines.append(f"| {method} | {cell(row['ap'])} | {cell(row['auroc'])} | {versus} | {verdict} |")
        gains = run.compare(OURS, STAGE1)
        kept = [row["kept"] for d in run.detectors for rows in d.selected_signs().values() for row in rows]
        lines += [
            "",
            f"Stage 2 changes stage 1 by {gains['difference']:+.3f} [{gains['low']:+.3f}, {gains['high']:+.3f}] mAP; "
            f"it kept {sum(kept)} of {len(kept)} signs (over draws). SD-MAD against zero-shot signs: "
            f"{run.compare(OURS, ZERO)['verdict']}.",
        ]
        rows = {method: mean_interval(run.series(method)) for method in METHODS}
        name = f"phantoms_k{shots}.png"
        plots.plot_methods(rows, "macro mAP", f"Kept-out categories, K = {shots}").savefig(FOLDER / name, dpi=110)
        lines += ["", f"![mAP of each method, K = {shots}]({name})"]
    write_json(FOLDER / "phantoms.json", data)
    (FOLDER / "phantoms.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(FOLDER / "phantoms.md")


def render(args: argparse.Namespace) -> None:
    """A page from the metrics.json of `python -m sdmad_lite run`; the text around it is in a file beside."""
    metrics = json.loads((args.run / "metrics.json").read_text(encoding="utf-8"))
    about = metrics["data"]

    def figure(row: dict, name: str) -> str:
        if row.get(name) is None:
            return "n/a"
        low, high = row[f"{name}_interval"]
        return f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"

    lines = [(FOLDER / f"{args.name}_about.md").read_text(encoding="utf-8").rstrip(), ""]
    lines += [
        f"{about['train']} images to draw from, {about['test']} test images, {about['shots']} shots, "
        f"{about['draws']} draws.",
        "",
        "| finding | positives | detection AUROC | discrimination AUROC | multi-label AUROC | multi-label AP |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in metrics["multilabel"].items():
        others = [figure(metrics[p][name], "auroc") for p in ("detection", "discrimination")]
        lines.append(
            f"| {name} | {row['positives']} | {' | '.join(others)} | {figure(row, 'auroc')} | {figure(row, 'ap')} |"
        )
    lines += ["", "| method | macro mAP | macro AUROC | SD-MAD minus this, mAP | |", "|---|---|---|---|---|"]
    for name, row in metrics["methods"].items():
        pair = row["paired"]
        versus = (
            f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}] | {pair['verdict']}"
            if pair
            else " | "
        )
        lines.append(f"| {name} | {figure(row['macro'], 'ap')} | {figure(row['macro'], 'auroc')} | {versus} |")
    lines += ["", "| within | positives | macro AUROC | macro AP |", "|---|---|---|---|"]
    for name, protocols in metrics["within"].items():
        row = protocols["multilabel"]["macro"]
        lines.append(f"| {name} | {row['positives']} | {figure(row, 'auroc')} | {figure(row, 'ap')} |")
    left = "; ".join(f"{name} ({why})" for name, why in metrics["left_out"].items())
    lines += ["", f"Left out: {left or 'nothing'}.", "", metrics["notice"]]
    (FOLDER / f"{args.name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(FOLDER / f"{args.name}.md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("phantoms")
    sub.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    sub.add_argument("--draws", type=int, default=5)
    sub.add_argument("--seed", type=int, default=1000)
    sub.add_argument("--train", type=int, default=600)
    sub.add_argument("--test", type=int, default=800)
    sub = commands.add_parser("render")
    sub.add_argument("name")
    sub.add_argument("run", type=Path)
    arguments = parser.parse_args()
    (phantoms if arguments.command == "phantoms" else render)(arguments)
