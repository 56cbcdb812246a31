"""Every method on real images: `python tools/real_sets.py NAME=DIR ...` fills docs/results/real_sets.md.

    python tools/real_sets.py nih_chest14=DIR odir5k=DIR brain_tumor_mri=DIR busi=DIR

NAME is a set of sdmad_datasets, DIR a folder as its publisher lays it out, or with a labels.csv. SD-MAD, its parts and
all baselines on the embedded CLIP; SD-MAD and a linear probe with random weights; pixels. A cell is one set at one K,
one file in build/real_sets, so that a stopped run goes on. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import clip, shipped
from real_sets_page import write_page
from research_baselines import BASELINES, MetaTable, phantom_table
from shared import by_patient, one_thread, over_draws, resumed, two_intervals
from tqdm import tqdm

from sdmad_datasets import DATASETS, load_dataset
from sdmad_lite.clip.backbone import Backbone, load_clip
from sdmad_lite.data import ImageTable, load_data
from sdmad_lite.evaluation.baselines import Method
from sdmad_lite.evaluation.experiment import BOTH_STAGES, Settings, eligible_split, groups, run_experiment
from sdmad_lite.show.report import write_json
from sdmad_lite.signs.bank import SignBank, load_bank

CELLS, FOUND, PAGE = (Path(p) for p in ("build/real_sets", "docs/results/real_sets.json", "docs/results/real_sets.md"))
SHOTS, DRAWS, LEAST, RESAMPLES = (4, 16), 5, 15, 500
PHANTOMS = {"odir5k": "fundus", "rfmid": "fundus", "brain_tumor_mri": "brain"}
"""What the meta-learning baselines learn on; chest phantoms for all other sets."""
PROBE, RANDOM = "linear probe", ", random weights"


@dataclass(frozen=True)
class RealSet:
    """A set, parted: what is eligible at the largest K for all of them, so that one K can be held beside another."""

    name: str
    bank: SignBank
    train: ImageTable
    test: ImageTable
    left_out: Mapping[str, str]


@lru_cache(maxsize=1)
def real_set(name: str, folder: Path) -> RealSet:
    """A set in a form of its own (labels.csv) or as it was published, without pictures that stand in it twice."""
    bank = load_bank(DATASETS[name].bank)
    if (folder / "labels.csv").exists():
        table = load_data(folder, bank.categories, drop_copies=True)
    else:
        table = load_dataset(name, folder, drop_copies=True)
    train, test, left_out = eligible_split(table, max(SHOTS), LEAST, drop_copies=True)
    return RealSet(name, bank.restricted(list(train.categories)), train, test, left_out)


@lru_cache(maxsize=1)
def learnt_on(modality: str) -> MetaTable:
    """Phantoms that meta-learning takes its episodes from."""
    return phantom_table(clip(), modality)


def methods_for(name: str) -> dict[str, Method]:
    """All baselines; those that meta-learn do so on the phantoms that are nearest to the set."""
    phantoms = learnt_on(PHANTOMS.get(name, "chest"))
    return {k: replace(m, table=phantoms) if hasattr(m, "table") else m for k, m in BASELINES.items()}


def about(data: RealSet) -> dict[str, Any]:
    """What a reader must know of a set to read its figures."""
    entry, shown = DATASETS[data.name], data.test.labels.sum(1)
    return {
        "title": entry.title,
        "modality": entry.modality,
        "citation": entry.citation,
        "train": len(data.train),
        "test": len(data.test),
        "normal": int((shown == 0).sum()),
        "patients": len(np.unique(data.test.patients())) if data.test.has_patients else None,
        "split": "split" in data.test.meta,
        "positives": dict(zip(data.test.categories, data.test.labels.sum(0).tolist(), strict=True)),
        "cardinality": [float(shown.mean()), float(shown[shown > 0].mean())],
        "left_out": dict(data.left_out),
    }


def measured(data: RealSet, shots: int, backbone: Backbone, blank: Backbone, methods: dict[str, Method]) -> dict:
    """One cell: all methods with the backbone, SD-MAD and the linear probe with the blank one."""

    def measure() -> dict[str, Any]:
        scores: dict[str, list[np.ndarray]] = {}
        what: dict[str, str] = {}
        for tail, model, given in (("", backbone, methods), (RANDOM, blank, {PROBE: methods[PROBE]})):
            settings = Settings(baselines=given)
            run = run_experiment(data.train, data.test, data.bank, model, shots, range(DRAWS), settings)
            kept = [name for name in run.scores if not tail or name in (BOTH_STAGES, PROBE)]
            scores |= {name + tail: run.scores[name] for name in kept}
            what |= {name + tail: run.methods[name] for name in kept}
        views = {name: rows for name, rows in groups(data.test).items() if name.startswith("view=")}
        parts = {"": np.arange(len(data.test))} | views
        found = {}
        for part, rows in parts.items():
            given, table = {m: [s[rows] for s in draws] for m, draws in scores.items()}, data.test.rows(rows)
            draws = over_draws(given, table.labels, table.categories)
            patients = by_patient(given, table.labels, table.patients(), RESAMPLES)
            found[part] = two_intervals(BOTH_STAGES, draws, patients)
        return {"data": data.name, "shots": shots, "about": about(data), "what": what, "parts": found}

    settings = {k: replace(m, table=None) if hasattr(m, "table") else m for k, m in methods.items()}
    models = [backbone.fingerprint, blank.fingerprint, *shipped()]
    tables = [(table.labels.tolist(), table.patients().tolist()) for table in (data.train, data.test)]
    asked = [*models, tables, shots, DRAWS, RESAMPLES, settings, data.bank.model_dump_json()]
    return resumed(CELLS / f"{data.name}_k{shots}.json", asked, measure)


def _cell(task: tuple[str, Path, int]) -> dict:
    """In a process of its own: one cell."""
    name, folder, shots = task
    blank = load_clip("embedded", pretrained="random")
    return measured(real_set(name, folder), shots, clip(), blank, methods_for(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR", help=f"one of {', '.join(DATASETS)}, and its folder")
    parser.add_argument("--shots", type=int, nargs="+", choices=SHOTS, default=list(SHOTS), help="all when left out")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, one core each")
    args = parser.parse_args()
    folders = dict(given.split("=", 1) for given in args.sets)
    tasks = [(name, Path(folder), k) for k in sorted(args.shots, reverse=True) for name, folder in folders.items()]
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), one_thread) as pool:
        cells = list(tqdm(pool.map(_cell, tasks), total=len(tasks), desc="cells"))
    cells.sort(key=lambda cell: (list(folders).index(cell["data"]), cell["shots"]))
    command = "python tools/real_sets.py " + " ".join(f"{name}=DIR" for name in folders)
    if args.shots != list(SHOTS):
        command += f" --shots {' '.join(map(str, args.shots))}"
    write_json(FOUND, {"command": command, "draws": DRAWS, "least": LEAST, "cells": cells})
    write_page(FOUND, PAGE)
    print(PAGE)


if __name__ == "__main__":
    main()
