"""Does a CLIP see what the signs say? Its own weights beside shuffled ones, on a user's images. [ours]"""

from __future__ import annotations

from copy import copy, deepcopy
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from ..data import ImageTable
from ..errors import DataError
from ..selection import equal_weights, margins
from ..signs import Finding, SignBank

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

DRAWS, MAX_IMAGES = 19, 200
"""Models that it is compared with, and images that are looked at."""


def check_sight(bank: SignBank, backbone: Backbone, table: ImageTable) -> Finding:
    """Macro AUROC of the signs without any training, beside 19 models whose weights are shuffled in each tensor.

    Had nothing been loaded, the model would be one of them: it stands above all 19 in one case of 20, and the finding
    is a note; else it is a warning. Raises DataError: no category has images with and without it.
    """
    weights, some = equal_weights(bank.membership()), np.random.default_rng(0).permutation(len(table))[:MAX_IMAGES]
    table = table.rows(np.sort(some))
    known = [c for c, y in enumerate(table.labels.T) if 0 < y.sum() < len(y)]
    if not known:
        raise DataError("images: no category has images with and without it; give both")

    def auroc(model: Backbone) -> float:
        cosines = model.encode_images(table.images, color=bank.color) @ model.encode_texts(bank.texts).T
        scores = np.nan_to_num(margins(cosines.double().numpy(), weights))
        return float(np.mean([roc_auc_score(table.labels[:, c], scores[:, c]) for c in known]))

    loaded, other, generator = auroc(backbone), copy(backbone), torch.Generator().manual_seed(0)
    other.model, others = deepcopy(backbone.model), list[float]()
    for _ in range(DRAWS):
        for tensor in other.model.parameters():
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
        others.append(auroc(other))
    beside = f"with shuffled weights {min(others):.3f} to {max(others):.3f} ({DRAWS} draws)"
    said = f"{backbone.name} on {len(table)} images: macro AUROC without training {loaded:.3f}, {beside}"
    if loaded > max(others):
        return Finding("blind", said, "", "note", "with nothing loaded it would stand above all in one case of 20")
    return Finding("blind", said)
