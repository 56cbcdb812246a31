"""What a detector was fitted on, as hashes beside it, so that it is not scored on the same images by mistake.

`support.json` holds a SHA-256 of the pixels of each image and, where patients are known, one of each patient's name
with a random salt. Pictures cannot be had back from it; short patient numbers can be guessed, so delete the file
before you give away a detector whose patient numbers are secret. The detector does not need it.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from ..data import ImageTable, read_image
from ..errors import DataError, SDMADError

FILE = "support.json"


@dataclass(frozen=True)
class Seen:
    """Which rows (N,) of a table have an image, or a patient, that was in the support set."""

    images: np.ndarray
    patients: np.ndarray


def _hashes(table: ImageTable, color: bool, salt: str) -> tuple[list[str], list[str | None]]:
    """Of each image as it is read, whatever its file is called; and of its patient, None where none is named."""
    pictures = (read_image(image, color) for image in table.images)
    images = [sha256(f"{p.mode} {p.size} ".encode() + p.tobytes()).hexdigest() for p in pictures]
    if not table.has_patients:
        return images, [None] * len(table)
    return images, [sha256(f"{salt} {patient}".encode()).hexdigest() for patient in table.patients()]


def write_seen(folder: Path, table: ImageTable, color: bool) -> None:
    """Write support.json into the folder of a detector."""
    salt = secrets.token_hex(16)
    images, patients = _hashes(table, color, salt)
    state = {"images": sorted(images), "salt": salt, "patients": sorted({patient for patient in patients if patient})}
    (folder / FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def find_seen(folder: str | Path, table: ImageTable, color: bool) -> Seen | None:
    """Which rows the detector has seen; None where it does not say what it was fitted on.

    Raises:
        SDMADError: support.json is broken.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        known, salt, people = set(state["images"]), str(state["salt"]), set(state["patients"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise SDMADError(f"{path}: not what 'sdmad fit' wrote ({why}); fit again, or delete the file") from None
    images, patients = _hashes(table, color, salt)
    return Seen(
        images=np.array([image in known for image in images], dtype=bool),
        patients=np.array([patient in people for patient in patients], dtype=bool),
    )


def unseen(folder: str | Path, table: ImageTable, color: bool, exclude: bool = False) -> tuple[ImageTable, list[str]]:
    """The table without what a detector was fitted on, and what there is to say about it.

    Args:
        exclude: leave out the images and the patients of the support set.

    Raises:
        DataError: images of the support set are among them and were not excluded, or there are no others.
    """
    found = find_seen(folder, table, color)
    if found is None:
        return table, [f"{folder} does not say what it was fitted on; overlap with these images is unchecked"]
    if exclude:
        keep = np.flatnonzero(~(found.images | found.patients))
        if not len(keep):
            raise DataError("the detector was fitted on all of these images or patients; give others")
        return table.rows(keep), [f"{len(table) - len(keep)} images of the support set's patients are left out"]
    if found.images.any():
        first = table.images[int(np.argmax(found.images))]
        name = f", {first} first" if isinstance(first, (str, Path)) else ""
        raise DataError(
            f"the detector was fitted on {found.images.sum()} of these images{name}; give other images, or "
            "leave these out with --exclude-support"
        )
    patients = found.patients.sum()
    said = f"{patients} images are of patients of the support set; leave them out with --exclude-support"
    return table, [said] if patients else []
