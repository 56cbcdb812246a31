"""The course beside the module: what its notebooks share. The sample set, a support draw, a detector fitted once.

`sign_panels`, `score_panels` and `image_panels` move; `panel` is what they share, `dashboard` has them on one page.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdmad_lite.alignment import AdapterConfig, AlignmentConfig
from sdmad_lite.data import ImageTable, draw_support, load_folder, split_train_test
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError, SDMADError
from sdmad_lite.files import write_text
from sdmad_lite.selection import EvidenceConfig, SelectionConfig
from sdmad_lite.signs.bank import SignBank, load_bank

if TYPE_CHECKING:
    from sdmad_lite.clip.backbone import Backbone

ROOT = Path(__file__).parents[1]
OUTPUTS = ROOT / "build" / "course"  # where notebooks leave files for each other; it can be deleted at any time


def samples(modality: str = "chest", kept_out: bool = False) -> tuple[SignBank, ImageTable, ImageTable]:
    """The phantoms of one modality (chest, brain or fundus): their bank, the train table and the test table.

    Args:
        kept_out: only the categories that the embedded CLIP has never seen.

    Raises:
        DataError: an unknown modality, or the samples are not there, as after an install without the repository.
    """
    folder = ROOT / "data_samples" / modality
    if not (folder / "labels.csv").is_file():
        raise DataError(f"{folder}: no samples; make them with `python -m sdmad_phantoms.samples {folder.parent}`")
    bank = load_bank(f"{modality}_phantoms")
    train, test = split_train_test(load_folder(folder, bank.categories))
    if kept_out:
        from sdmad_phantoms import modality_named

        names = list(modality_named(modality).kept_out)
        bank, train, test = bank.restricted(names), train.restricted(names), test.restricted(names)
    return bank, train, test


def support_and_validation(train: ImageTable, shots: int, seed: int) -> tuple[ImageTable, ImageTable]:
    """A support set, and the images of all other training patients to look at and choose by.

    The test set stays untouched for the one final score.
    """
    rows = draw_support(train, shots, seed)
    used = set(train.patients()[rows])
    rest = [i for i, patient in enumerate(train.patients()) if patient not in used]
    return train.rows(rows), train.rows(np.asarray(rest))


def load_or_fit(support: ImageTable, bank: SignBank, backbone: Backbone, name: str, seed: int = 0) -> SDMAD:
    """The detector saved under OUTPUTS, or a newly fitted one, which is then saved there.

    The folder's name carries a hash of the support set, the seed and the settings, so that another draw is
    fitted anew.
    """
    content = repr([str(image) for image in support.images]) + repr(support.labels.tolist())
    content += repr([seed, AdapterConfig(), AlignmentConfig(), SelectionConfig(), EvidenceConfig()])
    folder = OUTPUTS / f"{name}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    if (folder / "detector.json").is_file():
        try:
            detector = SDMAD.load(folder, backbone)
            if detector.bank == bank and detector.alignment == AlignmentConfig():
                return detector
        except SDMADError as error:  # of another backbone, an older version, or broken
            print(f"fitting again: {error}")
    detector = SDMAD(bank, backbone=backbone, random_state=seed).fit_table(support, progress=True)
    detector.save(folder)
    return detector


def load_or_project(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP of embeddings (N, D) to (N, 2), saved under OUTPUTS: its first call in a process takes half a minute."""
    embeddings = np.ascontiguousarray(embeddings)
    content = embeddings.tobytes() + repr((embeddings.shape, str(embeddings.dtype), seed)).encode()
    file = OUTPUTS / f"umap_{hashlib.sha256(content).hexdigest()[:8]}.json"
    if file.is_file():
        return np.array(json.loads(file.read_text(encoding="utf-8")))
    from sdmad_lite.show.plots import project  # brings matplotlib

    points = project(embeddings, "umap", seed)
    write_text(file, json.dumps(points.tolist()))
    return points
