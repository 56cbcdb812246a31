"""Image evidence: what the layers below the first Shift Adapter see, beside what the signs say.

[ours] Signs name what a language model thought of; an anomaly also shows in exposure, texture and size that no sign
names. Those are plainest in the middle of the image tower, where activations pass by on every scoring anyway: a
logistic regression on them costs no second pass. A detector's logit is a mean of its logit and the signs'. It speaks
beside the signs, never through them: explanations list it as one part, and stage 2 does not see it.
docs/results.md says what it is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from ..settings import Positive, Settings, Share
from .calibration import Calibration, class_means


@dataclass(frozen=True)
class EvidenceConfig(Settings):
    """How much the image itself says [ours], chosen on validation draws (`tools/ablations.py`)."""

    share: Share = 0.5  # of the image logit in the logit; 0 leaves the signs alone
    strength: Positive = 1.0  # inverse penalty of the logistic regression


class ImageEvidence:
    """A logistic regression for each category on pooled activations; scikit-learn's shape.

    [ours] Its class means on the support set become those of the signs' logits, so that neither drowns the other.

    After `fit`: weights_ (C, d) and bias_ (C,); the image logits of activations h (N, d) are h W' + b.
    """

    def __init__(self, config: EvidenceConfig | None = None):
        self.config = config or EvidenceConfig()

    def fit(self, activations: np.ndarray, labels: np.ndarray, sign_logits: np.ndarray) -> ImageEvidence:
        """Learn from the support set.

        Args:
            activations: h (A, N, d) in A augmentations of the images, the first unchanged.
            labels: Y (N, C) in {0, 1}, both values in each column.
            sign_logits: (N, C) what the signs say of the unchanged images.
        """
        width = activations.shape[-1]
        if not self.config.share:  # it has no say: nothing to learn
            self.weights_, self.bias_ = np.zeros((labels.shape[1], width)), np.zeros(labels.shape[1])
            return self
        every = activations.reshape(-1, width), np.tile(labels, (len(activations), 1))
        weights, bias = logistic(*every, self.config.strength)
        logits = activations[0] @ weights.T + bias
        return self.scaled(weights, bias, class_means(logits, labels), class_means(sign_logits, labels))

    def scaled(self, weights: np.ndarray, bias: np.ndarray, found: np.ndarray, wanted: np.ndarray) -> ImageEvidence:
        """Take a regression, W (C, d) and b (C,), as sure as the signs are: its class means (2, C), and theirs."""
        calibration = Calibration(fallback_scale=1.0).fit(found, wanted)
        self.weights_ = calibration.scale_[:, None] * weights
        self.bias_ = calibration.scale_ * bias + calibration.bias_
        return self


def logistic(x: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Balanced logistic regression for each category on standardised features, as weights of the plain ones.

    Args:
        x: (N, d). labels: (N, C) in {0, 1}, both values in each column. strength: inverse penalty.

    Returns:
        W (C, d) and b (C,): the logits are x W' + b.
    """
    centre, spread = x.mean(0), x.std(0) + 1e-6
    scaled = (x - centre) / spread
    models = [LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(scaled, y) for y in labels.T]
    weights = np.concatenate([model.coef_ for model in models]) / spread
    return weights, np.concatenate([model.intercept_ for model in models]) - weights @ centre
