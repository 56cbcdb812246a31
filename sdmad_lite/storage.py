"""A fitted detector on disk: adapters and numbers of the image evidence as safetensors, the rest as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .alignment.activations import activation_width
from .alignment.adapters import AdapterConfig, build_adapters
from .alignment.train import AlignmentConfig
from .errors import BackboneError, SDMADError
from .files import is_main, new_folder
from .selection.image_evidence import EvidenceConfig
from .selection.sign_selector import SelectionConfig
from .signs.bank import parse_bank

if TYPE_CHECKING:
    from .clip.backbone import Backbone

_RENAMED = {"views": "augmentations", "mix": "mixup"}
"""Settings that version 0.1.0 saved under other names."""

STATE, WEIGHTS = "detector.json", "adapters.safetensors"


def save_detector(detector, folder: str | Path) -> Path:
    """See `SDMAD.save`; `detector` is one."""
    if not is_main():
        return Path(folder)
    state = {
        "bank": json.loads(detector.bank.model_dump_json()),
        "backbone": {
            "name": detector.backbone.name,
            "pretrained": detector.backbone.pretrained,
            "fingerprint": detector.backbone.fingerprint,
        },
        "adapters": asdict(detector.adapters),
        "alignment": asdict(detector.alignment),
        "selection": asdict(detector.selection),
        "evidence": asdict(detector.evidence),
        "seed": detector.random_state,
        "scale": detector.scale_.tolist(),
        "bias": detector.bias_.tolist(),
        "weights": detector.weights_.tolist(),
        "thresholds": detector.thresholds_.tolist(),
        "history": detector.history_,
        "reasons": [{str(s): why for s, why in reasons.items()} for reasons in detector.reasons_],
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.adapters_.state_dict().items()}
    tensors["text_features"] = detector.sign_embeddings_.contiguous()
    tensors |= {
        "probe": torch.from_numpy(detector.image_weights_),
        "probe_bias": torch.from_numpy(detector.image_bias_),
    }
    with new_folder(folder, STATE) as temporary:
        save_file(tensors, temporary / WEIGHTS)
        (temporary / WEIGHTS).chmod(0o644)  # safetensors makes it private
        (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    return Path(folder)


@contextmanager
def _saved(place: Path) -> Iterator[None]:
    """What was changed by hand or damaged raises nearly anything; inside the block all of it names the place."""
    try:
        yield
    except SDMADError:
        raise
    except Exception as error:
        raise SDMADError(
            f"{place}: not what save() wrote ({type(error).__name__}: {error}); copy it again, or fit again"
        ) from None


def load_detector(cls, folder: str | Path, backbone: Backbone | None, device: str | None):
    """See `SDMAD.load`; `cls` is SDMAD, which imports this module."""
    folder = Path(folder)
    with _saved(folder):
        return _loaded(cls, folder, backbone, device)


def _loaded(cls, folder: Path, backbone: Backbone | None, device: str | None):
    with _saved(folder / STATE):
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        bank = parse_bank(state["bank"], str(folder / STATE))
        configs = (
            AdapterConfig(**state["adapters"]),
            AlignmentConfig(**{_RENAMED.get(k, k): v for k, v in state["alignment"].items()}),
        )
        selection, evidence = SelectionConfig(**state["selection"]), EvidenceConfig(**state["evidence"])
        name, pretrained = state["backbone"]["name"], state["backbone"]["pretrained"]
        numbers = {k: np.asarray(state[k], dtype=np.float64) for k in ("scale", "bias", "weights", "thresholds")}
        reasons = [{int(s): str(why) for s, why in row.items()} for row in state["reasons"]]
        seed, history = int(state["seed"]), list(state["history"])
    with _saved(folder / WEIGHTS):
        tensors = load_file(folder / WEIGHTS)
        text_features, probe, bias = (tensors.pop(name) for name in ("text_features", "probe", "probe_bias"))
    detector = cls(
        bank,
        backbone=backbone or name,
        pretrained=pretrained,
        device=device,
        adapters=configs[0],
        alignment=configs[1],
        selection=selection,
        evidence=evidence,
        random_state=seed,
    )
    if detector.backbone.fingerprint != state["backbone"].get("fingerprint"):
        raise BackboneError(f"{folder}: was fitted on other weights than {detector.backbone.name} has here; fit again")
    detector.adapters_ = build_adapters(detector.backbone, configs[0], seed)
    expected = {k: tuple(v.shape) for k, v in detector.adapters_.state_dict().items()}
    if expected != {k: tuple(v.shape) for k, v in tensors.items()}:
        raise BackboneError(
            f"{folder / WEIGHTS}: the adapters do not fit {detector.backbone.name}; load the right backbone"
        )
    categories, signs = len(bank.categories), len(bank.texts)
    shapes = [numbers[k].shape for k in ("weights", "scale", "bias", "thresholds")]
    if shapes != [(categories, signs), *[(categories,)] * 3] or len(reasons) != categories:
        raise SDMADError(f"{folder / STATE}: its numbers do not fit its sign bank; copy it again, or fit again")
    heard = bank.membership()[1:] + bank.membership()[0]
    if any(set(np.flatnonzero(row).tolist()) - set(why) for row, why in zip(heard, reasons, strict=True)):
        raise SDMADError(f"{folder / STATE}: a sign has no reason; copy it again, or fit again")
    finite = [*numbers.values(), *(t.numpy() for t in (*tensors.values(), text_features, probe, bias))]
    if not all(np.isfinite(values).all() for values in finite):
        raise SDMADError(f"{folder}: holds a number that is not finite; copy it again, or fit again")
    if text_features.shape[0] != signs:
        raise BackboneError(
            f"{folder / WEIGHTS}: {text_features.shape[0]} sign embeddings for {signs} signs; copy it again"
        )
    width = activation_width(detector.adapters_, text_features.shape[1])
    if probe.shape != (categories, width) or bias.shape != (categories,):
        raise BackboneError(f"{folder / WEIGHTS}: image evidence of shape {tuple(probe.shape)} does not fit")
    detector.adapters_.load_state_dict(tensors)
    detector.sign_embeddings_, detector.reasons_ = text_features, reasons
    detector.scale_, detector.bias_, detector.weights_, detector.thresholds_ = numbers.values()
    detector.image_weights_, detector.image_bias_ = probe.double().numpy(), bias.double().numpy()
    detector.history_ = history
    return detector
