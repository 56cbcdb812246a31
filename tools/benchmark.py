"""Every method on every data set at every K: `make benchmark` fills docs/results/few_shots.md.

    python tools/benchmark.py                # phantoms of the kept-out categories, clean and dirty sign banks
    python tools/benchmark.py --more         # only a section: K up to 64 and intervals over patients, on features
    python tools/benchmark.py --quick        # chest only, K = 1, 4, 16, one dirty bank: make benchmark QUICK=1

Real images are measured by tools/real_sets.py.

A cell is one data set with one sign bank at one K. Its result is one file in build/benchmark, so that a stopped run
goes on with the next cell and a changed method, model or draw is measured anew. The support draws are the files in
tools/episodes; each test set is opened once per cell. docs/results/summary.json holds what was found, and the page
and its figures are made from that file alone. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_page import write_page
from research_baselines import BASELINES
from shared import by_patient, one_thread, resumed, spread, two_intervals
from tqdm import tqdm

from sdmad_course.episodes import Episodes, draw_episodes, load_episodes
from sdmad_course.wrong_signs import with_wrong_signs
from sdmad_lite.alignment import AdapterConfig, AlignmentConfig
from sdmad_lite.clip.backbone import Backbone, load_clip
from sdmad_lite.data import ImageTable
from sdmad_lite.evaluation.baselines import ON_FEATURES, Method
from sdmad_lite.evaluation.experiment import (
    BOTH_STAGES,
    NO_TRAINING,
    SIGNS_ONLY,
    STAGE_1,
    ZERO_SHOT,
    Settings,
    run_experiment,
)
from sdmad_lite.evaluation.intervals import paired
from sdmad_lite.selection import TRAINING_FREE, EvidenceConfig, SelectionConfig
from sdmad_lite.show.report import write_json
from sdmad_lite.signs.bank import SignBank, load_bank
from sdmad_phantoms import CHEST, MODALITIES, Modality, modality_named, sample_phantoms

CELLS, EPISODES, BANKS = Path("build/benchmark"), Path("tools/episodes"), Path("tools/banks")
SUMMARY, PAGE = Path("docs/results/summary.json"), Path("docs/results/few_shots.md")
SHOTS, QUICK_SHOTS, NOISY_SHOTS, DRAWS = (1, 2, 4, 8, 16), (1, 4, 16), (4, 16), 5
TRAIN, TEST, SEED = 600, 800, 1000
CLEAN = "clean"
MORE, MORE_SHOTS, MORE_TRAIN = "more shots", (4, 16, 64), 2000
WRONG = {"30 % wrong": 0.3, "50 % wrong": 0.5}
LARGE = "language model"
NOISY = (*WRONG, LARGE)


@dataclass(frozen=True)
class DataSet:
    """What one row of cells is measured on. `true`: for each category the texts of its true signs, None if unknown."""

    name: str
    about: str
    bank: SignBank
    train: ImageTable
    test: ImageTable
    true: Mapping[str, list[str]] | None


def phantom_table(count: int, seed: int, kind: Modality = CHEST) -> ImageTable:
    """Phantoms as a table, all categories of the modality drawn, labels of the kept-out ones."""
    drawn = list(sample_phantoms(count, seed, modality=kind.name))
    categories = kind.bank.categories
    labels = np.array([[int(c in p.categories) for c in categories] for p in drawn])
    meta = {name: tuple(str(getattr(p.patient, name)) for p in drawn) for name in ("patient_id", "sex", "site")}
    return ImageTable(tuple(p.image for p in drawn), labels, categories, meta).restricted(kind.kept_out)


def phantom_bank(kind: Modality, variant: str = CLEAN) -> SignBank:
    """Signs of the kept-out categories: as drawn, with wrong ones from all other categories, or a language model's."""
    if variant == LARGE:
        return load_bank(BANKS / f"{kind.name}_language_model.json")
    bank = kind.bank if variant in (CLEAN, MORE) else with_wrong_signs(kind.bank, WRONG[variant], seed=0)
    return bank.restricted(list(kind.kept_out))


@lru_cache(maxsize=1)
def phantom_tables(name: str) -> tuple[ImageTable, ImageTable]:
    return tuple(phantom_table(count, SEED + i, modality_named(name)) for i, count in enumerate((TRAIN, TEST)))


@lru_cache(maxsize=1)
def large_pool(name: str) -> ImageTable:
    """To draw many shots from, so that draws differ."""
    return phantom_table(MORE_TRAIN, SEED + 2, modality_named(name))


