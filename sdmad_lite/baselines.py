"""What a course will ask to compare with, on the same frozen features and the same support set.

Every baseline is a function of unit features: (u_support (N, D), labels (N, C), u_test (T, D)) -> scores
(T, C), or of sign embeddings v (S, D) where it uses text. Higher means more likely.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from torch import Tensor

from .alignment import category_margins, inter_anomaly_loss, uniform_weights


def zero_shot(u_test: Tensor, v: Tensor, membership: Tensor) -> np.ndarray:
    """Mean cosine of all signs of a category minus that of the normal signs, nothing trained.

    Source: CLIP's prompt ensembling (Radford et al. 2021, arXiv 2103.00020), with signs for prompts.
    """
    return category_margins(u_test, v, uniform_weights(membership)).numpy()


def prototypes(u: Tensor, labels: np.ndarray, u_test: Tensor) -> np.ndarray:
    """Cosine with the mean positive of a category minus that with the mean of its negatives.

    Source: Snell et al. 2017 (arXiv 1703.05175), one-against-rest because categories co-occur.
    """
    out = []
    for y in labels.T:
        positive, negative = (F.normalize(u[y == value].mean(0), dim=0) for value in (1, 0))
        out.append(u_test @ positive - u_test @ negative)
    return torch.stack(out, 1).numpy()


def linear_probe(u: Tensor, labels: np.ndarray, u_test: Tensor, seed: int = 0) -> np.ndarray:
    """Balanced logistic regression per category; its strength is cross-validated where shots allow.

    Source: the linear probe of Radford et al. 2021 (arXiv 2103.00020).
    """
    x, x_test = u.double().numpy(), u_test.double().numpy()
    centre, spread = x.mean(0), x.std(0) + 1e-6
    x, x_test = (x - centre) / spread, (x_test - centre) / spread
    out = []
    for y in labels.T:
        folds = min(4, int(y.sum()), int(len(y) - y.sum()))
        if folds < 2:
            model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        else:
            model = LogisticRegressionCV(
                Cs=np.logspace(-4, 1, 6),
                l1_ratios=(0,),
                cv=folds,
                class_weight="balanced",
                scoring="roc_auc",
                max_iter=2000,
                use_legacy_attributes=False,
            )
        out.append(model.fit(x, y).decision_function(x_test))
    return np.stack(out, 1)


def clip_adapter(
    u: Tensor, labels: np.ndarray, u_test: Tensor, v: Tensor, membership: Tensor, seed: int = 0, steps: int = 150
) -> np.ndarray:
    """A residual bottleneck on the image feature, scored against the fixed sign texts.

    Source: CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544); the multi-label loss is that of stage 1.
    """
    width, weights = u.shape[1], uniform_weights(membership)
    target = torch.as_tensor(labels, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = torch.nn.Sequential(
            torch.nn.Linear(width, width // 4), torch.nn.ReLU(), torch.nn.Linear(width // 4, width), torch.nn.ReLU()
        )
        scale = torch.tensor(np.log(10.0), dtype=torch.float32, requires_grad=True)
        bias = torch.zeros(target.shape[1], requires_grad=True)
        optimizer = torch.optim.AdamW([*layers.parameters(), scale, bias], lr=1e-2)

        def margin(x: Tensor) -> Tensor:
            mixed = 0.2 * layers(x) + 0.8 * x  # the paper's residual ratio
            return category_margins(F.normalize(mixed, dim=-1), v, weights)

        for _ in range(steps):
            loss = inter_anomaly_loss(margin(u) * scale.exp() + bias, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return (margin(u_test) * scale.exp() + bias).numpy()
