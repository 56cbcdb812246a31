"""From docs/results/summary.json to few_shots.md beside it and their figures: nothing else is read.

python tools/benchmark_page.py
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

from benchmark_plots import plot_gains, plot_shots
from shared import difference, less, number, table, with_patients

from sdmad_lite.evaluation.experiment import BOTH_STAGES, NO_TRAINING, OWN, SIGNS_ONLY, STAGE_1, ZERO_SHOT
from sdmad_lite.files import NOTICE

ALL = "all phantoms"


def method_tables(data: dict[str, dict], what: dict[str, str]) -> list[str]:
    """mAP of all methods, their paired differences, and AUROC."""
    shots, lines = list(data), []
    methods = list(data[shots[0]]["methods"])
    for figure in ("mAP", "AUROC"):
        rows = {f"{m}: {what[m]}": [number(data[k]["methods"][m][figure]) for k in shots] for m in methods}
        lines += ["", f"Macro {figure}:", "", *table("method", rows, shots)]
        others = [m for m in methods if m != BOTH_STAGES]
        rows = {m: [difference(data[k]["methods"][m]["sdmad_minus"][figure]) for k in shots] for m in others}
        lines += ["", f"{BOTH_STAGES} minus the method, {figure}:", "", *table("method", rows, shots)]
    return lines


def counts(row: dict) -> str:
    """Signs kept of all, and the share of true ones among kept and dropped."""
    total = row["kept"] + row["dropped"]
    text = f"{row['kept']} of {total}"
    if row["kept_true"] is None:
        return text
    parts = (("kept", row["kept_true"], row["kept"]), ("dropped", row["dropped_true"], row["dropped"]))
    return text + "; true: " + ", ".join(f"{name} {true / n:.2f}" if n else f"{name} n/a" for name, true, n in parts)


def selection_tables(banks: dict[str, dict]) -> list[str]:
    """What selection gains on each bank, with and without stage 1, and which signs it keeps."""
    lines: list[str] = []
    titles = {
        "stage2": f"{SIGNS_ONLY} minus {STAGE_1}",
        "training_free": f"{NO_TRAINING} minus {ZERO_SHOT}",
        "image_evidence": f"{BOTH_STAGES} minus {SIGNS_ONLY}",
    }
    shots = [k for k in next(iter(banks.values()))[ALL] if all(k in sets[ALL] for sets in banks.values())]
    for gain, title in titles.items():
        rows = {
            f"{bank}, {name}": [difference(data[k]["selection_gain"][gain]["mAP"]) for k in shots]
            for bank, sets in banks.items()
            for name, data in sets.items()
            if all(k in data for k in shots)
        }
        lines += ["", f"{title}, macro mAP:", "", *table("bank, images", rows, shots)]
    rows = {
        f"{bank}, {name}, {method}": [counts(data[k]["signs"][method]) for k in shots]
        for bank, sets in banks.items()
        for name, data in sets.items()
        for method in (BOTH_STAGES, NO_TRAINING)
        if all(k in data and "signs" in data[k] for k in shots)
    }
    lines += ["", "Signs kept, over draws and categories, and how many of them are true:", ""]
    return lines + table("bank, images, mode", rows, shots)


def more_lines(more: dict[str, dict]) -> list[str]:
    """The section of more shots: figures and differences with intervals over draws and over patients."""
    if not more:
        return []
    heads, methods = list(more), list(next(iter(more.values())))
    lines = ["", "## More shots, and other patients", ""]
    lines += [
        "SD-MAD, its parts and the baselines on features, drawn from a larger pool (`make benchmark ARGS=--more`), "
        "mean over the modalities. In square brackets the 95 % interval over support draws; in round ones over "
        "patients of the test sets, drawn with replacement, for the same detectors. Differences are bold where both "
        "exclude zero.",
    ]
    for figure in ("mAP", "AUROC"):
        rows = {m: [with_patients(more[k][m][figure]) for k in heads] for m in methods}
        lines += ["", f"Macro {figure}:", "", *table("method", rows, heads)]
        rows = {m: [less(more[k][m][figure]["sdmad_minus"]) for k in heads] for m in methods if m != BOTH_STAGES}
        lines += ["", f"{BOTH_STAGES} minus the method, {figure}:", "", *table("method", rows, heads)]
    return lines


def shots_file(name: str) -> str:
    return f"shots_{name.replace(' ', '_')}.png"


def figures(summary: dict, folder: Path) -> None:
    """Methods over K for each data set, and the gains of selection over banks."""
    for name, data in summary["banks"]["clean"].items():
        rows = {
            method: {int(k): tuple(data[k]["methods"][method]["mAP"][x] for x in ("mean", "low", "high")) for k in data}
            for method in next(iter(data.values()))["methods"]
        }
        last = max(rows[BOTH_STAGES])
        best = max((m for m in rows if m not in OWN), key=lambda m: rows[m][last][0])
        two = f"SD-MAD {rows[BOTH_STAGES][last][0]:.2f}, the best baseline ({best}) {rows[best][last][0]:.2f}"
        title = f"{name}: at K = {last} {two}"
        plot_shots(rows, "macro mAP", title).savefig(folder / shots_file(name), dpi=90)
    gains = {
        gain: {
            bank: {int(k): row["selection_gain"][gain]["mAP"] for k, row in sets[ALL].items()}
            for bank, sets in summary["banks"].items()
            if ALL in sets
        }
        for gain in ("training_free", "stage2")
    }
    titles = {"training_free": "without stage 1: over zero-shot", "stage2": "after stage 1: over all signs"}
    plot_gains(gains, titles).savefig(folder / "selection.png", dpi=90)


def write_page(summary_file: Path, page: Path) -> None:
    """The page beside its figures, in the summary's folder."""
    summary = json.loads(summary_file.read_text(encoding="utf-8"))
    clean, what = summary["banks"]["clean"], summary["what"]
    figures(summary, summary_file.parent)
    lines = ["# Few shots of new categories", "", f"{NOTICE} Made by `{summary['command']}`.", ""]
    lines += [
        f"Macro figures of the multi-label protocol, mean and 95 % interval over {summary['draws']} support draws, the "
        "same for every method; differences are paired over these draws and bold where their interval excludes zero. "
        "The intervals speak of other draws, not of other test images"
        + "; for those over patients see the section of more shots"
        * bool(summary.get("more"))
        + ". All on the embedded CLIP. All numbers are in "
        "[summary.json](summary.json). SD-MAD is stage 1, stage 2 and image evidence; its parts stand in rows "
        "of their own. What led to it: [tried](../results.md#what-was-tried-and-what-it-did)."
    ]
    for name in (ALL, *(n for n in clean if n != ALL)):
        data = clean[name]
        lines += ["", f"## {name.capitalize()}", ""]
        if name == ALL:
            lines.append("Mean over the modalities, draw by draw.")
        else:
            first = next(iter(data.values()))
            positives = ", ".join(f"{c} {n}" for c, n in first["positives"].items())
            each = sum(first["positives"].values()) / first["test"]
            test = f"Test: {first['test']} images, {each:.2f} labels each; positives: {positives}."
            lines.append(f"{summary['about'][name]}. {test}")
        lines += ["", f"![{name}]({shots_file(name)})", *method_tables(data, what)]
    lines += ["", "## Selection", ""]
    lines += [
        "What stage 2 adds, on the bank as drawn and on dirty ones: with wrong signs (those of other categories) up to "
        "the share named, and one of about 30 signs a category as a language model wrote it without sight of the "
        "phantoms (tools/banks). A sign is true where the phantoms of its category are drawn with it; of the "
        "language model's signs this is not known.",
        "",
        "![selection](selection.png)",
        *selection_tables(summary["banks"]),
    ]
    for bank, sets in summary["banks"].items():
        if bank != "clean":
            lines += ["", f"### Bank: {bank}", "", "Mean over the modalities.", *method_tables(sets[ALL], what)]
    lines += more_lines(summary.get("more", {}))
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help writes nothing
    write_page(Path("docs/results/summary.json"), Path("docs/results/few_shots.md"))
