"""A fitted detector on disk: adapters and numbers of the image evidence as safetensors, the rest as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from itertools import islice
from os.path import isabs, isdir, isfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .alignment import AdapterConfig, AlignmentConfig, build_adapters
from .errors import BackboneError, DetectorError
from .files import is_main, new_folder, strict_json
from .running import own_device, remove_checkpoint
from .selection import EvidenceConfig, SelectionConfig
from .signs.bank import SignBank, problems

if TYPE_CHECKING:
    from .clip.backbone import Backbone
    from .detector import SDMAD

STATE, WEIGHTS = "detector.json", "adapters.safetensors"
CONFIGS = dict(adapters=AdapterConfig, alignment=AlignmentConfig, selection=SelectionConfig, evidence=EvidenceConfig)
RENAMED = {"views": "augmentations", "mix": "mixup"}
"""Settings of stage 1 that version 0.1.0 saved under other names."""
NUMBERS = ("scale", "bias", "weights", "thresholds")
"""Fitted attributes in the JSON file, without the underscore."""
TENSORS = {"text_features": "sign_embeddings_", "probe": "image_weights_", "probe_bias": "image_bias_"}
TENSORS |= {"reference": "reference_"}
"""Name in the safetensors file, where they stand beside the adapters, and fitted attribute."""

Number = Annotated[float, Field(ge=-1e9, le=1e9)]  # so that the parts of a logit sum to it


class Model(BaseModel, strict=True, extra="forbid"):
    """Which backbone: as `load_clip` names it, and by its weights."""

    name: str
    pretrained: str | None
    shape: Literal["squash", "pad", "crop"] | None = None  # version 0.1.0 had the model's own way
    fingerprint: str | None = None
    weights: str | None = None
    preprocessing: dict[str, Any] | None = None

    def load(self, folder: Path, device: str | None) -> Backbone:
        """The backbone of the detector in a folder; its own files may have moved together with that folder."""
        from .clip.backbone import load_clip  # imports open_clip, which takes seconds

        def found(path: str, there: Callable[[Path], bool]) -> str | None:
            beside = folder.absolute().parent
            return next((str(p) for p in (Path(path), beside / path, beside / Path(path).name) if there(p)), None)

        _, own, path = self.name.partition("local-dir:")
        weights = self.pretrained and (found(self.pretrained, isfile) or self.pretrained)
        gone = path if own and not (place := found(path, isdir)) else ""
        if gone or (weights and isabs(weights) and not isfile(weights)):
            raise BackboneError(
                f"{folder}: was fitted on the CLIP in {gone or weights}, which is not there; put it back or beside the "
                "detector, or hand SDMAD.load in Python the CLIP from its new place"
            )
        name, shape = f"local-dir:{place}" if own else self.name, self.shape or "own"
        clip = load_clip(name, weights, own_device(device), shape=shape)
        if name == "embedded" and clip.fingerprint != self.fingerprint:  # what version 0.1.0 called so
            return load_clip("embedded-2", weights, own_device(device), shape=shape)
        return clip

    def differs(self, backbone: Backbone) -> list[str]:
        """In what a backbone is not that of the fit; version 0.1.0 saved the fingerprint alone."""
        other = ["weights"] if self.fingerprint != backbone.fingerprint else []
        return other or [n for n, here in backbone.identity.items() if (saved := getattr(self, n)) and saved != here]


class State(BaseModel, strict=True, extra="forbid", allow_inf_nan=False):
    """What the JSON file holds: each of these, of just this kind, and nothing else."""

    bank: SignBank
    backbone: Model
    adapters: AdapterConfig
    alignment: AlignmentConfig
    selection: SelectionConfig
    evidence: EvidenceConfig
    seed: int
    scale: list[Annotated[Number, Field(ge=0)]]
    bias: list[Number]
    weights: list[list[Number]]
    thresholds: list[Annotated[float, Field(ge=0, le=1)]]
    history: list[dict[str, float]]
    reasons: list[dict[int, str]]
    tensors: str | None = None  # SHA-256 of the safetensors file; none before version 0.2.0


def contents(detector: SDMAD) -> tuple[dict, dict[str, Tensor]]:
    """All that a fitted detector is: what the JSON file holds, and the tensors."""
    clip, tensors = detector.backbone, dict(detector.adapters_.state_dict())
    state = {
        "bank": detector.bank.model_dump(mode="json"),
        "backbone": {n: getattr(clip, n) for n in ("name", "pretrained", "shape", "fingerprint")} | clip.identity,
        **{name: asdict(getattr(detector, name)) for name in CONFIGS},
        "seed": detector.random_state,
        **{name: getattr(detector, f"{name}_").tolist() for name in NUMBERS},
        "history": detector.history_,
        "reasons": [{str(s): why for s, why in reasons.items()} for reasons in detector.reasons_],
    }
    tensors |= {name: torch.as_tensor(getattr(detector, attribute)) for name, attribute in TENSORS.items()}
    return state, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_detector(detector: SDMAD, folder: str | Path) -> Path:
    """See `SDMAD.save`."""
    if is_main():
        with new_folder(folder, STATE) as temporary:
            write_detector(detector, temporary)
        remove_checkpoint(getattr(detector, "checkpoint_", None))
    return Path(folder)


def write_detector(detector: SDMAD, folder: Path) -> None:
    """The files of a detector in a folder that is there."""
    state, tensors = contents(detector)
    save_file(tensors, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it private
    state["tensors"] = sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Inside the block whatever damage raises, which is nearly anything, becomes an error that names the file."""
    try:
        yield
    except ValidationError as error:
        raise _changed(file, "; ".join(f"{place}: {what}" for place, what in islice(problems(error), 3))) from None
    except Exception as error:
        raise _changed(file, f"{type(error).__name__}: {error}") from None


