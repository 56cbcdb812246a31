"""Which sign, where in the image, how much of the logit.

    for e in detector.explain("image.png"):  # a CategoryExplanation for each category
        e.logit, e.signs[0].text, e.signs[0].contribution
    detector.sign_maps("image.png")  # (S, h, w), where each sign is seen

An explanation is faithful: contributions, image evidence and bias sum to the logit. Whether a sign that it names
is in the image is another question; notebook 06 asks it of phantoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit
from torch import Tensor

from .data import read_image

if TYPE_CHECKING:
    from .clip.backbone import Backbone
    from .detector import SDMAD
    from .signs.bank import SignBank


@dataclass(frozen=True)
class SignEvidence:
    """One sign's part in one category's score."""

    text: str
    weight: float  # of the selection, 0 for a dropped sign; negative for a normal sign that speaks against
    cosine: float
    contribution: float  # part of the logit: scale * weight * (cosine - that of a typical image of the category)
    reason: str
    normal: bool = False  # whether it is a sign of a normal image


@dataclass(frozen=True)
class CategoryExplanation:
    """Why one image got its score for one category; contributions, image and bias sum to the logit."""

    category: str
    probability: float
    threshold: float
    logit: float
    bias: float  # the logit of a typical image of the category by its signs
    image: float  # part of the logit that the image evidence gives, 0 for a detector by signs alone
    signs: tuple[SignEvidence, ...]

    @property
    def detected(self) -> bool:
        """Whether the probability reaches the threshold."""
        return self.probability >= self.threshold


def explanation_of(detector: SDMAD, cosines: np.ndarray, activations: np.ndarray) -> list[CategoryExplanation]:
    """Explain one image from its cosines z (S,) and activations h (d,): all that the score has used, and no more."""
    (logits,), (by_image,) = detector.logits(cosines[None], activations[None]), detector.image_logits(activations[None])
    membership, texts, z, found = detector.membership, detector.bank.texts, cosines.tolist(), []
    contributions, base = detector.contributions(cosines), detector.base_  # (C, S), (C,)
    for c, category in enumerate(detector.bank.categories):
        weights, parts, reasons = detector.weights_[c].tolist(), contributions[c].tolist(), detector.reasons_[c]
        signs = tuple(
            SignEvidence(texts[s], weights[s], z[s], parts[s], reasons[s], normal=bool(membership[0, s]))
            for s in np.flatnonzero(membership[c + 1] + membership[0]).tolist()
        )
        logit, threshold, bias, image = map(float, (logits[c], detector.thresholds_[c], base[c], by_image[c]))
        found.append(CategoryExplanation(category, float(expit(logit)), threshold, logit, bias, image, signs))
    return found


@torch.no_grad()
def sign_maps(backbone: Backbone, bank: SignBank, image, v: Tensor | None = None) -> np.ndarray:
    """(S, h, w) cosine of each patch of an image (path, array or PIL) with each sign of a bank, over the whole image.

    Of one that is not square, h and w have its proportions where it was padded or cut; what was cut off is nan.

    It is the model as it stands: frozen, or inside `installed` as the adapters shift it. A stage 1 that looks at whole
    images alone moves patches less well [ours]: of eight kinds of map the frozen one pointed best there
    (`tools/heat_maps.py`).

    Args:
        v: (S, D) embeddings of the signs, where they are known.

    Raises:
        BackboneError: the image tower gives no patch embeddings.
    """
    picture = read_image(image, bank.color, strict=False)
    patches = backbone.patch_features(backbone.prepare([image], bank.color, strict=False))[0].cpu()
    maps = patches.float() @ (backbone.encode_texts(bank.texts) if v is None else v).T
    return _over_image(maps.permute(2, 0, 1), *picture.size, backbone).numpy()


@torch.no_grad()
def patch_shares(detector: SDMAD, image) -> np.ndarray:
    """(C, S, h, w) what each patch of the square that the model saw adds to z, less that of a typical image. [ours]

    A patch has a share of its own where it is one of those most like the sign, and an equal part of the rest. Summed
    over patches, times scale and weight, the shares are the contribution of the sign.
    """
    config, v = detector.alignment, detector.sign_embeddings_
    with detector.installed() as clip:
        pixels = clip.prepare([image], detector.bank.color, strict=False)
        h, w = clip.patch_features(pixels).shape[1:3]
        cosines = v @ clip.views(pixels)[0].float().cpu().T
    whole, patches = cosines[:, :1], cosines[:, 1:]  # (S, 1), (S, P)
    best = patches.topk(min(config.patches, h * w), dim=1)
    looked = torch.zeros_like(patches).scatter(1, best.indices, best.values / best.values.shape[1])
    rest = (1 - config.local) * whole - torch.from_numpy(detector.reference_)[..., None].float()  # (C, S, 1)
    return (config.local * looked + rest / (h * w)).unflatten(2, (h, w)).numpy()


def _over_image(maps: Tensor, width: int, height: int, backbone: Backbone) -> Tensor:
    """Maps (S, h, w) of the square that the model saw as maps of the image from which that was made."""
    if backbone.shape == "squash" or width == height:
        return maps
    size = backbone.model.visual.preprocess_cfg["size"]
    down, across = (size, size) if isinstance(size, int) else size
    scale = (min if backbone.shape == "pad" else max)(across / width, down / height)
    # the image in sides of the square, in whose middle it lies
    x, y = width * scale / across, height * scale / down
    shape = [1, len(maps), max(1, round(maps.shape[1] * y)), max(1, round(maps.shape[2] * x))]
    grid = F.affine_grid(torch.tensor([[[x, 0, 0], [0, y, 0]]]), shape, align_corners=False)
    found = F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)[0]
    return found.masked_fill((grid.abs() > 1).any(-1), torch.nan)
