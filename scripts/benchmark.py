"""Every method on every data set at every K: `make benchmark` fills docs/results.md.

    python scripts/benchmark.py                              # phantoms of the kept-out categories
    python scripts/benchmark.py --real DIR                   # and NIH radiographs, see docs/results/nih_chest14.md
    python scripts/benchmark.py --methods quick --shots 1 4 16

A cell is one data set at one K; its result is one file in build/benchmark, so that a stopped run goes on with
the next cell and a changed method, model or draw is measured anew. The support draws are the files in
scripts/episodes; each test set is opened once per cell. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdmad_lite import plots
from sdmad_lite.adapters import AdapterConfig
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.backbone import Backbone, load_clip
from sdmad_lite.baselines import BASELINES, ON_FEATURES, Method
from sdmad_lite.data import ImageTable, load_folder, split_train_test
from sdmad_lite.episodes import Episodes, draw_episodes, load_episodes
from sdmad_lite.experiment import OURS, STAGE1, eligible, run_experiment
from sdmad_lite.phantoms import CHEST, MODALITIES, Modality, sample_phantoms
from sdmad_lite.protocols import mean_interval, paired
from sdmad_lite.report import write_json
from sdmad_lite.selection import SelectionConfig
from sdmad_lite.signs import SignBank, load_bank

CELLS, EPISODES, PAGE, FIGURES = (
    Path("build/benchmark"),
    Path("scripts/episodes"),
    Path("docs/results.md"),
    Path("docs/results"),
)
SHOTS, DRAWS = (1, 2, 4, 8, 16), 5
TRAIN, TEST, SEED = 600, 800, 1000
SETS = {"quick": ON_FEATURES, "all": BASELINES}
REAL = "nih"
NOTICE = "For teaching and research; not for clinical use."


@dataclass(frozen=True)
class DataSet:
    """What one row of cells is measured on."""

    name: str
    about: str
    bank: SignBank
    train: ImageTable
    test: ImageTable


def phantom_table(count: int, seed: int, kind: Modality = CHEST) -> ImageTable:
    """Phantoms as a table, all categories of the modality drawn, labels of the kept-out ones."""
    drawn = list(sample_phantoms(count, seed, modality=kind.name))
    categories = kind.bank.categories
    labels = np.array([[int(c in p.categories) for c in categories] for p in drawn])
    meta = {name: tuple(str(getattr(p.patient, name)) for p in drawn) for name in ("patient_id", "sex", "site")}
    return ImageTable(tuple(p.image for p in drawn), labels, categories, meta).restricted(kind.kept_out)


def phantom_set(kind: Modality) -> DataSet:
    train, test = (phantom_table(count, SEED + i, kind) for i, count in enumerate((TRAIN, TEST)))
    about = f"{kind.bank.modality}, phantoms: categories that the embedded CLIP never saw"
    return DataSet(kind.name, about, kind.bank.restricted(list(kind.kept_out)), train, test)


def real_set(folder: Path) -> DataSet:
    bank = load_bank("nih_chest14")
    train, test = split_train_test(load_folder(folder, bank.categories))
    left_out = eligible(train, test, max(SHOTS), 15)
    kept = [c for c in bank.categories if c not in left_out]
    about = "NIH ChestX-ray14, a subset (see [its page](results/nih_chest14.md))"
    return DataSet(REAL, about, bank.restricted(kept), train.restricted(kept), test.restricted(kept))


def episodes_of(data: DataSet) -> Episodes:
    """The shipped draws, or new ones where the file is missing."""
    path = EPISODES / f"{data.name}.json"
    if not path.exists():
        EPISODES.mkdir(parents=True, exist_ok=True)
        draw_episodes(data.train, SHOTS, DRAWS, name=data.name).save(path)
    return load_episodes(path)


def measured(data: DataSet, shots: int, backbone: Backbone, methods: dict[str, Method]) -> dict:
    """One cell, from its file where that answers the same question."""
    episodes = episodes_of(data)
    settings = [AdapterConfig(), AlignmentConfig(), SelectionConfig(), methods, data.bank.model_dump_json()]
    question = repr([backbone.fingerprint, episodes.sha256, data.test.labels.tolist(), shots, *settings])
    key = hashlib.sha256(question.encode()).hexdigest()
    path = CELLS / f"{data.name}_k{shots}.json"
    if path.exists() and (cell := json.loads(path.read_text()))["key"] == key:
        return cell
    start, seeds = time.monotonic(), range(DRAWS)
    support = [episodes.rows(data.train, shots, draw) for draw in seeds]
    run = run_experiment(data.train, data.test, data.bank, backbone, shots, seeds, baselines=methods, support=support)
    kept = [row["kept"] for d in run.detectors for rows in d.selected_signs().values() for row in rows]
    cell = {
        "key": key,
        "data": data.name,
        "shots": shots,
        "positives": dict(zip(data.bank.categories, data.test.labels.sum(0).tolist(), strict=True)),
        "test": len(data.test),
        "what": run.methods,
        "kept": [sum(kept), len(kept)],
        "seconds": round(time.monotonic() - start),
        "results": run.results,
        "within": run.within,
    }
    CELLS.mkdir(parents=True, exist_ok=True)
    write_json(path, cell)
    return cell


def series(cell: dict, method: str, figure: str = "ap") -> list[float]:
    """One macro figure of the multi-label protocol, of every draw."""
    return [result["multilabel"]["macro"][figure] for result in cell["results"][method]]


def shown(values: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval(values))


def table(values: dict[str, dict[int, list[float]]], what: dict[str, str]) -> list[str]:
    """Methods by K: mean and interval, then SD-MAD minus the method with its verdict."""
    shots = list(next(iter(values.values())))
    lines = ["| method | " + " | ".join(f"K = {k}" for k in shots) + " |", "|---" * (len(shots) + 1) + "|"]
    for name, row in values.items():
        lines.append(f"| {name}: {what[name]} | " + " | ".join(shown(row[k]) for k in shots) + " |")
    lines += ["", f"{OURS} minus the method, paired over draws; bold where the interval excludes zero:", ""]
    lines += ["| method | " + " | ".join(f"K = {k}" for k in shots) + " |", "|---" * (len(shots) + 1) + "|"]
    for name, row in values.items():
        if name != OURS:
            pairs = [paired(values[OURS][k], row[k]) for k in shots]
            cells = [f"{p['difference']:+.3f} [{p['low']:+.3f}, {p['high']:+.3f}]" for p in pairs]
            clear = [p["verdict"] != "no difference shown" for p in pairs]
            cells = [f"**{c}**" if sure else c for c, sure in zip(cells, clear, strict=True)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def page(cells: dict[str, dict[int, dict]], about: dict[str, str], command: str) -> None:
    """docs/results.md and its figures, from all cells."""
    phantoms = [name for name in cells if name != REAL]
    first = next(iter(cells[phantoms[0]].values()))
    methods, shots = first["what"], list(cells[phantoms[0]])
    lines = ["# Few shots of new categories", "", f"{NOTICE} Made by `{command}`.", ""]
    lines += [
        f"Macro mAP of the multi-label protocol, mean and 95 % interval over {DRAWS} support draws, the same for "
    ]
    lines[-1] += "every method; the intervals speak of other draws, not of other test images. All on the embedded CLIP."
    overall = {
        m: {k: np.mean([series(cells[n][k], m) for n in phantoms], axis=0).tolist() for k in shots} for m in methods
    }
    sections = [("All phantoms", "Mean over the modalities, draw by draw.", "overall", overall)]
    for name, row in cells.items():
        positives = ", ".join(f"{c} {n}" for c, n in row[shots[0]]["positives"].items())
        kept = ", ".join(f"K = {k}: {cell['kept'][0]} of {cell['kept'][1]}" for k, cell in row.items())
        text = f"{about[name]}. Test: {row[shots[0]]['test']} images; positives: {positives}. Signs kept by stage 2 "
        text += f"(over categories and draws): {kept}."
        values = {m: {k: series(cell, m) for k, cell in row.items()} for m in methods}
        sections.append((name, text, name, values))
    for title, text, file, values in sections:
        intervals = {m: {k: mean_interval(v) for k, v in row.items()} for m, row in values.items()}
        plots.plot_shots(intervals, "macro mAP", title).savefig(FIGURES / f"shots_{file}.png", dpi=90)
        lines += ["", f"## {title}", "", text, "", *table(values, methods), "", f"![{title}](results/shots_{file}.png)"]
        gain = [paired(values[OURS][k], values[STAGE1][k]) for k in values[OURS]]
        lines += ["", "Stage 2 changes stage 1 by " + ", ".join(f"{g['difference']:+.3f}" for g in gain) + "."]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(PAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with labels.csv of NIH radiographs")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS, choices=SHOTS)
    parser.add_argument("--methods", choices=SETS, default="all")
    args = parser.parse_args()
    sets = [phantom_set(kind) for kind in MODALITIES.values()] + ([real_set(args.real)] if args.real else [])
    backbone, cells = load_clip(), {data.name: {} for data in sets}
    for shots, data in tqdm([(k, d) for k in args.shots for d in sets], desc="cells"):
        cells[data.name][shots] = measured(data, shots, backbone, SETS[args.methods])
    command = f"python scripts/benchmark.py --methods {args.methods} --shots {' '.join(map(str, args.shots))}"
    page(cells, {data.name: data.about for data in sets}, command + (" --real DIR" if args.real else ""))


if __name__ == "__main__":
    main()
