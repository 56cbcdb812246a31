"""Are the reasons true? `python tools/sign_truth.py` fills docs/results/sign_truth.md; a stopped run goes on.

On new phantoms, of the categories kept out of pretraining and of those it saw: does the score of a sign tell that sign
from others of its category, is the longest bar of an explanation a sign that was drawn, does the map point at it, and
what do signs, image evidence and both find. A cell is a model, kept out or seen, a modality, K and a support draw, one
file in build/sign_truth. For teaching and research on phantoms; not for clinical use.
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
from sdmad_lite.evaluation.intervals import figure_text, mean_interval, paired, resampled, with_interval
from sdmad_lite.evaluation.sign_truth import LEAST, points_at, sign_truth
from sdmad_lite.files import write_text
from sdmad_lite.selection import margins
from sdmad_lite.signs.bank import SignBank
from sdmad_phantoms import MODALITIES, sample_phantoms

CELLS, PAGE = Path("build/sign_truth"), Path("docs/results/sign_truth.md")
POOL, TEST = (500, 3000), (600, 3001)  # phantoms and seed
MODELS = {"embedded": None, "random weights": "random"}
"""Name -> weights of the embedded CLIP; the default first."""
CATEGORIES = {"kept out": "kept_out", "seen": "seen"}
"""Which categories -> the name of `Modality` for them."""
CASES = [("embedded", "kept out"), ("embedded", "seen"), ("random weights", "kept out")]
"""Random weights saw none."""
POINTED = 150
RESAMPLES = 200
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


@lru_cache(maxsize=4)
def phantoms(name: str, which: str, count: int, seed: int) -> tuple[ImageTable, SignBank, np.ndarray, list]:
    """Images with labels of the kept-out or seen categories, their bank, which signs are drawn (N, S), and where."""
    kind = MODALITIES[name]
    bank = kind.bank.restricted(list(getattr(kind, CATEGORIES[which])))
    every = sample_phantoms(count, seed, modality=name)
    drawn = [p for p in every if not p.categories or set(p.categories) & set(bank.categories)]
    labels = np.array([[int(c in p.categories) for c in bank.categories] for p in drawn])
    patients = {"patient_id": tuple(str(p.patient.patient_id) for p in drawn)}
    table = ImageTable(tuple(p.image for p in drawn), labels, tuple(bank.categories), patients)
    ids = {sign.text: sign.id for sign in bank.signs}
    masks = [[p.masks.get(ids.get(text)) for text in bank.texts] for p in drawn]
    return table, bank, np.array([[ids.get(text) in p.signs for text in bank.texts] for p in drawn]), masks


@lru_cache(maxsize=len(MODELS))
def backbone(model: str) -> Backbone:
    return load_clip("embedded", MODELS[model], device="cpu")


def frozen(model: str, which: str, name: str) -> dict[str, list[float]]:
    """Before any training: AUROC of each sign's score over all images, and within its category.

    Of all images first, then of each resample of the patients.
    """
    table, bank, drawn, _ = phantoms(name, which, *TEST)
    z = frozen_scores(backbone(model), table.images, bank.color, bank.texts, AlignmentConfig())
    own = np.flatnonzero(bank.membership()[1:].any(0))
    found: dict[str, list[float]] = {"over": [], "within": []}
    for rows in [np.arange(len(z)), *resampled(table.patients(), RESAMPLES)]:
        signs = [s for s in own if LEAST <= drawn[rows, s].sum()]
        found["over"].append(float(np.mean([roc_auc_score(drawn[rows, s], z[rows, s]) for s in signs])))
        found["within"].append(sign_truth(z[rows], drawn[rows], table.labels[rows], bank.membership()).auroc)
    return found


def fitted(model: str, which: str, name: str, shots: int, draw: int) -> dict[str, float]:
    """After both stages, with one support draw."""
    table, bank, drawn, masks = phantoms(name, which, *TEST)
    pool = phantoms(name, which, *POOL)[0]
    detector = SDMAD(bank, backbone=backbone(model), random_state=draw)
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


def cell(model: str, which: str, name: str, shots: int, draw: int) -> dict:
    """One cell, measured now or before; K = 0 is the frozen model."""
    path = CELLS / f"{model} {which} {name} {shots} {draw}.json".replace(" ", "_")
    question = [backbone(model).fingerprint, *shipped(), which, POOL, TEST, POINTED, RESAMPLES, BARS, shots, draw]
    one = model, which, name
    return resumed(path, question, lambda: fitted(*one, shots, draw) if shots else frozen(*one))


def page(shots: list[int], draws: int) -> str:
    """The page, from all cells."""
    lines = [
        "# Are the reasons true?",
        "",
        f"Written by `python tools/sign_truth.py --shots {' '.join(map(str, shots))} --draws {draws}`, on phantoms of",
        "the categories that were kept out of pretraining and of those it saw; mean over modalities, 95 % intervals",
        "over patients for the frozen model, over support draws for fitted ones.",
        "For teaching and research; not for clinical use.",
        "",
        "| frozen model | categories | AUROC of signs over all images | within their category |",
        "|---|---|---|---|",
    ]
    for model, which in CASES:
        cells = [cell(model, which, name, 0, 0) for name in MODALITIES]
        each = ", ".join(f"{name} {one['over'][0]:.3f}" for name, one in zip(MODALITIES, cells, strict=True))
        over, within = (
            figure_text(*with_interval(np.mean([one[key] for one in cells], 0))) for key in ("over", "within")
        )
        lines.append(f"| {model} | {which} | {over} ({each}) | {within} |")
    default = next(iter(MODELS))
    for k in shots:
        lines += ["", f"## K = {k}", "", f"| model | categories | {' | '.join(FIGURES.values())} |"]
        lines += ["|---" * (len(FIGURES) + 2) + "|"]
        for model, which in CASES:
            found = [[cell(model, which, name, k, draw) for name in MODALITIES] for draw in range(draws)]
            columns = []
            for key in FIGURES:
                means = [float(np.mean([one[key] for one in draw])) for draw in found]
                columns.append(figure_text(*mean_interval(means)))
            lines.append(f"| {model} | {which} | {' | '.join(columns)} |")
        for which in CATEGORIES:
            ahead = []
            for name in MODALITIES:
                each = [cell(default, which, name, k, draw) for draw in range(draws)]
                gain = paired([one["bar"] for one in each], [one["chance"] for one in each])
                ahead.append(f"{name} {figure_text(gain.difference, gain.low, gain.high, form='+.3f')}")
            lines += [
                "",
                f"Longest bar true, less a sign picked at random, of `{default}`, {which}: {', '.join(ahead)}.",
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16], help="K (default 1 4 16)")
    parser.add_argument("--draws", type=int, default=5, help="support draws (default 5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(*case, name, 0, 0) for case, name in product(CASES, MODALITIES)]
    # one pool and one test set after the other, for drawing them takes a while
    some = product(MODALITIES, CASES, args.shots, range(args.draws))
    cells += [(*case, name, k, draw) for name, case, k, draw in some]
    for one in tqdm(cells, desc="cells"):
        cell(*one)
    write_text(PAGE, page(args.shots, args.draws))


if __name__ == "__main__":
    main()
