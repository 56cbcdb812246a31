"""Are the reasons true? `python tools/sign_truth.py` fills docs/results/sign_truth.md; a stopped run goes on.

On new phantoms of the categories kept out of pretraining: does the score of a sign tell that sign from others of its
category, is the longest bar of an explanation a sign that was drawn, does the map point at it, and what do signs,
image evidence and both find. A cell is a model, a modality, K and a support draw, one file in build/sign_truth.
For teaching and research on phantoms; not for clinical use.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from benchmark import shipped
from shared import frozen_scores, resumed
from sklearn.metrics import average_precision_score, roc_auc_score
from tqdm import tqdm

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import Backbone, load_clip
from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.intervals import figure_text, mean_interval, paired
from sdmad_lite.evaluation.sign_truth import points_at, sign_truth
from sdmad_lite.files import write_text
from sdmad_lite.selection import margins
from sdmad_lite.signs.bank import SignBank
from sdmad_phantoms import MODALITIES, sample_phantoms

CELLS, PAGE = Path("build/sign_truth"), Path("docs/results/sign_truth.md")
POOL, TEST = (500, 3000), (600, 3001)  # phantoms and seed
MODELS = {
    "embedded": ("embedded", None, 0.5),
    "random weights": ("embedded", "random", 0.5),
}
"""Name -> model, weights, share of the patches in a sign's score; the default first."""
POINTED = 150
BARS = "from a typical image"  # changed with what a bar is, which no setting tells
FIGURES = {
    "within": "AUROC of a sign within its category",
    "bar": "longest bar true",
    "chance": "a sign picked at random",
    "pointing": "map points at its sign",
    "signs": "mAP of signs alone",
    "image": "mAP of image evidence alone",
    "both": "mAP of SD-MAD",
}


@lru_cache(maxsize=2)
def phantoms(name: str, count: int, seed: int) -> tuple[ImageTable, SignBank, np.ndarray, list]:
    """Images with labels of the kept-out categories, their bank, which signs are drawn (N, S), and where."""
    kind = MODALITIES[name]
    bank = kind.bank.restricted(list(kind.kept_out))
    every = sample_phantoms(count, seed, modality=name)
    drawn = [p for p in every if not p.categories or set(p.categories) & set(kind.kept_out)]
    labels = np.array([[int(c in p.categories) for c in bank.categories] for p in drawn])
    patients = {"patient_id": tuple(str(p.patient.patient_id) for p in drawn)}
    table = ImageTable(tuple(p.image for p in drawn), labels, tuple(bank.categories), patients)
    ids = {sign.text: sign.id for sign in bank.signs}
    masks = [[p.masks.get(ids.get(text)) for text in bank.texts] for p in drawn]
    return table, bank, np.array([[ids.get(text) in p.signs for text in bank.texts] for p in drawn]), masks


@lru_cache(maxsize=len(MODELS))
def backbone(name: str, weights: str | None) -> Backbone:
    return load_clip(name, weights, device="cpu")


def frozen(model: str, name: str) -> dict[str, float]:
    """Before any training: AUROC of each sign's score over all images, and within its category."""
    (clip, weights, local), (table, bank, drawn, _) = MODELS[model], phantoms(name, *TEST)
    clip = backbone(clip, weights)
    z = frozen_scores(clip, table.images, bank.color, bank.texts, AlignmentConfig(local=local))
    own = [s for s in np.flatnonzero(bank.membership()[1:].any(0)) if 8 <= drawn[:, s].sum()]
    over = float(np.mean([roc_auc_score(drawn[:, s], z[:, s]) for s in own]))
    return {"over": over, "within": sign_truth(z, drawn, table.labels, bank.membership()).auroc}


