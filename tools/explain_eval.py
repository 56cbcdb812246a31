"""How faithful explanations are: `make explain-eval`.

Of each modality a detector is fitted on the training samples (16 shots, all categories), then asked to explain every
test image:
- contributions, image evidence and bias against the logit: the largest difference;
- pointing game: does the brightest patch of a sign's heat map touch what the generator drew for it? By chance: the
  share of patches that do. The same for a backbone with random weights, which must be at chance;
- sign truth: does a sign's score tell its own images from others of the category, is the longest bar a sign that was
  drawn (beside a sign picked at random), does the map that the score reads touch what was drawn, and
  tell its pixels from others (pixel AUROC); for categories of pretraining and those kept out;
- deletion and insertion: the sign's cosine as patches are blurred away, or brought back, from the brightest on, less
  the same for patches in random order (the mean over the course, in units of the cosine's own deviation over images);
- with --real DIR: the boxes that radiologists drew, for the signs of their finding.

The last line is a JSON object. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import zoom
from tqdm import tqdm

from sdmad_course import load_or_fit, samples, support_and_validation
from sdmad_lite.clip.backbone import Backbone, load_clip
from sdmad_lite.data import ImageTable, read_image
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.sign_truth import pixel_auroc, points_at, sign_truth, touched
from sdmad_lite.explain import sign_maps
from sdmad_lite.files import NOTICE
from sdmad_lite.signs.bank import SignBank, load_bank
from sdmad_phantoms import MODALITIES
from sdmad_phantoms.samples import load_masks

SHOTS, SEED, STEPS = 16, 0, 8


def sum_error(detector: SDMAD, images: Sequence) -> float:
    """Largest distance over images and categories between a logit and the sum of its parts."""
    worst, logits = 0.0, detector.decision_function(images)
    for image, row in zip(images, logits, strict=True):
        for e, logit in zip(detector.explain(image), row, strict=True):
            total = sum(sign.contribution for sign in e.signs) + e.image + e.bias
            worst = max(worst, abs(total - e.logit), abs(total - logit))
    return worst


def pointing(backbone: Backbone, bank: SignBank, table: ImageTable) -> list[tuple[str, float, float]]:
    """(sign text, hit, chance) of each drawn sign in each image."""
    texts, out = {sign.id: sign.text for sign in bank.signs}, []
    for row, image in enumerate(table.images):
        maps = sign_maps(backbone, bank, image)
        for name, mask in load_masks(table, row).items():
            cells = touched(mask, maps.shape[1:])
            if cells.any():
                brightest = maps[bank.texts.index(texts[name])].argmax()
                out.append((texts[name], float(cells.flat[brightest]), float(cells.mean())))
    return out


def reasons(detector: SDMAD, table: ImageTable, categories: Sequence[str]) -> dict[str, np.ndarray]:
    """Figure -> values of the signs of some categories, see `sign_truth` and `points_at`."""
    bank, rows = detector.bank, [detector.bank.categories.index(name) for name in categories]
    texts = {sign.id: sign.text for sign in bank.signs}
    own = detector.membership[[row + 1 for row in rows]].any(0)
    z = detector.cosines(table.images)
    masks = [{texts[name]: mask for name, mask in load_masks(table, row).items()} for row in range(len(table))]
    drawn = np.array([[text in shown for text in bank.texts] for shown in masks])
    member = detector.membership[[0, *(row + 1 for row in rows)]]
    truth = sign_truth(z, drawn, table.labels[:, rows], member, detector.contributions(z)[:, rows])
    hits, pixels = [], []
    for row in np.flatnonzero((drawn & own).any(1)):
        wanted = [masks[row].get(text) if mine else None for text, mine in zip(bank.texts, own, strict=True)]
        maps = detector.sign_maps(table.images[row])
        hits.append(points_at(maps, wanted))
        pixels.append(pixel_auroc(maps, wanted))
    found = {"sign_truth": truth.within[np.isfinite(truth.within)], "pointing_game_scored": np.concatenate(hits)[:, 0]}
    found["pixel_auroc_scored"] = np.concatenate(pixels)
    return found | {"longest_bar_true": truth.bars[:, 0], "longest_bar_chance": truth.bars[:, 1]}


def courses(backbone: Backbone, bank: SignBank, table: ImageTable, rows: Sequence[int], rng) -> np.ndarray:
    """(n, 2, 2): of each drawn sign the mean cosine over deletion and insertion, by heat map and in random order."""
    texts, v, out = {sign.id: sign.text for sign in bank.signs}, backbone.encode_texts(bank.texts), []
    for row in rows:
        picture = read_image(table.images[row], bank.color)
        sharp, blurred = (np.asarray(p) for p in (picture, picture.filter(ImageFilter.GaussianBlur(10))))
        maps = sign_maps(backbone, bank, picture)
        for name in load_masks(table, row):
            s = bank.texts.index(texts[name])
            found = []
            for order in (np.argsort(-maps[s], axis=None), rng.permutation(maps[s].size)):
                rank = np.empty(order.size, int)
                rank[order] = np.arange(order.size)
                rank = zoom(rank.reshape(maps.shape[1:]), np.array(sharp.shape[:2]) / maps.shape[1:], order=0)
                steps = np.linspace(0, order.size, STEPS + 1)
                gone = [rank < step for step in steps]
                pair = []
                for inside, outside in ((blurred, sharp), (sharp, blurred)):
                    course = [np.where(g if sharp.ndim == 2 else g[..., None], inside, outside) for g in gone]
                    u = backbone.encode_images([Image.fromarray(c) for c in course], color=bank.color)
                    pair.append(float((u @ v[s]).mean()))
                found.append(pair)
            out.append(np.transpose(found))
    return np.array(out)


def boxes(backbone: Backbone, folder: Path) -> tuple[float, float, int]:
    """Hits, chance and number of boxes: any sign's brightest patch of the box's finding, mean over its signs."""
    bank, hits, chance = load_bank("nih_chest14"), [], []
    with (folder / "boxes.csv").open(encoding="utf-8") as stream:
        for box in csv.DictReader(stream):
            if box["finding"] not in bank.categories:
                continue
            path = folder / box["image"]
            width, height = read_image(path).size
            mask = np.zeros((height, width), bool)
            x, y, w, h = (float(box[key]) for key in "xywh")
            mask[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))] = True
            maps = sign_maps(backbone, bank, path)
            cells = touched(mask, maps.shape[1:])
            own = [bank.texts.index(text) for text in bank.signs_of(box["finding"])]
            hits.append(np.mean([cells.flat[maps[s].argmax()] for s in own]))
            chance.append(cells.mean())
    return float(np.mean(hits)), float(np.mean(chance)), len(hits)


def plain(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with images and boxes.csv")
    parser.add_argument("--images", type=int, default=40, help="of each modality, for deletion and insertion")
    args = parser.parse_args()
    clip, untrained = load_clip(), load_clip(pretrained="random")
    errors, known, new, random, curves = [], [], [], [], []
    told: dict[str, list[np.ndarray]] = {}
    for name, kind in tqdm(MODALITIES.items(), desc="modalities"):
        bank, train, test = samples(name)
        support, _ = support_and_validation(train, SHOTS, SEED)
        detector = load_or_fit(support, bank, clip, f"all_{name}", SEED)
        errors.append(sum_error(detector, test.images))
        for group, categories in (("seen", kind.seen), ("kept_out", kind.kept_out)):
            for figure, values in reasons(detector, test, categories).items():
                told.setdefault(f"{figure}_{group}", []).append(values)
        seen = {sign.text for sign in kind.seen_signs}
        for text, hit, chance in pointing(clip, bank, test):
            (known if text in seen else new).append((hit, chance))
        random += [(hit, chance) for _, hit, chance in pointing(untrained, bank, test)]
        drawn = [row for row in range(len(test)) if test.meta["signs"][row]][: args.images]
        z = (clip.encode_images(test.images, color=bank.color) @ clip.encode_texts(bank.texts).T).numpy()
        found = courses(clip, bank, test, drawn, np.random.default_rng(SEED))
        curves.append((found[:, :, 0] - found[:, :, 1]).mean(0) / z.std(0).mean())
    every = known + new
    result = {
        "sum_error_max": float(f"{max(errors):.2g}"),
        "pointing_game": plain([hit for hit, _ in every]),
        "pointing_game_chance": plain([chance for _, chance in every]),
        "pointing_game_seen_signs": plain([hit for hit, _ in known]),
        "pointing_game_kept_out_signs": plain([hit for hit, _ in new]),
        "pointing_game_random_weights": plain([hit for hit, _ in random]),
        **{figure: plain(np.concatenate(values)) for figure, values in told.items()},
        "deletion": plain([curve[0] for curve in curves]),
        "insertion": plain([curve[1] for curve in curves]),
        "signs_with_a_place": len(every),
        "pointing_game_boxes": None,
    }
    if args.real:
        hits, chance, count = boxes(clip, args.real)
        result |= {"pointing_game_boxes": round(hits, 4), "boxes_chance": round(chance, 4), "boxes": count}
    print(NOTICE)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
