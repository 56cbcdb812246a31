"""What the embedded CLIP knows without training: `python tools/backbone_eval.py --seed 0`.

Draws phantoms anew and prints for each sign of each modality the zero-shot AUROC of its score (of the whole image and
of the patches most like it, as a detector scores by default), for each category that of its signs' mean score less
that of the normal signs, with 95 % bootstrap intervals over images. Beside them: does a sign of a kept-out category
tell its own images from others of that category (sign_truth_frozen), and does a sentence find a composed finding of
the second hold-out (composition_auroc_mean). The last line is one JSON object: figure -> [value, interval].
For teaching and research on phantoms; not for clinical use.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pretrain_words import Phrases
from shared import frozen_scores
from sklearn.metrics import roc_auc_score

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import Backbone, load_clip
from sdmad_lite.evaluation.sign_truth import sign_truth, touched
from sdmad_lite.selection import equal_weights, margins
from sdmad_phantoms import MODALITIES, Modality, Phantom, sample_phantoms
from sdmad_phantoms.findings import draw_findings, for_measuring, sample_finding, sentence, true_of

FIRST_SEED = 10**12  # far from every seed that pretraining, samples and results draw from
ROUNDS = 200
NOTICE = "For teaching and research on phantoms; not for clinical use."


class Scored:
    """AUROC of each column (S,) on the same images, and its bootstrap (ROUNDS, S)."""

    def __init__(self, truth: np.ndarray, score: np.ndarray, seed: int):
        rng = np.random.default_rng(seed)
        self.positives = truth.sum(0)
        self.auroc = self._each(truth, score)
        resampled = (rng.integers(0, len(truth), len(truth)) for _ in range(ROUNDS))
        self.boot = np.array([self._each(truth[rows], score[rows]) for rows in resampled])

    @staticmethod
    def _each(truth: np.ndarray, score: np.ndarray) -> np.ndarray:
        columns = zip(truth.T, score.T, strict=True)
        return np.array([roc_auc_score(t, s) if 0 < t.sum() < len(t) else np.nan for t, s in columns])

    def cell(self, i: int) -> str:
        low, high = interval(self.boot[:, i])
        return f"{self.auroc[i]:.3f} [{low:.3f}, {high:.3f}]"


def interval(samples: np.ndarray) -> list[float]:
    """95 % bootstrap interval."""
    return [round(float(q), 4) for q in np.nanquantile(samples, [0.025, 0.975])]


@torch.no_grad()
def pointing(backbone: Backbone, kind: Modality, drawn: list[Phantom]) -> tuple[np.ndarray, np.ndarray]:
    """For each drawn sign: does the patch nearest to its text touch its mask (0 or 1), and by what chance would any?"""
    ids = [sign.id for sign in kind.seen_signs]
    v = backbone.encode_texts([sign.text for sign in kind.seen_signs])
    hits, chance = [], []
    for start in range(0, len(drawn), 64):
        batch = drawn[start : start + 64]
        patches = backbone.patch_features(backbone.prepare([p.image for p in batch], kind.bank.color)).cpu()
        for phantom, maps in zip(batch, (patches @ v.T).numpy(), strict=True):  # (h, w, S)
            for name, mask in phantom.masks.items():
                cells = touched(mask, maps.shape[:2])
                hits.append(float(cells.flat[maps[:, :, ids.index(name)].argmax()]))
                chance.append(cells.mean())
    return np.array(hits), np.array(chance)


def scores(backbone: Backbone, images: list[np.ndarray], color: bool, texts: list[str]) -> np.ndarray:
    """z (N, S) of the frozen model, as a detector scores by default."""
    return frozen_scores(backbone, images, color, texts, AlignmentConfig())


def compositions(backbone: Backbone, kind: Modality, count: int, seed: int) -> np.ndarray:
    """(n,) for each image with one composed finding, of a kind that pretraining never drew: the AUROC of the sentence
    that says it, of this image against all for which the sentence is not true.
    """
    rng, name, drawn = np.random.default_rng(seed), kind.name, []

    while len(drawn) < count:
        f, patient = sample_finding(name, rng, kind.sides, partial(for_measuring, name)), kind.sample_patient(rng, "P")
        image, (mask,) = draw_findings(name, patient, [f], rng)
        if mask.any():  # else it lies where nothing can be seen of it
            drawn.append((f, image))
    images, found = [image for _, image in drawn], []
    z = scores(backbone, images, kind.bank.color, [sentence(name, f.says(), rng) for f, _ in drawn])
    for i, (f, _) in enumerate(drawn):
        others = np.array([not true_of(name, f.says(), g) for g, _ in drawn])
        found.append((z[i, i] > z[others, i]).mean() + (z[i, i] == z[others, i]).mean() / 2)
    return np.array(found)


class Report:
    """Everything measured on one modality, and its pages."""

    def __init__(self, backbone: Backbone, kind: Modality, images: int, seed: int):
        self.kind, bank = kind, kind.bank
        seen = list(sample_phantoms(images, seed, kind.seen, images_per_patient=1, modality=kind.name))
        every = list(sample_phantoms(images, seed + 1, images_per_patient=1, modality=kind.name))
        self.new = [sign for sign in bank.signs if sign not in kind.seen_signs]
        truth = np.array([[sign.id in p.signs for sign in kind.seen_signs] for p in seen])

        # the texts of pretraining and their held-out phrasings, on images without the kept-out categories
        known = [s.text for s in kind.seen_signs]
        groups = [known, *map(list, zip(*Phrases(kind).unseen[: len(known)], strict=True))]
        z = scores(backbone, [p.image for p in seen], bank.color, [text for group in groups for text in group])
        self.known, *self.unseen = (Scored(truth, part, seed) for part in np.split(z, len(groups), axis=1))
        # the bank, on images of all categories
        z = scores(backbone, [p.image for p in every], bank.color, bank.texts)
        ids = {sign.text: sign.id for sign in bank.signs}
        drawn = np.array([[ids.get(text) in p.signs for text in bank.texts] for p in every])
        labels = np.array([[c in p.categories for c in bank.categories] for p in every])
        self.kept_out = Scored(*(x[:, [bank.texts.index(s.text) for s in self.new]] for x in (drawn, z)), seed)
        self.category = Scored(labels, margins(z, equal_weights(bank.membership())), seed)
        new = [bank.categories.index(c) for c in kind.kept_out]
        self.within = sign_truth(z, drawn, labels[:, new], bank.membership()[[0, *(c + 1 for c in new)]]).within
        self.composed = compositions(backbone, kind, images // 3, seed)
        self.hits, self.chance = pointing(backbone, kind, seen)

    @property
    def unseen_auroc(self) -> np.ndarray:
        """(S,) mean over the held-out phrasings of each sign."""
        return np.mean([s.auroc for s in self.unseen], axis=0)

    @property
    def unseen_boot(self) -> np.ndarray:
        return np.mean([s.boot for s in self.unseen], axis=0)

    def page(self) -> list[str]:
        lines = [f"## {self.kind.bank.modality}", "", "| sign | positives | AUROC | mean over held-out phrasings |"]
        lines += ["|---|---|---|---|"]
        for i, sign in enumerate(self.kind.seen_signs):
            low, high = interval(self.unseen_boot[:, i])
            new = f"{self.unseen_auroc[i]:.3f} [{low:.3f}, {high:.3f}]"
            lines.append(f"| {sign.text} | {self.known.positives[i]} | {self.known.cell(i)} | {new} |")
        lines += ["", "| sign of kept-out categories | positives | AUROC |", "|---|---|---|"]
        for i, sign in enumerate(self.new):
            lines.append(f"| {sign.text} | {self.kept_out.positives[i]} | {self.kept_out.cell(i)} |")
        lines += ["", "| category | positives | zero-shot AUROC | |", "|---|---|---|---|"]
        for i, name in enumerate(self.kind.bank.categories):
            note = "kept out" if name in self.kind.kept_out else ""
            lines.append(f"| {name} | {self.category.positives[i]} | {self.category.cell(i)} | {note} |")
        return [*lines, ""]


def summary(reports: list[Report], seed: int) -> dict:
    """Figures over all modalities: name -> [value, interval]; every sign and category weighs the same."""

    def over(values: list[np.ndarray], boots: list[np.ndarray], how=np.mean) -> list:
        return [float(how(np.concatenate(values))), interval(how(np.concatenate(boots, axis=1), axis=1))]

    known, boot = [r.known.auroc for r in reports], [r.known.boot for r in reports]
    drop = [r.known.auroc - r.unseen_auroc for r in reports]
    hits, chance = (np.concatenate([getattr(r, name) for r in reports]) for name in ("hits", "chance"))
    rng = np.random.default_rng(seed)
    within, composed = (np.concatenate([getattr(r, name) for r in reports]) for name in ("within", "composed"))

    def of(values: np.ndarray) -> list:
        """Mean of values and its bootstrap interval over them."""
        return [float(values.mean()), interval(rng.choice(values, (ROUNDS, len(values))).mean(1))]

    old = [np.array([c not in r.kind.kept_out for c in r.kind.bank.categories]) for r in reports]
    category = [(r.category.auroc, r.category.boot) for r in reports]
    return {
        "sign_auroc_mean": over(known, boot),
        "sign_auroc_min": over(known, boot, np.min),
        "unseen_phrasing_drop": over(drop, [r.known.boot - r.unseen_boot for r in reports]),
        "pointing_game": of(hits),
        "pointing_game_chance": [float(chance.mean()), None],
        "kept_out_auroc_mean": over([r.kept_out.auroc for r in reports], [r.kept_out.boot for r in reports]),
        "sign_truth_frozen": of(within[np.isfinite(within)]),
        "composition_auroc_mean": of(composed),
        "category_auroc_mean": over(
            [a[o] for (a, _), o in zip(category, old, strict=True)],
            [b[:, o] for (_, b), o in zip(category, old, strict=True)],
        ),
        "kept_out_category_auroc_mean": over(
            [a[~o] for (a, _), o in zip(category, old, strict=True)],
            [b[:, ~o] for (_, b), o in zip(category, old, strict=True)],
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--images", type=int, default=1500, help="per modality, once without and once with the kept-out"
    )
    parser.add_argument("--model", default="embedded", help="name of the model, as in load_clip")
    parser.add_argument("--write", type=Path, help="a Markdown file for the tables")
    args = parser.parse_args()
    backbone, seed = load_clip(args.model), FIRST_SEED + 10 * args.seed
    reports = []
    for number, kind in enumerate(MODALITIES.values()):
        reports.append(Report(backbone, kind, args.images, seed + 2 * number))
        print("\n".join(reports[-1].page()))
    result = summary(reports, seed)
    print(NOTICE)
    if args.write:
        figures = "\n".join(f"| {k} | {v:.3f} | {i or ''} |" for k, (v, i) in result.items())
        head = f"# What the embedded CLIP knows without training\n\n{NOTICE} "
        head += f"Made by `make backbone-eval SEED={args.seed}` on {args.images} new phantoms of each modality's "
        head += f"pretraining categories and {args.images} of all.\n\n"
        tables = "\n".join("\n".join(r.page()) for r in reports)
        args.write.write_text(f"{head}| figure | value | 95 % interval |\n|---|---|---|\n{figures}\n\n{tables}")
    rounded = {k: [round(v, 4), i] for k, (v, i) in result.items()}
    print(json.dumps(rounded | {"images": args.images, "seed": args.seed}))


if __name__ == "__main__":
    main()
