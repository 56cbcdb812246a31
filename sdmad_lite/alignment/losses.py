"""The losses of stage 1: align signs with their categories and push the categories apart.

Pure functions of unit embeddings u (N, D), v (S, D), labels Y (N, C) and signed weights W (C, S) or membership
M (C+1, S), whose row 0 is normal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def inter_anomaly_loss(logits: Tensor, labels: Tensor, hardness: float = 0.0) -> Tensor:
    """Multi-label loss: pull an image to the signs of all it has, push it from those of all it has not.

    [paper] inter-anomaly alignment; [ours] as balanced binary cross-entropy, so that a co-occurring
    category is never a negative. Positives and negatives of a category weigh the same in total.

    Args:
        logits: (N, C), unbounded.
        labels: (N, C) in {0, 1}, or between where images are mixed.
        hardness: exponent g of the factor (1 - p_correct)^g; 0 for none.
    """
    positive = labels.sum(0).clamp(min=1)
    negative = (1 - labels).sum(0).clamp(min=1)
    balance = labels / positive + (1 - labels) / negative
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    if hardness:
        loss = loss * (1 - torch.exp(-loss)) ** hardness
    return (balance * loss).sum() / (2 * labels.shape[1])


def discrepancy_loss(v: Tensor, membership: Tensor) -> Tensor:
    """Mean squared cosine between the categories' sign centroids, after their common mean is taken off.

    [paper] "amplify the inter-anomaly discrepancy"; [ours] this form. Shared signs are left out of
    the centroids, so that sharing a sign is not punished; a category without a sign of its own, and
    a bank with fewer than two other categories, give 0.
    """
    own = membership[1:] * (membership[1:].sum(0, keepdim=True) == 1)
    size = own.sum(1, keepdim=True)
    there = (size > 0).to(v.dtype)  # (C, 1); as a factor, for to choose rows by it would wait for a GPU
    count = there.sum()
    centroids = own @ v / size.clamp(min=1)
    centroids = F.normalize(centroids - (centroids * there).sum(0) / count.clamp(min=1), dim=-1)
    pairs = (there @ there.T).fill_diagonal_(0)
    # directions of n centred points cannot all be orthogonal: -1/(n-1) is as far apart as they get
    above = (centroids @ centroids.T + 1 / (count - 1).clamp(min=1)).clamp(min=0) ** 2
    return (above * pairs).sum() / pairs.sum().clamp(min=1)


def intra_anomaly_loss(v: Tensor, frozen: Tensor, membership: Tensor) -> Tensor:
    """How much closer the signs of one category have come to each other than in the frozen model.

    [paper] names an intra-anomaly alignment; [ours] this form, which keeps a category's signs from
    collapsing into one point, because stage 2 needs them to differ.

    Args:
        v, frozen: (S, D) unit embeddings now and before training.
        membership: (C+1, S).
    """
    same = (membership.T @ membership > 0).float().fill_diagonal_(0)
    gain = (v @ v.T - frozen @ frozen.T).clamp(min=0) ** 2
    return (gain * same).sum() / same.sum().clamp(min=1)
