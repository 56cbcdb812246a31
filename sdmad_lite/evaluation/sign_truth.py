"""Are the reasons true? What signs say of an image against which signs are in it.

A detector can find a category and name a wrong sign for it. Where it is known which signs an image shows, as in
phantoms, four figures tell: does the score of a sign know its sign from the others of the category (`within`), does
the longest bar of an explanation name a sign that is there, does the heat map point at it (`points_at`), and does it
tell its pixels from others (`pixel_auroc`).
All [ours].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import zoom
from sklearn.metrics import roc_auc_score

LEAST = 8
"""Images with a sign, and without it, that an AUROC needs."""


@dataclass(frozen=True)
class SignTruth:
    """within: AUROC of each sign's score for "this sign is in the image", among positives of its category, (S,); nan
    where fewer than `LEAST` images of either kind are there. bars: for each image and category that shows some but not
    all of its signs, (longest bar is true, share of its signs that are there, share of pairs of one that is there and
    one that is not of which the former has the longer bar), (B, 3).
    """

    within: np.ndarray
    bars: np.ndarray

    @property
    def auroc(self) -> float:
        """Mean of `within` over signs; nan where none can be judged."""
        return float(np.nanmean(self.within)) if np.isfinite(self.within).any() else float("nan")

    @property
    def longest_true(self) -> float:
        """Share of longest bars that name a sign that is there."""
        return float(self.bars[:, 0].mean()) if len(self.bars) else float("nan")

    @property
    def longest_chance(self) -> float:
        """The same of a sign picked at random."""
        return float(self.bars[:, 1].mean()) if len(self.bars) else float("nan")


def sign_truth(
    scores: np.ndarray, drawn: np.ndarray, labels: np.ndarray, membership: np.ndarray, bars: np.ndarray | None = None
) -> SignTruth:
    """Measure what N images say of S signs of C categories.

    Args:
        scores: z (N, S). drawn: (N, S) in {0, 1}, the signs in each image. labels: Y (N, C) in {0, 1}.
        membership: M (C + 1, S). bars: (N, C, S) contributions of signs to logits; left out, scores are the bars.
    """
    within, rows = np.full(scores.shape[1], np.nan), []
    for s in range(scores.shape[1]):
        has_category = (labels @ membership[1:, s]) > 0
        there = drawn[has_category, s]
        if LEAST <= there.sum() <= len(there) - LEAST:
            within[s] = roc_auc_score(there, scores[has_category, s])
    for c, own in enumerate(membership[1:] > 0):
        for n in np.flatnonzero(labels[:, c]):
            there, length = drawn[n, own].astype(bool), (scores[n] if bars is None else bars[n, c])[own]
            if there.any() and not there.all():
                gaps = length[there][:, None] - length[~there]
                rows.append((there[length.argmax()], there.mean(), ((gaps > 0) + 0.5 * (gaps == 0)).mean()))
    return SignTruth(within, np.array(rows, float).reshape(-1, 3))


def points_at(maps: np.ndarray, masks: Sequence[np.ndarray | None]) -> np.ndarray:
    """(M, 2) of each sign that is in an image: does its brightest patch touch it, and by what chance would any.

    Args:
        maps: (S, h, w) of one image. masks: for each sign the (H, W) bool region where it is, or None.
    """
    found = []
    for heat, mask in zip(maps, masks, strict=True):
        if mask is not None and (cells := touched(mask, heat.shape)).any():
            found.append((float(cells.flat[np.nanargmax(heat)]), float(cells.mean())))
    return np.array(found).reshape(-1, 2)


def pixel_auroc(maps: np.ndarray, masks: Sequence[np.ndarray | None]) -> np.ndarray:
    """(M,) AUROC of each sign that is in an image: its map, drawn as large as the mask, over pixels in and out of it.

    Args:
        maps: (S, h, w) of one image. masks: for each sign the (H, W) bool region where it is, or None.
    """
    found = []
    for heat, mask in zip(maps, masks, strict=True):
        if mask is not None and 0 < np.count_nonzero(mask) < mask.size:
            wide = np.divide(mask.shape, heat.shape)
            filled = np.nan_to_num(heat, nan=np.nanmin(heat))
            found.append(
                roc_auc_score(mask.ravel(), zoom(filled, wide, order=1, grid_mode=True, mode="nearest").ravel())
            )
    return np.array(found)


def touched(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: the patches of which a mask (H, W) covers any pixel."""
    rows, columns = (np.arange(n) * k // n for n, k in zip(mask.shape, shape, strict=True))
    out = np.zeros(shape, bool)
    np.logical_or.at(out, (rows[:, None], columns[None]), mask.astype(bool))
    return out
