"""What a detector was fitted on, as hashes beside it, so that it is not scored on the same images by mistake.

`support.json` holds a SHA-256 of the pixels of each image and, where patients are known, one of each patient's name
with a random salt. Pictures cannot be had back from it; short patient numbers can be guessed, so delete the file
before you give away a detector whose patient numbers are secret. The detector does not need it.
"""

from __future__ import annotations

import json
import secrets
from hashlib import sha256
from pathlib import Path

import numpy as np

from ..data import ImageTable, digests, without_copies
from ..errors import DataError, SDMADError, warn

FILE = "support.json"


def _hashes(table: ImageTable, salt: str) -> tuple[list[str | None], list[str]]:
    """Of each image as it is read, whatever its file is called; and of each one's patient, where the table has them."""
    patients = table.patients() if table.has_patients else ()
    return digests(table.images), [sha256(f"{salt} {patient}".encode()).hexdigest() for patient in patients]


def write_seen(folder: Path, table: ImageTable) -> None:
    """Write support.json into the folder of a detector."""
    salt = secrets.token_hex(16)
    images, patients = _hashes(table, salt)
    state = {"images": sorted(filter(None, images)), "salt": salt, "patients": sorted(set(patients))}
    (folder / FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> tuple[set[str], set[str], str]:
    """Hashes of images and of patients, and the salt of these."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return set(state["images"]), set(state["patients"]), str(state["salt"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise SDMADError(f"{path}: not what 'sdmad fit' wrote ({why}); fit again, or delete the file") from None


def seen(folder: str | Path, table: ImageTable) -> ImageTable:
    """The rows that a detector was fitted on, found by their pixels; a DataError says that they are not all there."""
    path = Path(folder) / FILE
    if not path.exists():
        raise DataError(f"{folder} does not say what it was fitted on; fit again with 'sdmad fit'")
    known, _, salt = _read(path)
    found = table.rows([row for row, digest in enumerate(_hashes(table, salt)[0]) if digest in known])
    found, _ = without_copies("data", found, remedy="give each picture with the labels that it was fitted with")
    if len(found) < len(known):
        what = f"{len(found)} of the {len(known)} images that the detector was fitted on are among these"
        raise DataError(f"{what}; give the data that it was fitted on")
    return found


def unseen(folder: str | Path, table: ImageTable, exclude_support: bool = False) -> ImageTable:
    """The table without what a detector was fitted on; what there is to say about it is a warning.

    Args:
        exclude_support: leave out the images and the patients of the support set.

    Raises:
        DataError: images of the support set are among them and were not excluded, or there are no others.
        SDMADError: support.json is broken.
    """
    path = Path(folder) / FILE
    if not path.exists():
        unknown = f"{folder} does not say what it was fitted on"
        if exclude_support:
            raise DataError(f"{unknown}; it cannot be left out: fit again with 'sdmad fit'")
        warn(f"{unknown}; overlap with these images is unchecked")
        return table
    known_images, known_patients, salt = _read(path)
    known = known_images | known_patients
    images, patients = (np.array([one in known for one in found], bool) for found in _hashes(table, salt))
    if exclude_support:
        keep = np.flatnonzero(~(images | patients) if len(patients) else ~images)
        if not len(keep):
            raise DataError("the detector was fitted on all of these images or patients; give others")
        whose = "'s patients" if table.has_patients else ""
        warn(f"{len(table) - len(keep)} images of the support set{whose} are left out")
        return table.rows(keep)
    if images.any():
        first = table.images[int(np.argmax(images))]
        name = f", {first} first" if isinstance(first, (str, Path)) else ""
        said = f"the detector was fitted on {images.sum()} of these images{name}"
        raise DataError(f"{said}; give other images, or leave these out with exclude_support=True")
    if patients.any():
        what = f"{patients.sum()} images are of patients of the support set"
        warn(f"{what}; leave them out with exclude_support=True")
    return table
