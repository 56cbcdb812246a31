"""Closed forms: what cases teach a fitted detector, from sums alone and without training. [ours]

A case is x = (z, h), what `SDMAD.features` gives. Weights of signs and image evidence are discriminants of class means
and of the spread within the classes, which follow from `Moments`.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

import numpy as np
import torch

from ..detector import SDMAD
from ..selection import Calibration, discriminant_weights, equal_weights, typical
from ..signs.bank import parse_bank
from .moments import Moments

FITTED = ("scale_", "bias_", "image_weights_", "image_bias_", "weights_", "thresholds_", "reasons_", "reference_")


def learnt(detector: SDMAD, sums: Moments, prior: float | np.ndarray = 4.0) -> SDMAD:
    """A copy of a detector that has learnt from cases, whose sums are those of `Moments.of`.

    The cases' own share of a category's logit is p / (p + prior), p its positives or, if fewer, the others. Their part
    is the logit that two normal distributions have: 0 in the middle of the class means, steep where they lie far apart.

    Args:
        prior: positives' worth of trust in what was fitted, for all categories or each (C,).
    """
    new, wide = copy.copy(detector), detector.membership.shape[1]
    vars(new).update({name: copy.copy(getattr(detector, name)) for name in FITTED})
    n, by_image = sums.count[-1], detector.evidence.share
    fewer = np.minimum(sums.count[:-1], n - sums.count[:-1])
    if not (known := np.flatnonzero(fewer)).size:
        return new
    some = Moments(sums.count[[*known, -1]], sums.total[[*known, -1]], sums.square)
    means, count = some.means(), np.stack([some.count[:-1], n - some.count[:-1]])
    # two directions with class means at 1/2 and -1/2, of signs and of activations
    signs = np.stack([_sign_weights(detector, some, i, c, int(fewer[c])) for i, c in enumerate(known.tolist())])
    images, chance = _image_weights(means[0, :, wide:] - means[1, :, wide:], some, wide)
    half = np.array([[0.5], [-0.5]]) * np.ones_like(count)
    sign_fit = Calibration(0).fit((means[:, :, :wide] * signs).sum(-1), half)
    # in the very cases that it came from, a direction of many dimensions finds chance as well: up to 3/4 of the gap
    found = (means[:, :, wide:] * images).sum(-1)
    chance = np.minimum(chance * (1 / count).sum(0), 0.75 * (found[0] - found[1])) / (1 / count).sum(0)
    image_fit = Calibration(0).fit(found - 2 * half * chance / count, half)
    to_signs, to_images = (1 - by_image) * sign_fit.scale_[:, None], by_image * image_fit.scale_[:, None] * images
    # how steep: by the spread of both together within the classes
    both, centre = np.hstack([to_signs * signs, to_images]), sums.total[-1] / n
    whole = ((both @ sums.square[0]) * both).sum(1) / n - (both @ centre) ** 2
    within = whole - count.prod(0) / n**2 * ((means[0] - means[1]) * both).sum(1) ** 2
    share = fewer[known] / (fewer[known] + np.broadcast_to(prior, fewer.shape)[known])
    part, rest = (share / np.maximum(within, 0.2))[:, None], (1 - share)[:, None]  # 0.2: no surer than five times
    mixed = rest * detector.scale_[known, None] * detector.weights_[known] + part * to_signs * signs
    size = (mixed * detector.membership[1:][known]).sum(1)
    new.scale_[known], spoken = size, known[size > 0]
    new.weights_[spoken] = mixed[size > 0] / size[size > 0, None]
    new.image_weights_[known] = rest * detector.image_weights_[known] + part * to_images
    part, rest = part[:, 0], rest[:, 0]
    seen = typical(some.total[:, :wide], some.count)
    new.reference_[known] += share[:, None] * (seen - detector.reference_[known])
    new.bias_[known] = rest * detector.bias_[known] + part * (1 - by_image) * sign_fit.bias_
    new.image_bias_[known] = rest * detector.image_bias_[known] + part * by_image * image_fit.bias_
    for c in known.tolist():
        why = f"weighed anew with {sums.count[c]:.0f} cases that show it"
        new.reasons_[c] = {s: f"{'kept' if new.weights_[c, s] else 'dropped'}; {why}" for s in detector.reasons_[c]}
    return new


def _image_weights(gaps: np.ndarray, sums: Moments, wide: int) -> tuple[np.ndarray, float]:
    """(C, d): discriminants of activations whose class means lie `gaps` (C, d) apart, shrunk to prototypes.

    Their common spread is that of all cases: a category's own, within its classes, has the same direction. With it
    comes what chance adds to the gap along such a direction, times the number of images in a class.
    """
    n = sums.count[-1]
    mean = sums.total[-1, wide:] / n
    covariance = sums.square[0, wide:, wide:] / n - np.outer(mean, mean)
    spread = np.sqrt(covariance.diagonal().clip(0)) + 1e-3
    shrink = len(spread) / (len(spread) + n)
    inside = (1 - shrink) * covariance / np.outer(spread, spread) + shrink * np.eye(len(spread))
    inverse = np.linalg.inv(inside)
    return (gaps / spread) @ inverse / spread, (len(spread) - shrink * np.trace(inverse)) / (1 - shrink)


def _sign_weights(detector: SDMAD, sums: Moments, i: int, c: int, fewer: int) -> np.ndarray:
    """(S,) of category c, which is the i-th of the sums: pulled to those it had, and these where no sign is higher."""
    membership, config, had = detector.membership, detector.selection, detector.weights_[c]
    signs = np.flatnonzero(membership[c + 1] + membership[0])
    side = np.where(membership[0, signs] > 0, -1.0, 1.0)
    found = discriminant_weights(sums.spread(i, signs, side), np.abs(had[signs]), fewer, config.shrink, config.pull)
    weights = np.zeros_like(had)
    weights[signs] = found * side
    size = found[side > 0].sum()
    return weights / size if size else had


def with_finding(detector: SDMAD, name: str, signs: Sequence[str], vectors: np.ndarray) -> SDMAD:
    """A copy of a detector whose bank has one more category, last; it says nothing of it before `learnt`.

    Args:
        signs: texts, of which the bank may have some. vectors: (len(signs), D) their unit embeddings after stage 1.

    Raises:
        BankError: the category is there, or a sign is a normal one.
    """
    new, bank = copy.copy(detector), detector.bank
    rows = [sign.model_dump() for sign in bank.signs]
    rows += [{"text": text, "categories": []} for text in signs if text not in [sign.text for sign in bank.signs]]
    for row in rows:
        row["categories"] = [*row["categories"], *[name] * (row["text"] in signs)]
    change = {"categories": [*bank.categories, name], "signs": rows}
    new.bank = parse_bank(bank.model_dump() | change, f"finding {name!r}")
    new.membership, texts = new.bank.membership(), new.bank.texts
    places = [texts.index(text) for text in bank.texts]
    known = dict(zip([*signs, *bank.texts], [*torch.from_numpy(vectors), *detector.sign_embeddings_], strict=True))
    new.sign_embeddings_ = torch.stack([known[text] for text in texts])
    vars(new).update({n: np.concatenate([had := getattr(detector, n), 0 * had[:1]]) for n in FITTED[:4]})
    new.weights_ = equal_weights(new.membership)
    new.weights_[:-1] = 0
    new.weights_[:-1, places] = detector.weights_
    new.reference_ = np.full(new.weights_.shape, detector.reference_.mean())
    new.reference_[:-1, places] = detector.reference_
    new.thresholds_ = np.append(detector.thresholds_, 0.5)
    own = np.flatnonzero(new.membership[-1] + new.membership[0]).tolist()
    new.reasons_ = [{places[s]: why for s, why in reasons.items()} for reasons in detector.reasons_]
    new.reasons_.append(dict.fromkeys(own, "kept; no case has shown it yet"))
    return new


def drift(h: np.ndarray, ruler: int = 30) -> np.ndarray:
    """Evidence (n,) that cases h (n, d), in order, no longer come as they did; 0 for those of the ruler.

    How far a case lies from the ruler's mean, in units of its spread, is ranked among the earlier ones; four bets on
    high or low ranks grow with what they win (Shiryaev-Roberts). Cases in any random order reach a height of R at most
    once in R cases on average, whatever they look like.
    """
    mean, spread = (h[:ruler].mean(0), h[:ruler].std(0) + 1e-3) if len(h) else (0, 1)
    evidence, bets, wealth = np.zeros(len(h)), np.array([-2.0, -1.0, 1.0, 2.0]), np.zeros(4)
    seen: list[float] = []
    for i in range(ruler, len(h)):
        odd = float((((h[i] - mean) / spread) ** 2).mean())
        rank = (bisect_left(seen, odd) + bisect_right(seen, odd) + 1) / 2 / (len(seen) + 1)
        insort(seen, odd)
        wealth = np.minimum((wealth + 1) * (1 + bets * (rank - 0.5)), 1e12)
        evidence[i] = wealth.mean()
    return evidence