def data_set(name: str, variant: str = CLEAN) -> DataSet:
    """A modality of phantoms with one of the banks."""
    kind, (train, test) = modality_named(name), phantom_tables(name)
    train = large_pool(name) if variant == MORE else train
    about = f"{kind.bank.modality}, phantoms: categories that the embedded CLIP never saw"
    true = None if variant == LARGE else {c: kind.bank.signs_of(c) for c in kind.kept_out}
    return DataSet(name, about, phantom_bank(kind, variant), train, test, true)


def episodes_of(data: DataSet, variant: str = CLEAN) -> Episodes:
    """The shipped draws, or new ones where the file is missing; those of more shots are in no file."""
    if variant == MORE:
        return draw_episodes(data.train, MORE_SHOTS, DRAWS, name=data.name)
    path = EPISODES / f"{data.name}.json"
    if not path.exists():
        EPISODES.mkdir(parents=True, exist_ok=True)
        draw_episodes(data.train, SHOTS, DRAWS, name=data.name).save(path)
    return load_episodes(path)


def shipped() -> list:
    """The settings that a cell's result hangs on."""
    return [AdapterConfig(), AlignmentConfig(), SelectionConfig(), EvidenceConfig(), TRAINING_FREE]


def measured(data: DataSet, variant: str, shots: int, backbone: Backbone, methods: dict[str, Method]) -> dict:
    """One cell, from its file where that answers the same question."""
    episodes, seeds = episodes_of(data, variant), range(DRAWS)
    settings = [*shipped(), methods, data.bank.model_dump_json()]
    question = [backbone.fingerprint, episodes.sha256, data.test.labels.tolist(), shots, DRAWS, *settings]

    def measure() -> dict[str, Any]:
        support = [episodes.rows(data.train, shots, draw) for draw in seeds]
        given = Settings(baselines=methods, support=support)
        run = run_experiment(data.train, data.test, data.bank, backbone, shots, seeds, given)
        test = data.test
        patients = by_patient(run.scores, test.labels, test.patients()) if variant == MORE else None
        chosen = {BOTH_STAGES: run.detectors, NO_TRAINING: run.training_free}
        return {
            "data": data.name,
            "about": data.about,
            "bank": variant,
            "shots": shots,
            "positives": dict(zip(data.bank.categories, data.test.labels.sum(0).tolist(), strict=True)),
            "test": len(data.test),
            "what": run.methods,
            "signs": {name: sign_counts([d.weights_ for d in fitted], data) for name, fitted in chosen.items()},
            "results": {method: [asdict(result) for result in draws] for method, draws in run.results.items()},
            "patients": patients,
            "subgroups": {group: [asdict(result) for result in draws] for group, draws in run.subgroups.items()},
        }

    return resumed(
        CELLS / f"{data.name}_{variant.replace(' % ', '_').replace(' ', '_')}_k{shots}.json", question, measure
    )


def sign_counts(weights: list[np.ndarray], data: DataSet) -> dict[str, int | None]:
    """Over draws and categories: signs kept and dropped, and how many of each are true ones of the category."""
    counts = {"kept": 0, "kept_true": 0, "dropped": 0, "dropped_true": 0}
    for w in weights:
        for c, category in enumerate(data.bank.categories):
            for s in np.flatnonzero(data.bank.membership()[c + 1]):
                side = "kept" if w[c, s] else "dropped"
                counts[side] += 1
                counts[f"{side}_true"] += data.true is not None and data.bank.texts[s] in data.true[category]
    return counts if data.true is not None else counts | {"kept_true": None, "dropped_true": None}


def series(cell: dict, method: str, figure: str) -> list[float]:
    """One macro figure of the multi-label protocol, of every draw."""
    return [result["multilabel"]["macro"][figure] for result in cell["results"][method]]


def summarised(values: dict[str, dict[str, list[float]]]) -> dict:
    """method -> figure -> draws, as mean and interval, and for all but SD-MAD the paired difference SD-MAD minus it."""
    out = {}
    for method, figures in values.items():
        row = {name: spread(v) for name, v in figures.items()}
        if method != BOTH_STAGES:
            row["sdmad_minus"] = {name: asdict(paired(values[BOTH_STAGES][name], v)) for name, v in figures.items()}
        out[method] = row
    gains = {
        "stage2": (SIGNS_ONLY, STAGE_1),
        "training_free": (NO_TRAINING, ZERO_SHOT),
        "image_evidence": (BOTH_STAGES, SIGNS_ONLY),
    }
    pairs = {name: (values[a], values[b]) for name, (a, b) in gains.items()}
    return {
        "methods": out,
        "selection_gain": {name: {f: asdict(paired(a[f], b[f])) for f in a} for name, (a, b) in pairs.items()},
    }


