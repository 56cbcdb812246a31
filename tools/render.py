"""A page from the metrics.json of `python -m sdmad_lite run`: `python tools/render.py NAME RUN_FOLDER`.

The text around the tables stands in docs/results/NAME_about.md. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

FOLDER = Path("docs/results")


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
    parser.add_argument("name")
    parser.add_argument("run", type=Path)
    render(parser.parse_args())
