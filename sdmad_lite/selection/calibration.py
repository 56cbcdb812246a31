"""From margins to decisions: scale, bias and threshold of each category. [ours]

Stage 2 changes which signs speak, not how sure stage 1 was: `Calibration` brings the new margins to where the logits of
stage 1 were. Thresholds are those of best F1 on the support set.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import precision_recall_curve


def class_means(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(2, C): mean of values (N, C) over each category's positives, and over its negatives."""
    return np.array([[v[y == value].mean() for v, y in zip(values.T, labels.T, strict=True)] for value in (1, 0)])


def typical(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(C, S) z of a typical image of each category: the mean of its positives and one average negative.

    [ours] Bars that are counted from it name signs that are in the image more often than bars counted from a normal
    image, where all signs of a category rise together; the negative keeps it steady where positives are few.

    Args:
        total: (C + 1, S) sums of z over each category's positives and, last, over all images. count: (C + 1,) of them.
    """
    positives, negatives = count[:-1, None], count[-1] - count[:-1, None]
    return (total[:-1] + (total[-1] - total[:-1]) / negatives) / (positives + 1)


class Calibration:
    """Scale and bias of each category that bring its class means to wanted ones; scikit-learn's shape.

    Args:
        fallback_scale: of a category whose positives lie no higher than its negatives; its middle comes to 0.

    After `fit`: scale_ (C,) and bias_ (C,).
    """

    def __init__(self, fallback_scale: float = 10.0):
        self.fallback_scale = fallback_scale

    def fit(self, found: np.ndarray, wanted: np.ndarray | None = None) -> Calibration:
        """From class means (2, C) of margins, see `class_means`, to wanted ones; 1 and -1 where none are given."""
        wanted = np.array([[1.0], [-1.0]]) if wanted is None else wanted
        gap = found[0] - found[1]
        usable = (gap > 1e-6) & (wanted[0] > wanted[1])
        self.scale_ = np.where(usable, (wanted[0] - wanted[1]) / np.where(usable, gap, 1), self.fallback_scale)
        self.bias_ = np.where(usable, wanted.mean(0), 0) - self.scale_ * found.mean(0)
        return self

    def transform(self, margins: np.ndarray) -> np.ndarray:
        """Margins g (N, C) to logits (N, C)."""
        return self.scale_ * margins + self.bias_


def best_f1_thresholds(scores: np.ndarray, labels: np.ndarray, prior: float = 0.0) -> np.ndarray:
    """(C,) the threshold of best F1 for each category, midway to the next lower score, or to 0.

    Args:
        scores: (N, C) probabilities, of the support set only. labels: (N, C), a positive per category.
        prior: positives' worth of pull towards 0.5 [ours], because the support images also trained the scores: on
            them these look better separated than on new ones.
    """
    thresholds = np.empty(scores.shape[1])
    for c, (score, y) in enumerate(zip(scores.T, labels.T, strict=True)):
        precision, recall, steps = precision_recall_curve(y, score)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = steps[np.argmax(f1[:-1])]
        thresholds[c] = (best + score.max(initial=0, where=score < best)) / 2
    positives = labels.sum(0)
    return (positives * thresholds + prior * 0.5) / (positives + prior)
