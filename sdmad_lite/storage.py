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

from .alignment import AdapterConfig, AlignmentConfig, build_adapters
from .alignment.activations import activation_width
from .errors import BackboneError, SDMADError
from .files import is_main, new_folder
from .selection import EvidenceConfig, SelectionConfig
from .signs.bank import parse_bank

if TYPE_CHECKING:
    from .clip.backbone import Backbone
    from .detector import SDMAD

STATE, WEIGHTS = "detector.json", "adapters.safetensors"
CONFIGS = {
    "adapters": AdapterConfig,
    "alignment": AlignmentConfig,
    "selection": SelectionConfig,
    "evidence": EvidenceConfig,
}
RENAMED = {"views": "augmentations", "mix": "mixup"}
"""Settings that version 0.1.0 saved under other names."""
NUMBERS = ("scale", "bias", "weights", "thresholds")
"""Fitted attributes in the JSON file, without the underscore."""
TENSORS = {"text_features": "sign_embeddings_", "probe": "image_weights_", "probe_bias": "image_bias_"}
"""Name in the safetensors file, where they stand beside the adapters, and fitted attribute."""


def save_detector(detector: SDMAD, folder: str | Path) -> Path:
    """See `SDMAD.save`."""
    if not is_main():
        return Path(folder)
    clip = detector.backbone
    state = {
        "bank": detector.bank.model_dump(mode="json"),
        "backbone": {"name": clip.name, "pretrained": clip.pretrained, "fingerprint": clip.fingerprint},
        **{name: asdict(getattr(detector, name)) for name in CONFIGS},
        "seed": detector.random_state,
        **{name: getattr(detector, f"{name}_").tolist() for name in NUMBERS},
        "history": detector.history_,
        "reasons": [{str(s): why for s, why in reasons.items()} for reasons in detector.reasons_],
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.adapters_.state_dict().items()}
    tensors |= {name: torch.as_tensor(getattr(detector, a)).contiguous() for name, a in TENSORS.items()}
    with new_folder(folder, STATE) as temporary:
        save_file(tensors, temporary / WEIGHTS)
        (temporary / WEIGHTS).chmod(0o644)  # safetensors makes it private
        (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    return Path(folder)


@contextmanager
def _naming(place: Path) -> Iterator[None]:
    """What was changed by hand or damaged raises nearly anything; inside the block all of it names the place."""
    try:
        yield
    except SDMADError:
        raise
    except Exception as error:
        raise SDMADError(
            f"{place}: not what save() wrote ({type(error).__name__}: {error}); copy it again, or fit again"
        ) from None


def load_detector(cls: type[SDMAD], folder: str | Path, backbone: Backbone | None, device: str | None) -> SDMAD:
    """See `SDMAD.load`; `cls` is SDMAD, which imports this module."""
    folder = Path(folder)
    with _naming(folder / STATE):
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        settings = {name: _config(name, state[name]) for name in CONFIGS}
        bank = parse_bank(state["bank"], str(folder / STATE))
        name, pretrained = state["backbone"]["name"], state["backbone"]["pretrained"]
        fingerprint = state["backbone"].get("fingerprint")
        fitted = {f"{k}_": np.asarray(state[k], dtype=np.float64) for k in NUMBERS}
        reasons = [{int(s): str(why) for s, why in row.items()} for row in state["reasons"]]
        history, seed = list(state["history"]), int(state["seed"])
    with _naming(folder / WEIGHTS):
        tensors = load_file(folder / WEIGHTS)
        fitted |= {attribute: tensors.pop(name).numpy() for name, attribute in TENSORS.items()}
    with _naming(folder):
        common = {"pretrained": pretrained, "device": device, "random_state": seed}
        detector = cls(bank, backbone=backbone or name, **settings, **common)
    if detector.backbone.fingerprint != fingerprint:
        raise BackboneError(f"{folder}: was fitted on other weights than {detector.backbone.name} has here; fit again")
    adapters = build_adapters(detector.backbone, detector.adapters, seed)
    if {k: v.shape for k, v in adapters.state_dict().items()} != {k: v.shape for k, v in tensors.items()}:
        raise BackboneError(
            f"{folder / WEIGHTS}: the adapters do not fit {detector.backbone.name}; load the right backbone"
        )
    _check_numbers(folder, detector, fitted, reasons, activation_width(adapters, fitted["sign_embeddings_"].shape[-1]))
    if not all(np.isfinite(values).all() for values in (*fitted.values(), *(t.numpy() for t in tensors.values()))):
        raise SDMADError(f"{folder}: holds a number that is not finite; copy it again, or fit again")
    adapters.load_state_dict(tensors)
    detector.adapters_, detector.reasons_, detector.history_ = adapters, reasons, history
    detector.sign_embeddings_ = torch.from_numpy(fitted.pop("sign_embeddings_"))
    for attribute, values in fitted.items():
        setattr(detector, attribute, values.astype(np.float64))
    return detector


def _config(name: str, saved: dict):
    return CONFIGS[name](**{RENAMED.get(key, key): value for key, value in saved.items()})


def _check_numbers(folder: Path, detector: SDMAD, fitted: dict, reasons: list[dict[int, str]], width: int) -> None:
    """Refuse numbers whose shapes do not fit the bank, and a sign without a reason."""
    categories, signs = len(detector.bank.categories), len(detector.bank.texts)
    shapes: dict[str, tuple] = dict.fromkeys(("scale_", "bias_", "thresholds_", "image_bias_"), (categories,))
    shapes |= {"weights_": (categories, signs), "image_weights_": (categories, width)}
    shapes["sign_embeddings_"] = (signs, fitted["sign_embeddings_"].shape[-1])
    for attribute, shape in shapes.items():
        if fitted[attribute].shape != shape:
            file = folder / (STATE if attribute.removesuffix("_") in NUMBERS else WEIGHTS)
            raise SDMADError(
                f"{file}: {attribute} has shape {fitted[attribute].shape}, its sign bank asks for {shape}; copy it "
                "again, or fit again"
            )
    heard = detector.membership[1:] + detector.membership[0]
    if len(reasons) != categories or any(
        set(np.flatnonzero(row).tolist()) - set(why) for row, why in zip(heard, reasons, strict=True)
    ):
        raise SDMADError(f"{folder / STATE}: a sign has no reason; copy it again, or fit again")
