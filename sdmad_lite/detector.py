"""SDMAD: both stages behind `fit`, `predict_proba`, `explain`, `save` and `load`.

    detector = SDMAD("chest_phantoms").fit(images, labels)
    detector.predict_proba(more_images)

For teaching and research; not for clinical use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import expit

from .alignment.activations import record_activations
from .alignment.adapters import NO_ADAPTERS, AdapterConfig, build_adapters, installed
from .alignment.checkpoint import Checkpoints
from .alignment.compute import RunConfig
from .alignment.processes import own_device
from .alignment.train import AlignmentConfig, align
from .data import ImageTable
from .errors import DataError, NotFittedError, SDMADError
from .explain import CategoryExplanation, explanations, sign_maps
from .files import is_main
from .selection.image_evidence import EvidenceConfig, logistic
from .selection.sign_selector import (
    TRAINING_FREE,
    SelectionConfig,
    SignSelector,
    best_f1_thresholds,
    equal_weights,
    margins,
)
from .signs.bank import SignBank, load_bank
from .storage import load_detector, save_detector

if TYPE_CHECKING:
    from .clip.backbone import Backbone


def _class_means(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(2, C): mean of values (N, C) over each category's positives, and over its negatives."""
    return np.array([[v[y == value].mean() for v, y in zip(values.T, labels.T, strict=True)] for value in (1, 0)])


