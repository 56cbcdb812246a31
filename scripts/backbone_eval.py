"""What the embedded CLIP knows without training: `python scripts/backbone_eval.py --seed 0`.

Draws phantoms anew and prints for each sign the zero-shot AUROC (cosine of image and sign text) with a
95 % bootstrap interval over images. The last line is one JSON object: figure -> [value, interval].
For teaching and research on phantoms; not for clinical use.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from pretrain import NAMES, SEEN, SIGNS, Phrases
from sklearn.metrics import roc_auc_score

from sdmad_lite.backbone import Backbone, load_clip
from sdmad_lite.phantoms import Phantom, chest_bank, sample_phantoms
from sdmad_lite.signs import Sign

FIRST_SEED = 10_000_000  # far from every seed that pretraining, samples and results draw from
ROUNDS = 200


class Scored:
    """AUROC of each sign (S,) on the same images, and its bootstrap (ROUNDS, S)."""

    def __init__(self, truth: np.ndarray, score: np.ndarray, seed: int):
        rng = np.random.default_rng(seed)
        self.truth = truth
        self.auroc = self._each(truth, score)
        resampled = (rng.integers(0, len(truth), len(truth)) for _ in range(ROUNDS))
        self.boot = np.array([self._each(truth[rows], score[rows]) for rows in resampled])

    @staticmethod
    def _each(truth: np.ndarray, score: np.ndarray) -> np.ndarray:
        columns = zip(truth.T, score.T, strict=True)
        return np.array([roc_auc_score(t, s) if 0 < t.sum() < len(t) else np.nan for t, s in columns])

    def show(self, signs: list[Sign], note: str) -> None:
        for i, sign in enumerate(signs):
            low, high = interval(self.boot[:, i])
            print(
                f"{sign.text:55s} {self.auroc[i]:.3f} [{low:.3f}, {high:.3f}]"
                f" {self.truth[:, i].sum():4d} positives, {note}"
            )


def interval(samples: np.ndarray) -> list[float]:
    """95 % bootstrap interval."""
    return [round(float(q), 4) for q in np.nanquantile(samples, [0.025, 0.975])]


def score_signs(backbone: Backbone, drawn: list[Phantom], signs: list[Sign], texts: list[str], seed: int) -> Scored:
    """Zero-shot scores of signs, each by a text."""
    truth = np.array([[sign.id in p.signs for sign in signs] for p in drawn])
    u = backbone.encode_images([p.image for p in drawn], progress=True)
    return Scored(truth, (u @ backbone.encode_texts(texts).T).numpy(), seed)


@torch.no_grad()
def pointing(backbone: Backbone, drawn: list[Phantom], signs: list[Sign]) -> tuple[np.ndarray, np.ndarray]:
    """For each drawn sign: does the patch nearest to its text touch its mask (0 or 1), and by what chance would any?"""
    ids = [sign.id for sign in signs]
    v = backbone.encode_texts([sign.text for sign in signs])
    hits, chance = [], []
    for phantom in drawn:
        maps = (backbone.patch_features(backbone.prepare([phantom.image]))[0].cpu() @ v.T).numpy()  # (h, w, S)
        cells = maps.shape[0]
        for name, mask in phantom.masks.items():
            touched = mask.reshape(cells, mask.shape[0] // cells, cells, -1).any((1, 3))
            hits.append(float(touched.flat[maps[:, :, ids.index(name)].argmax()]))
            chance.append(touched.mean())
    return np.array(hits), np.array(chance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--model", default="embedded", help="name of the model, as in load_clip")
    args = parser.parse_args()
    backbone, seed = load_clip(args.model), FIRST_SEED + 2 * args.seed
    seen = list(sample_phantoms(args.images, seed, SEEN, images_per_patient=1))
    every = list(sample_phantoms(args.images, seed + 1, images_per_patient=1))
    new = [sign for sign in chest_bank().signs if sign.id not in NAMES]
    known = score_signs(backbone, seen, SIGNS, [s.text for s in SIGNS], seed)
    unseen = score_signs(backbone, seen, SIGNS, Phrases().unseen[: len(SIGNS)], seed)
    kept_out = score_signs(backbone, every, new, [s.text for s in new], seed)
    known.show(SIGNS, "pretrained")
    unseen.show(SIGNS, "in words held out of pretraining")
    kept_out.show(new, "kept out of pretraining")
    hits, chance = pointing(backbone, seen, SIGNS)
    resampled = np.random.default_rng(seed).choice(hits, (ROUNDS, len(hits))).mean(1)
    print("For teaching and research on phantoms; not for clinical use.")
    result = {
        "sign_auroc_mean": [known.auroc.mean(), interval(known.boot.mean(1))],
        "sign_auroc_min": [known.auroc.min(), interval(known.boot.min(1))],
        "unseen_phrasing_drop": [
            known.auroc.mean() - unseen.auroc.mean(),
            interval(known.boot.mean(1) - unseen.boot.mean(1)),
        ],
        "pointing_game": [hits.mean(), interval(resampled)],
        "pointing_game_chance": [chance.mean(), None],
        "kept_out_auroc_mean": [kept_out.auroc.mean(), interval(kept_out.boot.mean(1))],
        "images": args.images,
        "seed": args.seed,
    }
    print(json.dumps({k: [round(float(v[0]), 4), v[1]] if isinstance(v, list) else v for k, v in result.items()}))


if __name__ == "__main__":
    main()
