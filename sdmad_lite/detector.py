"""SDMAD: both stages behind `fit`, `predict_proba`, `explain`, `save` and `load`.

    detector = SDMAD("chest_phantoms").fit(images, labels)
    detector.predict_proba(more_images)

For teaching and research; not for clinical use.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit
from sklearn.exceptions import NotFittedError
from torch import Tensor

from .alignment import NO_ADAPTERS, AdapterConfig, AlignmentConfig, align, build_adapters, installed, record_activations
from .data import ImageTable
from .data.images import as_images
from .data.labels import check_index, support_labels
from .errors import BankError, DataError, DetectorError, SDMADError, noting, warn
from .explain import explanation_of, sign_maps
from .files import NOTICE
from .running import RunConfig, own_device
from .selection import TRAINING_FREE, Calibration, EvidenceConfig, ImageEvidence, SelectionConfig, SignSelector
from .selection.calibration import best_f1_thresholds, class_means, typical
from .selection.sign_selector import equal_weights, margins, sign_scores
from .settings import Seed, checked
from .signs.bank import SignBank, load_bank
from .signs.lint import check_model
from .storage import CONFIGS, load_detector, save_detector

if TYPE_CHECKING:
    from .clip.backbone import Backbone


@dataclass(frozen=True)
class SelectedSign:
    """One sign of a category after stage 2."""

    text: str
    kept: bool
    weight: float  # share of the category's score, 0 where it was dropped
    reason: str


class SDMAD:
    """Sign-driven few-shot multi-anomaly detector.

    Args:
        bank: a SignBank, the name of a shipped bank, or the path of one.
        backbone: what `load_clip` gives, or a name that alone says which weights: "embedded", "local-dir:...".
        adapters, alignment, selection, evidence: settings of the adapters, of stage 1, of stage 2 and of the image
            evidence. `SDMAD.training_free` is the mode without stage 1.
        run: how training is computed: precision, memory, checkpoints; not saved.
        random_state: seed of everything random; the same seed gives the same result on a CPU.

    Every argument is an attribute of the same name, `bank` and `backbone` loaded.

    After `fit`: adapters_; sign_embeddings_ v (S, D); weights_ W (C, S); reasons_, for each category sign number ->
    why; scale_ and bias_ (C,); reference_ (C, S), z of a typical image of each category, from which bars are counted;
    image_weights_ (C, d) and image_bias_ (C,) of the image evidence; thresholds_ (C,) in [0, 1]; history_, the losses
    of each step. Not saved: selector_ and support_cosines_ (A, N, S), what it saw.
    """

    def __init__(
        self,
        bank: SignBank | str | Path,
        *,
        backbone: Backbone | str = "embedded",
        adapters: AdapterConfig | None = None,
        alignment: AlignmentConfig | None = None,
        selection: SelectionConfig | None = None,
        evidence: EvidenceConfig | None = None,
        run: RunConfig | None = None,
        random_state: int = 0,
    ):
        if not isinstance(bank, (SignBank, str, Path)):
            raise BankError(f"bank: expected a SignBank, a name or a path, not {type(bank).__name__}")
        self.bank = bank if isinstance(bank, SignBank) else load_bank(bank)
        self.adapters, self.alignment = adapters or AdapterConfig(), alignment or AlignmentConfig()
        self.selection, self.evidence = selection or SelectionConfig(), evidence or EvidenceConfig()
        self.run, self.random_state = run or RunConfig(), checked("random_state", random_state, Seed)
        for name, kind in (CONFIGS | {"run": RunConfig}).items():
            if not isinstance(given := getattr(self, name), kind):
                raise SDMADError(f"{name}: expected {kind.__name__}(...), not {type(given).__name__}")
        if not self.alignment.steps and self.adapters != NO_ADAPTERS:
            raise SDMADError("alignment: 0 steps train nothing; use SDMAD.training_free(bank) for the frozen model")
        if isinstance(backbone, str):
            from .clip.backbone import load_clip  # imports open_clip, which takes seconds

            backbone = load_clip(backbone, device=own_device())
        if not hasattr(backbone, "tokenize"):
            raise SDMADError(f"backbone: expected a name or what load_clip gives, not {type(backbone).__name__}")
        self.backbone, self.membership = backbone, self.bank.membership()
        backbone.tokenize(self.bank.texts)  # refuses a sign that is too long, before anything is trained

    @classmethod
    def training_free(cls, bank: SignBank | str | Path, *, augmentations: int = 8, **settings: Any) -> SDMAD:
        """The mode without stage 1: the frozen model, its signs weighed by stage 2, no image evidence. [ours]

        Stage 2 trusts what signs show on the support set more than after stage 1, for the frozen model has not seen
        it. It sees so many `augmentations` of each image. `settings` of SDMAD replace those of this mode.
        """
        never = AlignmentConfig(steps=0, augmentations=augmentations)
        mode: dict[str, Any] = {"adapters": NO_ADAPTERS, "alignment": never}
        mode |= {"selection": TRAINING_FREE, "evidence": EvidenceConfig(share=0)}
        return cls(bank, **(mode | settings))

    @noting()
    @torch.inference_mode(False)
    def fit(self, images, labels, *, progress: bool = False, checkpoint: str | Path | None = None) -> SDMAD:
        """Run both stages on the support set.

        Args:
            images: N paths, arrays or PIL images, in a list, a Series, or the column `image` of a DataFrame.
            labels: Y (N, C) in {0, 1}; zero rows are normal. Those of a table, a DataFrame or a dict of columns are
                matched to the categories by name; an array has to have them in the order of `bank.categories`.
            checkpoint: folder of the state of stage 1, from which the same call goes on if this one is stopped, on a
                CPU to the same bits. `save` removes it, when the detector stands.

        Raises:
            DataError: wrong shape or values, no normal image, or a category without a positive.
            CheckpointError: the checkpoint is of another run, or broken. OutputError: none can be written there.
        """
        given, (images, _) = images, as_images(images)
        check_index(given, labels)
        labels = support_labels(labels, self.bank.categories, len(images))
        for doubt in check_model(self.bank.texts, self.backbone):
            warn(f"{doubt.message}; {doubt.suggestion}")
        run = replace(self.run, progress=progress or self.run.progress, checkpoint=checkpoint or self.run.checkpoint)
        # stage 1: the adapters learn to bring signs and images together
        adapters = build_adapters(self.backbone, self.adapters, self.random_state)
        aligned = align(self.backbone, adapters, images, labels, self.bank, self.alignment, self.random_state, run)
        # every augmentation of every support image beside every sign
        cosines = aligned.cosines.double().numpy()
        # stage 2: which signs to trust
        selector = SignSelector(self.selection).fit(cosines, labels, self.membership)
        # the chosen signs are to be as sure as stage 1 was with all of them
        stage1 = margins(cosines[0], equal_weights(self.membership)) * aligned.scale + aligned.bias.double().numpy()
        chosen = selector.transform(cosines[0])
        wanted = class_means(stage1, labels) if self.alignment.steps else None
        calibration = Calibration().fit(class_means(chosen, labels), wanted)
        # beside the signs speaks what the image shows without words; the logit is a mean of both
        share, activations = self.evidence.share, aligned.activations.double().numpy()
        image = ImageEvidence(self.evidence).fit(activations, labels, calibration.transform(chosen))
        self.adapters_, self.sign_embeddings_, self.history_ = adapters, aligned.sign_embeddings, aligned.history
        self.support_cosines_, self.selector_ = cosines, selector
        self.weights_, self.reasons_ = selector.weights_, selector.reasons_
        # bars are counted from a typical image of the category
        groups = np.column_stack([labels, np.ones(len(labels))])
        self.reference_ = typical(groups.T @ cosines[0], groups.sum(0))
        self.scale_, self.bias_ = (1 - share) * calibration.scale_, (1 - share) * calibration.bias_
        self.image_weights_, self.image_bias_ = share * image.weights_, share * image.bias_
        # decisions: the threshold of best F1 on the support set, for each category
        probabilities = expit(self.logits(cosines[0], activations[0]))
        self.thresholds_ = best_f1_thresholds(probabilities, labels, self.selection.threshold_prior)
        self.checkpoint_ = run.checkpoint
        return self

    def fit_table(self, table: ImageTable, *, progress: bool = False, checkpoint: str | Path | None = None) -> SDMAD:
        """`fit` on the rows of a table with the bank's categories."""
        if not isinstance(table, ImageTable):
            raise DataError(f"table: expected what load_data gives, not {type(table).__name__}; fit takes images")
        return self.fit(table.images, table.labels, progress=progress, checkpoint=checkpoint)

    def check_fitted(self) -> None:
        """Raise scikit-learn's NotFittedError where neither `fit` nor `load` came before."""
        if not hasattr(self, "thresholds_"):
            raise NotFittedError("SDMAD: call fit(images, labels) or SDMAD.load(folder) first")

    @contextmanager
    def installed(self) -> Iterator[Backbone]:
        """Inside the block `backbone` embeds as the trained adapters shift it; outside it is the frozen model."""
        self.check_fitted()
        with installed(self.backbone, self.adapters_):
            yield self.backbone

    @torch.inference_mode()
    def views_of_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """`views` of prepared pixels (N, 3, H, W) as tensors, in one pass; call it inside `installed`."""
        with record_activations(self.backbone) as recorded:
            views = self.backbone.views(pixels, self.alignment.local > 0)
        # without adapters h is u
        return views.float(), recorded[0] if recorded else views[:, 0].float()

    @torch.inference_mode()
    def features_of_pixels(self, pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """`features` of prepared pixels (N, 3, H, W), in one pass; call it inside `installed`."""
        views, activations = self.views_of_pixels(pixels)
        with torch.autocast(views.device.type, enabled=False):  # cosines are exact, whatever the encoder runs in
            v, config = self.sign_embeddings_.to(views.device), self.alignment
            cosines = sign_scores(views, v, config.local, config.patches)
        return cosines.cpu().double().numpy(), activations.cpu().double().numpy()

    def features(self, images, *, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """What a score is made of: cosines z (N, S) with the signs after stage 1, and activations h (N, d).

        h is what `pool_tokens` makes of the activations below the first adapter, for the image evidence.
        """
        return self._of_pixels(self.features_of_pixels, images, progress)

    def views(self, images, *, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Float32 `Backbone.views` (N, 1 + P, D) after stage 1, and h (N, d); P is 0 where the whole alone counts."""
        return self._of_pixels(lambda pixels: [p.cpu().numpy() for p in self.views_of_pixels(pixels)], images, progress)

    @noting()
    def _of_pixels(self, function: Callable, images, progress: bool) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays that a function makes of the pixels of images, batch by batch."""
        with self.installed() as clip:
            parts = map(function, clip.batches(images, color=self.bank.color, progress=progress))
            first, second = zip(*parts, strict=True)
        return np.concatenate(first), np.concatenate(second)

    def cosines(self, images, *, progress: bool = False) -> np.ndarray:
        """z: (N, S) cosines of images and signs after stage 1."""
        return self.features(images, progress=progress)[0]

    def image_logits(self, activations: np.ndarray) -> np.ndarray:
        """The part (N, C) of the logits that the image evidence gives, from activations h (N, d)."""
        return activations @ self.image_weights_.T + self.image_bias_

    def contributions(self, cosines: np.ndarray) -> np.ndarray:
        """(..., C, S) what each sign adds to the logit of a typical image of the category, from z (..., S)."""
        return self.scale_[:, None] * self.weights_ * (cosines[..., None, :] - self.reference_)

    @property
    def base_(self) -> np.ndarray:
        """(C,) the logits of typical images by their signs; with contributions and image evidence the logit."""
        return self.bias_ + self.scale_ * (self.weights_ * self.reference_).sum(1)

    def logits(self, cosines: np.ndarray, activations: np.ndarray | None = None) -> np.ndarray:
        """Logits (N, C) from cosines z (N, S) and, where there is image evidence, activations h (N, d)."""
        if activations is None and self.image_weights_.any():
            raise SDMADError("logits: this detector has image evidence; give the activations of `features` too")
        logits = self.scale_ * margins(cosines, self.weights_) + self.bias_
        logits = logits if activations is None else logits + self.image_logits(activations)
        if not np.isfinite(logits).all():
            raise DetectorError("this detector gives scores that are not finite: its weights were changed; fit again")
        return logits

    def decision_function(self, images, *, progress: bool = False) -> np.ndarray:
        """Logits (N, C)."""
        return self.logits(*self.features(images, progress=progress))

    def predict_proba(self, images, *, progress: bool = False) -> np.ndarray:
        """Probabilities (N, C), which need not sum to 1; of one image (path, array or PIL) or of any number."""
        return expit(self.decision_function(images, progress=progress))

    def predict(self, images, *, progress: bool = False) -> np.ndarray:
        """Decisions (N, C) in {0, 1}, by the thresholds of best F1 on the support set."""
        return (self.predict_proba(images, progress=progress) >= self.thresholds_).astype(np.int64)

    def explain(self, images) -> list[Any]:
        """For each category a `CategoryExplanation`, whose parts sum to the logit; of many images a list of these."""
        self.check_fitted()
        images, one = as_images(images)
        found = [explanation_of(self, z, h) for z, h in zip(*self.features(images), strict=True)]
        return found[0] if one else found

    def selected_signs(self) -> dict[str, list[SelectedSign]]:
        """The signs of each category, heaviest first."""
        self.check_fitted()
        out, texts = {}, self.bank.texts
        for c, category in enumerate(self.bank.categories):
            weights, reasons = self.weights_[c].tolist(), self.reasons_[c]
            own = sorted(np.flatnonzero(self.membership[c + 1]).tolist(), key=lambda s: -round(weights[s], 6))
            out[category] = [SelectedSign(texts[s], weights[s] > 0, round(weights[s], 6), reasons[s]) for s in own]
        return out

    def sign_maps(self, image) -> np.ndarray:
        """(S, h, w) where in the image each sign is seen: as the score reads it where it looks at patches (`local`)."""
        if not self.alignment.local:
            return sign_maps(self.backbone, self.bank, image)
        with self.installed() as clip:
            return sign_maps(clip, self.bank, image, self.sign_embeddings_)

    def _state(self) -> dict[str, str]:
        """What a reader should know of it, in words."""
        out = {
            "signs": f"{self.bank.name}: {len(self.bank.texts)} signs of {len(self.bank.categories)} categories",
            "backbone": " ".join(filter(None, (self.backbone.name, self.backbone.pretrained))),
            "stage 1": f"{self.alignment.steps} steps" if self.alignment.steps else "none (training-free)",
        }
        if not hasattr(self, "thresholds_"):
            return out | {"state": "not fitted: call fit(images, labels)"}
        kept = [f"{name} {sum(s.kept for s in rows)} of {len(rows)}" for name, rows in self.selected_signs().items()]
        return out | {"state": "fitted", "signs kept": ", ".join(kept)}

    def __repr__(self) -> str:
        return "SDMAD(" + "; ".join(f"{name}: {what}" for name, what in self._state().items()) + ")"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(what)}</td></tr>" for name, what in self._state().items())
        return f"<table><caption>SDMAD. {NOTICE}</caption>{rows}</table>"

    def save(self, folder: str | Path) -> Path:
        """Write adapters (safetensors) and everything else (JSON) into a folder, whole or not at all.

        The backbone is not saved but named; it is loaded again by that name. Of several processes the main one writes.
        An OutputError says that the folder cannot be written, or holds something else.
        """
        self.check_fitted()
        return save_detector(self, folder)

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone | None = None, device: str | None = None) -> SDMAD:
        """Load what `save` wrote, in this version or an earlier one.

        Args:
            backbone: what `load_clip` gave; by default it is loaded by its saved name, to a `device` as there.

        Raises:
            DetectorError: files are missing or were changed. BackboneError: the weights do not fit the model.
        """
        return load_detector(cls, folder, backbone, device)