class SDMAD:
    """Sign-driven few-shot multi-anomaly detector.

    Args:
        bank: a SignBank, the name of a shipped bank, or the path of one.
        backbone: a Backbone, "embedded", or another open_clip name.
        pretrained: weights for another open_clip name, see `load_clip`.
        device: where to run; an accelerator if there is one when left out.
        adapters, alignment, selection, evidence: settings of the adapters, of stage 1, of stage 2 and of the image
            evidence. `SDMAD.training_free` is the mode without stage 1.
        random_state: seed of everything random; the same seed gives the same result on a CPU.
        run: how training is computed: precision, memory, checkpoints; not saved.

    Every argument is an attribute of the same name; `backbone` is the loaded one. After `fit`: weights_ (C, S),
    reasons_ (for each category, sign number -> why), thresholds_ (C,), scale_ (C,), bias_ (C,), image_weights_ (C, d)
    and image_bias_ (C,) of the image evidence, history_ (losses of each step), selector_ and support_cosines_
    (A, N, S), the cosines that it saw in each augmentation (both not saved).
    """

    def __init__(
        self,
        bank: SignBank | str | Path,
        *,
        backbone: Backbone | str = "embedded",
        pretrained: str | None = None,
        device: str | torch.device | None = None,
        adapters: AdapterConfig | None = None,
        alignment: AlignmentConfig | None = None,
        selection: SelectionConfig | None = None,
        evidence: EvidenceConfig | None = None,
        run: RunConfig | None = None,
        random_state: int = 0,
    ):
        self.bank = bank if isinstance(bank, SignBank) else load_bank(bank)
        if isinstance(backbone, str):
            from .clip.backbone import load_clip  # imports open_clip, which takes seconds

            backbone = load_clip(backbone, pretrained, own_device(device))
        self.backbone, self.pretrained, self.device = backbone, pretrained, device
        self.adapters = adapters or AdapterConfig()
        self.alignment = alignment or AlignmentConfig()
        self.selection = selection or SelectionConfig()
        self.evidence = evidence or EvidenceConfig()
        self.run = run or RunConfig()
        self.random_state = random_state
        if not self.alignment.steps and self.adapters != NO_ADAPTERS:
            raise SDMADError("alignment: 0 steps train nothing; use SDMAD.training_free(bank) for the frozen model")
        self.membership = self.bank.membership()
        self.backbone.tokenize(self.bank.texts)  # refuses a sign that is too long, before anything is trained

    @classmethod
    def training_free(cls, bank: SignBank | str | Path, *, augmentations: int = 8, **settings) -> SDMAD:
        """The mode without stage 1: the frozen model, its signs weighed by stage 2, no image evidence. [ours]

        Stage 2 trusts what signs show on the support set more than after stage 1, for the frozen model has not seen it.

        Args:
            bank: as for SDMAD.
            augmentations: versions of each support image that stage 2 sees.
            settings: further arguments of SDMAD; they replace those of this mode.
        """
        mode = {
            "adapters": NO_ADAPTERS,
            "alignment": AlignmentConfig(steps=0, augmentations=augmentations),
            "selection": TRAINING_FREE,
            "evidence": EvidenceConfig(share=0),
        }
        return cls(bank, **(mode | settings))

    def fit(
        self, images: Sequence, labels: np.ndarray, progress: bool = False, checkpoint: str | Path | None = None
    ) -> SDMAD:
        """Run both stages on the support set.

        Args:
            images: N paths, arrays or PIL images.
            labels: Y (N, C) in {0, 1}, columns in the order of `bank.categories`; zero rows are normal.
            checkpoint: folder for checkpoints of stage 1, which the same call goes on from if this one is stopped;
                on a CPU it ends with the same bits. They are removed when both stages are done.

        Raises:
            DataError: wrong shape or values, no normal image, or a category without a positive.
            CheckpointError: the checkpoints are of another run, or broken. OutputError: none can be written there.
        """
        labels = self._checked(images, labels)
        run = self.run
        checkpoints = Checkpoints(checkpoint, run.checkpoint_seconds, run.checkpoint_steps) if checkpoint else None
        adapters = build_adapters(self.backbone, self.adapters, self.random_state)
        aligned = align(
            self.backbone,
            adapters,
            images,
            labels,
            self.bank.texts,
            torch.from_numpy(self.membership),
            self.alignment,
            self.random_state,
            self.bank.color,
            progress,
            run=run,
            checkpoints=checkpoints,
        )
        self.adapters_, self.sign_embeddings_, self.history_ = adapters, aligned.v, aligned.history
        self.support_cosines_ = z = (aligned.u @ aligned.v.T).double().numpy()  # (views, N, S)
        self.selector_ = SignSelector(self.selection).fit(z, labels, self.membership)
        self.weights_, self.reasons_ = self.selector_.weights_, self.selector_.reasons_
        stage1 = margins(z[0], equal_weights(self.membership)) * aligned.scale + aligned.bias.double().numpy()
        wanted = _class_means(stage1, labels) if self.alignment.steps else np.array([[1.0], [-1.0]])
        self.scale_, self.bias_ = self._calibrated(_class_means(margins(z[0], self.weights_), labels), wanted)
        self._add_evidence(aligned.h.double().numpy(), z[0], labels)
        prior = self.selection.threshold_prior
        self.thresholds_ = best_f1_thresholds(expit(self.logits(z[0], aligned.h[0].numpy())), labels, prior)
        if checkpoints and is_main():
            checkpoints.clear()
        return self

    def _add_evidence(self, h: np.ndarray, z: np.ndarray, labels: np.ndarray) -> None:
        """Fit the image logit on h (views, N, d), as sure as the signs are, and mix it in.

        [ours] Its class means on the support set become those of the signs' logit, so that neither drowns the other.
        """
        share = self.evidence.share
        self.image_weights_, self.image_bias_ = np.zeros((labels.shape[1], h.shape[-1])), np.zeros(labels.shape[1])
        if not share:
            return
        weights, bias = logistic(h.reshape(-1, h.shape[-1]), np.tile(labels, (len(h), 1)), self.evidence.strength)
        by_signs = _class_means(self.scale_ * margins(z, self.weights_) + self.bias_, labels)
        scale, shift = self._calibrated(_class_means(h[0] @ weights.T + bias, labels), by_signs, otherwise=1.0)
        self.image_weights_, self.image_bias_ = share * scale[:, None] * weights, share * (scale * bias + shift)
        self.scale_, self.bias_ = (1 - share) * self.scale_, (1 - share) * self.bias_

    @staticmethod
    def _calibrated(found: np.ndarray, wanted: np.ndarray, otherwise: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
        """Scale and bias (C,) that bring the mean margins of positives and negatives (2, C) to the wanted logits.

        [ours] Stage 2 changes which signs speak, not how sure stage 1 was; without stage 1 the means become 1 and
        -1. A category whose positives lie no higher than its negatives gets scale `otherwise` and its middle at 0.
        """
        gap = found[0] - found[1]
        usable = (gap > 1e-6) & (wanted[0] > wanted[1])
        scale = np.where(usable, (wanted[0] - wanted[1]) / np.where(usable, gap, 1), otherwise)
        return scale, np.where(usable, wanted.mean(0), 0) - scale * found.mean(0)

    def _checked(self, images: Sequence, labels: np.ndarray) -> np.ndarray:
        labels = np.asarray(labels)
        expected = (len(images), len(self.bank.categories))
        if labels.shape != expected:
            raise DataError(f"labels: shape {labels.shape}, expected {expected} (images, categories of the bank)")
        if not np.isin(labels, (0, 1)).all():
            raise DataError("labels: only 0 and 1 are allowed")
        for name, count in zip(self.bank.categories, labels.sum(0), strict=True):
            if count == 0:
                raise DataError(f"labels: category {name!r} has no positive image; add one or restrict the bank")
        if not (labels.sum(1) == 0).any():
            raise DataError(
                "labels: no normal image (a row of zeros); add at least one, scores are measured against it"
            )
        return labels.astype(np.int64)

    def fit_table(self, table: ImageTable, progress: bool = False, checkpoint: str | Path | None = None) -> SDMAD:
        """`fit` on the rows of a table with the bank's categories."""
        if tuple(table.categories) != tuple(self.bank.categories):
            raise DataError(f"table: categories {table.categories} differ from the bank's {self.bank.categories}")
        return self.fit(table.images, table.labels, progress, checkpoint)

    def _fitted(self) -> None:
        if not hasattr(self, "weights_"):
            raise NotFittedError("SDMAD: call fit(images, labels) or SDMAD.load(folder) first")

    def features(self, images: Sequence, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Of N images, in one pass: z (N, S), their cosines with the signs after stage 1, and h (N, d), image evidence.

        h is what `pool_tokens` makes of the activations below the first adapter.
        """
        self._fitted()
        with installed(self.backbone, self.adapters_), record_activations(self.backbone) as heard:
            u = self.backbone.encode_images(images, color=self.bank.color, progress=progress)
        return (u @ self.sign_embeddings_.T).double().numpy(), torch.cat(heard).cpu().double().numpy()

    @contextmanager
    def installed(self) -> Iterator[Backbone]:
        """Inside the block `backbone` embeds as the trained adapters shift it; outside it is the frozen model."""
        self._fitted()
        with installed(self.backbone, self.adapters_):
            yield self.backbone

    @torch.no_grad()
    def features_of_pixels(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """`features` of prepared pixels (N, 3, H, W), in one pass; call it inside `installed`."""
        with record_activations(self.backbone) as recorded:
            u = self.backbone.image_features(pixels).float().cpu()
        with torch.autocast("cpu", enabled=False):  # cosines are exact, whatever the encoder runs in
            cosines = u @ self.sign_embeddings_.T
        return cosines.double().numpy(), recorded[0].cpu().double().numpy()

    def cosines(self, images: Sequence, progress: bool = False) -> np.ndarray:
        """z: (N, S) cosines of images and signs after stage 1."""
        return self.features(images, progress)[0]

    def image_logits(self, h: np.ndarray) -> np.ndarray:
        """The part (N, C) of the logits that the image evidence h (N, d) gives."""
        return h @ self.image_weights_.T + self.image_bias_

    def logits(self, z: np.ndarray, h: np.ndarray | None = None) -> np.ndarray:
        """Logits (N, C) from cosines z (N, S), with the selected weights, and image evidence h (N, d).

        Raises:
            SDMADError: h is left out of a detector that was fitted with image evidence.
        """
        by_signs = self.scale_ * margins(z, self.weights_) + self.bias_
        if h is None and self.image_weights_.any():
            raise SDMADError("logits: this detector was fitted with image evidence; give h of `features` too")
        return by_signs if h is None else by_signs + self.image_logits(h)

    def decision_function(self, images: Sequence, progress: bool = False) -> np.ndarray:
        """Logits (N, C)."""
        return self.logits(*self.features(images, progress))

    def predict_proba(self, images: Sequence, progress: bool = False) -> np.ndarray:
        """Probabilities (N, C), one for each category; they need not sum to 1, anomalies co-occur."""
        return expit(self.decision_function(images, progress))

    def predict(self, images: Sequence) -> np.ndarray:
        """Decisions (N, C) in {0, 1}, by the thresholds of best F1 on the support set."""
        return (self.predict_proba(images) >= self.thresholds_).astype(np.int64)

    def explain(self, image) -> list[CategoryExplanation]:
        """For each category: every sign's weight, cosine and part of the logit.

        The contributions, the image evidence and the bias sum to the logit.
        """
        (z,), (h,) = self.features([image])
        return explanations(self, z, h)

    def selected_signs(self) -> dict[str, list[dict]]:
        """For each category its signs with `kept`, `weight` and `reason`, heaviest first: plain data."""
        self._fitted()
        out = {}
        for c, category in enumerate(self.bank.categories):
            reasons = self.reasons_[c]
            rows = [
                {
                    "text": self.bank.texts[s],
                    "kept": bool(self.weights_[c, s] > 0),
                    "weight": round(float(self.weights_[c, s]), 6),
                    "reason": reasons[s],
                }
                for s in np.flatnonzero(self.membership[c + 1]).tolist()
            ]
            out[category] = sorted(rows, key=lambda row: -row["weight"])
        return out

    def sign_maps(self, image) -> np.ndarray:
        """(S, h, w) where in the image each sign is seen, see `explain.sign_maps`."""
        return sign_maps(self.backbone, self.bank, image)

    def save(self, folder: str | Path) -> Path:
        """Write adapters (safetensors) and everything else (JSON) into a folder, whole or not at all.

        The backbone is not saved but named; it is loaded again by that name. Of several processes the main one writes.

        Raises:
            OutputError: the folder cannot be written, or holds something else.
        """
        self._fitted()
        return save_detector(self, folder)

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone | None = None, device: str | None = None) -> SDMAD:
        """Load what `save` wrote.

        Args:
            folder: as given to `save`.
            backbone: a loaded backbone to use; by default the one named in the file is loaded.

        Raises:
            SDMADError: files are missing or broken. BackboneError: the weights do not fit the model.
        """
        return load_detector(cls, folder, backbone, device)
