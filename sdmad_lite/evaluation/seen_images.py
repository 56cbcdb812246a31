"""What a detector was fitted on, as hashes beside it, so that it is not scored on the same images by mistake.

`support.json` holds a SHA-256 of the pixels of each image and, where patients are known, one of each patient's name
with a random salt. Pictures cannot be had back from it; short patient numbers can be guessed, so delete the file
before you give away a detector whose patient numbers are secret. The detector does not need it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import ImageTable, read_image
from ..errors import SDMADError

FILE = "support.json"


@dataclass(frozen=True)
class Overlap:
    """Rows (N,) of a table whose image, or whose patient, was in the support set."""

    images: np.ndarray
    patients: np.ndarray


def pixel_hash(image, color: bool) -> str:
    """SHA-256 of an image as it is read, whatever its file is called and however it is packed."""
    picture = read_image(image, color)
    return hashlib.sha256(f"{picture.mode} {picture.size} ".encode() + picture.tobytes()).hexdigest()


def _patient_hash(salt: str, patient: str) -> str:
    return hashlib.sha256(f"{salt} {patient}".encode()).hexdigest()


def write_support(folder: Path, table: ImageTable, color: bool) -> None:
    """Write support.json into the folder of a detector."""
    salt = secrets.token_hex(16)
    patients = sorted(set(table.meta.get("patient_id", ())))
    state = {
        "images": sorted(pixel_hash(image, color) for image in table.images),
        "salt": salt,
        "patients": [_patient_hash(salt, patient) for patient in patients],
    }
    (folder / FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def overlap(folder: str | Path, table: ImageTable, color: bool) -> Overlap | None:
    """Which rows the detector has seen; None where it does not say what it was fitted on.

    Raises:
        SDMADError: support.json is broken.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        images, salt, patients = set(state["images"]), str(state["salt"]), set(state["patients"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SDMADError(
            f"{path}: not what 'sdmad fit' wrote ({type(error).__name__}: {error}); fit again, or delete the file"
        ) from None
    seen = np.array([pixel_hash(image, color) in images for image in table.images], dtype=bool)
    known = table.meta.get("patient_id", [None] * len(table))
    same = np.array([p is not None and _patient_hash(salt, p) in patients for p in known], dtype=bool)
    return Overlap(seen, same)