def _changed(file: Path, why: str) -> DetectorError:
    return DetectorError(f"{file}: not what save() wrote ({why}); copy it again, or fit again")


def load_detector(cls: type[SDMAD], folder: str | Path, backbone: Backbone | None, device: str | None) -> SDMAD:
    """See `SDMAD.load`; `cls` is SDMAD, which imports this module."""
    if not isinstance(folder, (str, Path)) or not isdir(folder):
        raise DetectorError(f"{folder}: no such folder; name one that SDMAD.save or 'sdmad fit' wrote")
    state_file, weights_file = Path(folder, STATE), Path(folder, WEIGHTS)
    if missing := [file.name for file in (state_file, weights_file) if not isfile(file)]:
        raise DetectorError(f"{folder}: holds no {missing[0]}; name a folder that SDMAD.save or 'sdmad fit' wrote")
    with _reading(state_file):
        plain: Any = strict_json(state_file.read_text(encoding="utf-8"))
        plain["alignment"] = {RENAMED.get(name, name): value for name, value in plain["alignment"].items()}
        plain["alignment"].setdefault("local", 0.0)  # version 0.1.0 looked at whole images alone
        state = State.model_validate_json(json.dumps(plain))
        numbers = {name: np.array(getattr(state, name), dtype=np.float64) for name in NUMBERS}
    with _reading(weights_file):
        tensors = load_file(weights_file)
    backbone = backbone or state.backbone.load(Path(folder), device)
    if different := state.backbone.differs(backbone):
        raise BackboneError(
            f"{folder}: was fitted on other {' and '.join(different)} than {backbone.name} has here; fit again"
        )
    backbone = backbone.shaped(state.backbone.shape or "own")
    settings = {name: getattr(state, name) for name in CONFIGS}
    detector = cls(state.bank, backbone=backbone, **settings, random_state=state.seed)
    detector.adapters_ = build_adapters(backbone, state.adapters, state.seed)
    _check_numbers(state_file, numbers, state.reasons, detector.membership)
    bars = torch.zeros(detector.membership[1:].shape).double()
    tensors.setdefault("reference", bars)  # version 0.1.0 counted bars from 0
    _check_tensors(weights_file, tensors, detector)
    if state.tensors and state.tensors != sha256(weights_file.read_bytes()).hexdigest():
        raise _changed(weights_file, f"it does not belong to {STATE}")
    fitted: dict[str, Any] = {f"{name}_": values for name, values in numbers.items()}
    fitted |= {attribute: tensors.pop(name).numpy() for name, attribute in TENSORS.items()}
    fitted["sign_embeddings_"] = torch.from_numpy(fitted["sign_embeddings_"])
    detector.adapters_.load_state_dict(tensors)
    vars(detector).update(fitted, reasons_=state.reasons, history_=state.history)
    _check_tokenizer(folder, detector)
    return detector