def summary(cells: list[dict], command: str) -> dict:
    """What was found: bank -> data set or "all phantoms" -> K -> methods, gains of selection, and counts."""
    out: dict = {"command": command, "draws": DRAWS, "figures": ["mAP", "AUROC"], "about": {}, "what": {}, "banks": {}}
    grouped: dict[tuple[str, int], list[dict]] = {}
    for cell in cells:
        values = {m: {"mAP": series(cell, m, "ap"), "AUROC": series(cell, m, "auroc")} for m in cell["results"]}
        row = summarised(values) | {name: cell[name] for name in ("positives", "test", "signs")}
        out["banks"].setdefault(cell["bank"], {}).setdefault(cell["data"], {})[str(cell["shots"])] = row
        out["about"][cell["data"]] = cell["about"]
        out["what"] |= cell["what"]
        grouped.setdefault((cell["bank"], cell["shots"]), []).append(values)
    for (bank, shots), parts in grouped.items():
        mean = {m: {f: np.mean([p[m][f] for p in parts], axis=0).tolist() for f in parts[0][m]} for m in parts[0]}
        out["banks"][bank].setdefault("all phantoms", {})[str(shots)] = summarised(mean)
    return out


def more(cells: list[dict]) -> dict:
    """K -> method -> figure with both kinds of interval: means over modalities, draw by draw, resample by resample."""
    out: dict[str, dict] = {}
    for shots in dict.fromkeys(cell["shots"] for cell in cells):
        parts = [cell for cell in cells if cell["shots"] == shots]
        draws = [{m: {"mAP": series(c, m, "ap"), "AUROC": series(c, m, "auroc")} for m in c["results"]} for c in parts]
        mean = [
            {m: {f: np.mean([p[m][f] for p in each], axis=0).tolist() for f in each[0][m]} for m in each[0]}
            for each in (draws, [cell["patients"] for cell in parts])
        ]
        out[str(shots)] = two_intervals(BOTH_STAGES, *mean)
    return out


def _cell(task: tuple[str, str, int]) -> dict:
    """In a process of its own: one cell."""
    name, variant, shots = task
    return measured(data_set(name, variant), variant, shots, clip(), BASELINES if variant == CLEAN else ON_FEATURES)


@lru_cache(maxsize=1)
def clip() -> Backbone:
    return load_clip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="chest only, K = 1, 4, 16 and one dirty bank")
    parser.add_argument("--shots", type=int, nargs="+", choices=SHOTS, help="all of these when left out")
    parser.add_argument("--more", action="store_true", help=f"only the section with K in {MORE_SHOTS}")
    parser.add_argument("--banks", nargs="+", choices=(CLEAN, *NOISY), help="clean or dirty ones, all when left out")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, one core each")
    args = parser.parse_args()
    names, every, noisy = (
        ([CHEST.name], QUICK_SHOTS, ["50 % wrong"]) if args.quick else (list(MODALITIES), SHOTS, NOISY)
    )
    shots = sorted(args.shots or every)
    banks = args.banks or [CLEAN, *noisy]
    tasks = [(name, CLEAN, k) for name in names for k in shots if CLEAN in banks]
    noisy = [variant for variant in noisy if variant in banks]
    tasks += [(name, variant, k) for name in names for variant in noisy for k in NOISY_SHOTS if k in shots]
    if args.more:
        tasks = [(name, MORE, k) for name in names for k in MORE_SHOTS]
    # what matters most first, then the longest
    tasks.sort(key=lambda task: (task[2] not in QUICK_SHOTS, task[1] != CLEAN, -task[2]))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, context, one_thread) as pool:
        cells = list(tqdm(pool.map(_cell, tasks), total=len(tasks), desc="cells"))
    cells.sort(key=lambda cell: cell["shots"])
    given = [f"--shots {' '.join(map(str, shots))}"] * bool(args.shots)
    given += [f"--banks {' '.join(map(repr, banks))}"] * bool(args.banks)
    command = "make benchmark" + " QUICK=1" * args.quick + f" ARGS='{' '.join(given)}'" * bool(given)
    before = json.loads(SUMMARY.read_text(encoding="utf-8")) if SUMMARY.exists() else {}
    kept = before if args.more else summary(cells, command) | {"more": before.get("more", {})}
    write_json(SUMMARY, kept | ({"more": more(cells)} if args.more else {}))
    write_page(SUMMARY, PAGE)
    print(PAGE)


if __name__ == "__main__":
    main()
