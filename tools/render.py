"""A page from the metrics.json of `python -m sdmad_lite run`: `python tools/render.py NAME RUN_FOLDER`.

The text around the tables stands in docs/results/NAME_about.md. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sdmad_lite.evaluation.intervals import Interval, figure_text

FOLDER, ENDS = Path("docs/results"), ("mean", "low", "high")


def render(args: argparse.Namespace) -> None:
    """A page from the metrics.json of `python -m sdmad_lite run`; the text around it is in a file beside."""
    metrics = json.loads((args.run / "metrics.json").read_text(encoding="utf-8"))
    about = metrics["data"]

    results = Interval.from_dict(metrics)

    def figure(rows: tuple, name: str) -> str:
        return figure_text(*(getattr(row, name) for row in rows))

    lines = [(FOLDER / f"{args.name}_about.md").read_text(encoding="utf-8").rstrip(), ""]
    lines += [
        f"{about['train']} images to draw from, {about['test']} test images, {about['shots']} shots, "
        f"{about['draws']} draws.",
        "",
        "| finding | positives | detection AUROC | discrimination AUROC | multi-label AUROC | multi-label AP |",
        "|---|---|---|---|---|---|",
    ]
    detection, discrimination = dict(results.rows("detection")), dict(results.rows("discrimination"))
    for name, rows in results.rows("multilabel"):
        cells = [figure(every[name], "auroc") for every in (detection, discrimination)]
        cells += [figure(rows, "auroc"), figure(rows, "ap")]
        lines.append(f"| {name} | {rows[0].positives} | {' | '.join(cells)} |")
    lines += ["", "| method | macro mAP | macro AUROC | SD-MAD minus this, mAP | |", "|---|---|---|---|---|"]
    for name, row in metrics["methods"].items():
        pair = row["paired"]
        versus = (
            f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}] | {pair['verdict']}"
            if pair
            else " | "
        )
        cells = [figure_text(*(row["macro"][end][figure] for end in ENDS)) for figure in ("ap", "auroc")]
        lines.append(f"| {name} | {' | '.join(cells)} | {versus} |")
    lines += ["", "| within | positives | macro AUROC | macro AP |", "|---|---|---|---|"]
    for name, group in metrics["subgroups"].items():
        rows = Interval.from_dict(group).macro()
        lines.append(f"| {name} | {rows[0].positives} | {figure(rows, 'auroc')} | {figure(rows, 'ap')} |")
    left = "; ".join(f"{name} ({why})" for name, why in metrics["left_out"].items())
    lines += ["", f"Left out: {left or 'nothing'}.", "", metrics["notice"]]
    (FOLDER / f"{args.name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(FOLDER / f"{args.name}.md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("run", type=Path)
    render(parser.parse_args())