def _check_tokenizer(folder: str | Path, detector: SDMAD) -> None:
    """Refuse a backbone that reads signs otherwise than at the fit: new ones, and maps of them, would mean nothing."""
    saved = detector.sign_embeddings_[:8]
    with detector.installed() as clip:
        here = clip.encode_texts(detector.bank.texts[:8])
    if (here.float() * saved).sum(1).min() < 0.999:  # cosines; another device rounds otherwise
        raise BackboneError(
            f"{folder}: {clip.name} reads signs otherwise than at the fit: its tokenizer or text tower changed; put "
            "its files back, or hand SDMAD.load in Python the CLIP as it was"
        )


def activation_width(adapters: Any, embedding: int) -> int:
    """Width of h as `record_activations` gives it, for embeddings of width `embedding`."""
    widths = (3 * adapter.down.in_features for name, adapter in adapters.items() if name.startswith("image_"))
    return next(widths, embedding)


def _check_numbers(file: Path, numbers: dict[str, np.ndarray], reasons: list[dict], membership: np.ndarray) -> None:
    """Refuse numbers that do not fit the bank, and weights and reasons that are not those of a `SignSelector`."""
    side = membership[1:] - membership[:1]  # (C, S): 1 for a category's own signs, -1 for normal ones
    for name, values in numbers.items():
        if values.shape != (shape := side.shape if name == "weights" else side.shape[:1]):
            raise _changed(file, f"{name} has shape {values.shape}, its sign bank asks for {shape}")
    weights, own = numbers["weights"], side > 0
    if (weights * side < 0).any() or weights[side == 0].any() or not np.allclose((weights * own).sum(1), 1):
        raise _changed(file, "weights: a category's own signs must sum to 1, normal ones be at most 0, others be 0")
    if any(set(np.flatnonzero(row).tolist()) != set(why) for row, why in zip(side, reasons, strict=False)):
        raise _changed(file, "reasons: each sign of a category, and each normal one, needs one")


def _check_tensors(file: Path, tensors: dict[str, Tensor], detector: SDMAD) -> None:
    """Refuse tensors of other names, kinds or shapes than the backbone and the bank ask for, and holes in them."""
    v = detector.backbone.encode_texts(detector.bank.texts[:1])
    probe = torch.empty(len(detector.bank.categories), activation_width(detector.adapters_, v.shape[1])).double()
    wanted = detector.adapters_.state_dict() | {"text_features": v.expand(len(detector.bank.texts), -1)}
    bars = torch.empty(detector.membership[1:].shape).double()
    wanted |= {"probe": probe, "probe_bias": probe[:, 0], "reference": bars}
    there, asked = ({k: f"{t.dtype} {tuple(t.shape)}" for k, t in of.items()} for of in (tensors, wanted))
    for name in asked | there:
        if (found := there.get(name, "missing")) != (form := asked.get(name, "not there")):
            raise _changed(file, f"{name} is {found}, expected {form}")
        if not tensors[name].isfinite().all():
            raise _changed(file, f"{name} holds a number that is not finite")
