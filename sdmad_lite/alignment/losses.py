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
    own = own[own.sum(1) > 0]
    if len(own) < 2:
        return v.new_zeros(())
    centroids = own @ v / own.sum(1, keepdim=True)
    centroids = F.normalize(centroids - centroids.mean(0), dim=-1)
    cosine = centroids @ centroids.T
    off = ~torch.eye(len(own), dtype=torch.bool, device=v.device)
    # directions of n centred points cannot all be orthogonal: -1/(n-1) is as far apart as they get
    return ((cosine[off] + 1 / (len(own) - 1)).clamp(min=0) ** 2).mean()


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
