"""The grid behind the panel of shots and strength: `make grid` (an hour and a half on one core).

On the kept-out categories of the chest samples SD-MAD is fitted for each number of shots K, each λ of the Shift
Adapters and each choice of loss terms, with three support draws; scored are the images of all other training patients,
so nothing here touches the test set. Each fit is a line of build/grid.jsonl, by which a run that was stopped goes on;
the whole is docs/results/shots_strength.json. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from scipy.special import expit
from tqdm import tqdm

from sdmad_course import samples, support_and_validation
from sdmad_course.score_panels import GRID, SCORES
from sdmad_lite.alignment import AdapterConfig, AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.selection import margins
from sdmad_lite.show.report import write_json
from sdmad_phantoms import modality_named

SHOTS, LAMBDAS = (1, 2, 4, 8, 16), (0.5, 0.7, 0.9, 1.0)
TERMS = {
    "all three terms": {},
    "no discrepancy": {"discrepancy": 0.0},
    "no intra-anomaly": {"intra": 0.0},
    "inter-anomaly alone": {"discrepancy": 0.0, "intra": 0.0},
}
CELLS = Path("build/grid.jsonl")


def fit(shots: int, lam: float, terms: str, draw: int, modality: str, steps: int | None) -> dict:
    """AP of each category on validation images, by SD-MAD and by its signs alone."""
    bank, train, _ = samples(modality, kept_out=True)
    support, validation = support_and_validation(train, shots, draw)
    alignment = AlignmentConfig(**TERMS[terms])
    if steps is not None:
        alignment = replace(alignment, steps=steps)
    detector = SDMAD(
        bank, backbone=load_clip(device="cpu"), adapters=AdapterConfig(lam=lam), alignment=alignment, random_state=draw
    )
    z, h = detector.fit_table(support).features(validation.images)
    found = {}
    for name, scores in zip(SCORES, (expit(detector.logits(z, h)), margins(z, detector.weights_)), strict=True):
        rows = evaluate(scores, validation.labels, bank.categories).multilabel.per_category
        found[name] = [rows[category].ap for category in bank.categories]
    return {"ap": found, "positives": validation.labels.sum(0).tolist(), "images": len(validation)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", default="chest", help="chest, brain or fundus (default chest)")
    parser.add_argument("--draws", type=int, default=3, help="support draws (default 3)")
    parser.add_argument("--steps", type=int, help="of stage 1, for a quick look; its result is no result")
    parser.add_argument("--only", nargs="+", choices=TERMS, help="fit these choices of terms, and write no grid")
    parser.add_argument("--out", type=Path, default=GRID)
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = {}
    if CELLS.is_file():
        rows = (json.loads(line) for line in CELLS.read_text(encoding="utf-8").splitlines())
        known = {tuple(row["key"]): row["found"] for row in rows}
    CELLS.parent.mkdir(parents=True, exist_ok=True)
    draws = range(args.draws)
    axes = list(product(draws, args.only or TERMS, LAMBDAS, SHOTS))
    model = f"{load_clip(device='cpu').name}, local={AlignmentConfig().local:g}"
    for draw, terms, lam, shots in tqdm(axes, desc="fits"):
        key = (model, args.modality, args.steps, terms, lam, shots, draw)
        if key not in known:
            # with λ = 1 the adapters are silent, so that no term can matter
            same = (*key[:3], next(iter(TERMS)), *key[4:])
            known[key] = known[same] if lam == 1 and same in known else fit(shots, lam, terms, draw, *key[1:3])
            with CELLS.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, "found": known[key]}) + "\n")
    if args.only:
        return
    cells = {(t, lam, k, d): known[(model, args.modality, args.steps, t, lam, k, d)] for d, t, lam, k in axes}
    result = {
        "modality": args.modality,
        "model": model,
        "categories": list(modality_named(args.modality).kept_out),
        "terms": list(TERMS),
        "lambdas": LAMBDAS,
        "shots": SHOTS,
        "positives": {str(k): cells[next(iter(TERMS)), 1.0, k, 0]["positives"] for k in SHOTS},
        "images": {str(k): cells[next(iter(TERMS)), 1.0, k, 0]["images"] for k in SHOTS},
        "ap": {
            score: [
                [[[cells[t, lam, k, d]["ap"][score] for d in draws] for k in SHOTS] for lam in LAMBDAS] for t in TERMS
            ]
            for score in SCORES
        },
    }
    write_json(args.out, result)
    print(f"{args.out}: {len(cells)} fits. For teaching and research; not for clinical use.")


if __name__ == "__main__":
    main()
