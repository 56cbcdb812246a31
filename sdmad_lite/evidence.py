"""Image evidence: what the layers below the first Shift Adapter see, beside what the signs say.

[ours] Signs name what a language model thought of; an anomaly also shows in exposure, texture and size that no sign
names. Those are plainest in the middle of the image tower, where activations pass by on every scoring anyway, so that
this evidence costs no second pass. A logistic regression on them, one for each category, gives the image logit, and
a detector's logit is a mean of it and the signs' logit. It speaks beside the signs, never through them: explanations
list it as one part of the logit, and stage 2 does not see it.

Measured (docs/results.md): on phantoms it is worth as much as all signs together or more, on real radiographs the signs
are worth more. The mean is near the better of the two in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from .adapters import first_adapted, vision_blocks
from .errors import SDMADError

if TYPE_CHECKING:
    from .backbone import Backbone


@dataclass(frozen=True)
class EvidenceConfig:
    """How much the image itself says [ours], chosen on validation draws (`scripts/ablations.py`)."""

    share: float = 0.5
    """Share of the image logit in the logit, in [0, 1]; 0 leaves the signs alone."""
    strength: float = 1.0
    """Inverse penalty of the logistic regression."""

    def __post_init__(self):
        if not 0 <= self.share <= 1 or self.strength <= 0:
            raise SDMADError(f"{self}: share must be in [0, 1], strength above 0")


def pooled(tokens: Tensor) -> Tensor:
    """Tokens (..., P, width) to h (..., 3 width): mean, maximum and deviation over normalised tokens.

    [ours] The maximum keeps a small finding that the mean drowns, the deviation keeps texture.
    """
    tokens = F.layer_norm(tokens.float(), tokens.shape[-1:])
    mean = tokens.mean(-2, keepdim=True)
    spread = (tokens - mean).square().mean(-2).sqrt()  # twice as fast as std
    return torch.cat([mean.squeeze(-2), tokens.amax(-2), spread], -1)


def evidence_width(adapters: nn.ModuleDict, embedding: int) -> int:
    """Width of h as `overheard` gives it, for embeddings of width `embedding`."""
    widths = (3 * adapter.down.in_features for name, adapter in adapters.items() if name.startswith("image_"))
    return next(widths, embedding)


@contextmanager
def overheard(backbone: Backbone) -> Iterator[list[Tensor]]:
    """Inside the block every encoded batch leaves its h (n, d), on the model's device, in the list.

    It is `pooled` from what enters the first layer with an adapter; without one it is the frozen embedding u.
    """
    start, out = first_adapted(backbone.model), []
    if start is None:

        def keep(tower, args, u):
            u = u[0] if isinstance(u, tuple) else u  # CoCa gives its tokens too
            out.append(F.normalize(u, dim=-1).float())

        handle = backbone.model.visual.register_forward_hook(keep)
    else:
        block = vision_blocks(backbone.model)[start]
        handle = block.register_forward_pre_hook(lambda block, args: out.append(pooled(args[0])))
    try:
        yield out
    finally:
        handle.remove()


def logistic(x: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Balanced logistic regression for each category on standardised features, as weights of the plain ones.

    Args:
        x: (N, d). labels: (N, C) in {0, 1}, both values in each column. strength: inverse penalty.

    Returns:
        W (C, d) and b (C,): the logits are x W' + b.
    """
    centre, spread = x.mean(0), x.std(0) + 1e-6
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    models = [clone(model).fit((x - centre) / spread, y) for y in labels.T]
    weights = np.concatenate([m.coef_ for m in models]) / spread
    return weights, np.concatenate([m.intercept_ for m in models]) - weights @ centre