def fitted(model: str, name: str, shots: int, draw: int) -> dict[str, float]:
    """After both stages, with one support draw."""
    (clip, weights, local), (table, bank, drawn, masks) = MODELS[model], phantoms(name, *TEST)
    pool = phantoms(name, *POOL)[0]
    detector = SDMAD(bank, backbone=backbone(clip, weights), alignment=AlignmentConfig(local=local), random_state=draw)
    detector.fit_table(pool.rows(draw_support(pool, shots, draw)))
    z, h = detector.features(table.images)
    truth = sign_truth(z, drawn, table.labels, detector.membership, detector.contributions(z))
    shown = [row for row in range(len(drawn)) if drawn[row].any()][:POINTED]
    hits = np.concatenate([points_at(detector.sign_maps(table.images[row]), masks[row]) for row in shown])

    def found(scores: np.ndarray) -> float:
        return float(np.mean([average_precision_score(y, s) for y, s in zip(table.labels.T, scores.T, strict=True)]))

    ap = {"signs": margins(z, detector.weights_), "image": detector.image_logits(h), "both": detector.logits(z, h)}
    said = {"within": truth.auroc, "bar": truth.longest_true, "chance": truth.longest_chance}
    return said | {"pointing": float(hits[:, 0].mean())} | {key: found(scores) for key, scores in ap.items()}


def cell(model: str, name: str, shots: int, draw: int) -> dict[str, float]:
    """One cell, measured now or before; K = 0 is the frozen model."""
    (clip, weights, local), path = MODELS[model], CELLS / f"{model.replace(' ', '_')}_{name}_{shots}_{draw}.json"
    question = [backbone(clip, weights).fingerprint, local, *shipped(), POOL, TEST, POINTED, BARS, shots, draw]
    return resumed(path, question, lambda: fitted(model, name, shots, draw) if shots else frozen(model, name))


def page(shots: list[int], draws: int) -> str:
    """The page, from all cells."""
    lines = [
        "# Are the reasons true?",
        "",
        f"Written by `python tools/sign_truth.py --shots {' '.join(map(str, shots))} --draws {draws}`, on phantoms of",
        "the categories that were kept out of pretraining; mean over modalities, 95 % intervals over support draws.",
        "For teaching and research; not for clinical use.",
        "",
        "| frozen model | AUROC of kept-out signs over all images | within their category |",
        "|---|---|---|",
    ]
    for model in MODELS:
        over = [cell(model, name, 0, 0) for name in MODALITIES]
        each = ", ".join(f"{name} {row['over']:.3f}" for name, row in zip(MODALITIES, over, strict=True))
        mean = {key: np.mean([row[key] for row in over]) for key in ("over", "within")}
        lines.append(f"| {model} | {mean['over']:.3f} ({each}) | {mean['within']:.3f} |")
    for k in shots:
        lines += [
            "",
            f"## K = {k}",
            "",
            f"| model | {' | '.join(FIGURES.values())} |",
            "|---" * (len(FIGURES) + 1) + "|",
        ]
        for model in MODELS:
            rows = [[cell(model, name, k, draw) for name in MODALITIES] for draw in range(draws)]
            columns = []
            for key in FIGURES:
                means = [float(np.mean([row[key] for row in draw])) for draw in rows]
                columns.append(figure_text(*mean_interval(means)))
            lines.append(f"| {model} | {' | '.join(columns)} |")
        default, ahead = next(iter(MODELS)), []
        for name in MODALITIES:
            each = [cell(default, name, k, draw) for draw in range(draws)]
            gain = paired([row["bar"] for row in each], [row["chance"] for row in each])
            ahead.append(f"{name} {figure_text(gain.difference, gain.low, gain.high, form='+.3f')}")
        lines += ["", f"Longest bar true, less a sign picked at random, of `{default}`: {', '.join(ahead)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16], help="K (default 4 16)")
    parser.add_argument("--draws", type=int, default=5, help="support draws (default 5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(model, name, 0, 0) for name, model in product(MODALITIES, MODELS)]
    cells += list(product(MODELS, MODALITIES, args.shots, range(args.draws)))
    for one in tqdm(cells, desc="cells"):
        cell(*one)
    write_text(PAGE, page(args.shots, args.draws))


if __name__ == "__main__":
    main()
