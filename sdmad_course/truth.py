"""Is a reason true? What a detector says of signs, against what was drawn: bars, heat maps, and parts taken away.

That an explanation sums to the logit makes it faithful; it does not make it correct. Phantoms know which signs they
show and where, so it can be counted how often a bar, or a map, names what is there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, cast

import numpy as np
from PIL import Image, ImageFilter

from sdmad_lite.clip.backbone import Backbone
from sdmad_lite.data import ImageTable, read_image
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.sign_truth import points_at, sign_truth
from sdmad_lite.explain import sign_maps
from sdmad_lite.signs.bank import SignBank
from sdmad_phantoms.samples import load_masks


class Bars(NamedTuple):
    """How true bars are, over images that show a category by some of its signs and not by others.

    first: share in which the longest bar is a drawn sign; chance: share of drawn signs, what a blind pick would hit.
    pairs: share of pairs (drawn, not drawn) in which the drawn sign has the longer bar; chance is a half.
    """

    cases: int
    first: float
    chance: float
    pairs: float


def bars_against_truth(
    detector: SDMAD, cosines: np.ndarray, labels: np.ndarray, drawn: Sequence[Collection[str]]
) -> Bars:
    """Count over images with cosines z (N, S), labels Y (N, C) and the texts of the signs that each shows."""
    there = np.array([[text in shown for text in detector.bank.texts] for shown in drawn])
    bars = sign_truth(cosines, there, labels, detector.membership, detector.contributions(cosines)).bars
    first, chance, pairs = bars.mean(0).tolist() if len(bars) else [np.nan] * 3
    return Bars(len(bars), first, chance, pairs)


class Pointing(NamedTuple):
    """How often the hottest patch of a sign's map touches where the sign was drawn, and how often any patch would."""

    signs: int
    hit: float
    chance: float


def maps_against_truth(model: SDMAD | Backbone, bank: SignBank, table: ImageTable, rows: Sequence[int]) -> Pointing:
    """The pointing game over the drawn signs of some images of a sample set, for a detector or a frozen model."""
    text, found = {sign.id: sign.text for sign in bank.signs}, list[np.ndarray]()
    for row in rows:
        masks = {text[name]: mask for name, mask in load_masks(table, row).items() if name in text}
        if masks:
            image = table.images[row]
            maps = model.sign_maps(image) if isinstance(model, SDMAD) else sign_maps(model, bank, image)
            found.extend(points_at(maps, [masks.get(sign) for sign in bank.texts]))
    hit, chance = np.mean(found, axis=0) if found else (np.nan, np.nan)
    return Pointing(len(found), float(hit), float(chance))


def without(picture: Image.Image, patches: np.ndarray) -> Image.Image:
    """The picture with some of its patches (h, w) blurred away."""
    sharp, soft = (np.asarray(p) for p in (picture, picture.filter(ImageFilter.GaussianBlur(10))))
    gone = np.asarray(Image.fromarray(patches).resize(picture.size, Image.Resampling.NEAREST))
    return Image.fromarray(np.where(gone if sharp.ndim == 2 else gone[..., None], soft, sharp))


def score_map(detector: SDMAD, image, category: str, side: int = 8) -> np.ndarray:
    """(side, side): how far the category's logit falls when this square of the image is blurred away.

    Unlike the map of a sign it asks the whole score: all signs, of the whole image too, and the image evidence.
    """
    picture, c = read_image(image, detector.bank.color), detector.bank.categories.index(category)
    squares = np.eye(side * side, dtype=bool).reshape(-1, side, side)
    logits = detector.decision_function([picture, *(without(picture, square) for square in squares)])[:, c]
    return cast(np.ndarray, logits[0] - logits[1:]).reshape(side, side)


def deletion(detector: SDMAD, image, category: str, heat: np.ndarray, share: float = 0.1, seed: int = 0) -> np.ndarray:
    """(2,): how far the logit falls without the patches that a map (h, w) calls most important, and without others.

    The others are as many patches drawn by chance, the mean of five draws.
    """
    picture, c = read_image(image, detector.bank.color), detector.bank.categories.index(category)
    count, rng = max(1, round(share * heat.size)), np.random.default_rng(seed)
    orders = [np.argsort(-heat, axis=None), *(rng.permutation(heat.size) for _ in range(5))]
    gone = [np.isin(np.arange(heat.size), order[:count]).reshape(heat.shape) for order in orders]
    logits = detector.decision_function([picture, *(without(picture, patches) for patches in gone)])[:, c]
    falls = logits[0] - logits[1:]
    return np.array([falls[0], falls[1:].mean()])
