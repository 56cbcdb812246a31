"""The course beside the module: what its notebooks share. The sample set, a support draw, a detector fitted once.

`sign_panels`, `score_panels` and `image_panels` move; `panel` is what they share, `dashboard` has them on one page.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmad_lite.data import ImageTable, draw_support, load_folder, read_image, split_train_test
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError, OutputError, SDMADError, warn
from sdmad_lite.files import user_cache, write_text
from sdmad_lite.signs.bank import SignBank, load_bank

if TYPE_CHECKING:
    from sdmad_lite.clip.backbone import Backbone

ROOT = Path(__file__).parents[1]  # of the repository; of an install without it, the folder that one works in
ROOT = ROOT if (ROOT / "data_samples").is_dir() else Path.cwd()


def _outputs() -> Path:
    """`build/course` of the repository; where that cannot be written, a folder of this user, and a remark."""
    folders = [ROOT / "build" / "course", Path(tempfile.gettempdir(), f"sdmad_course_{os.getpid()}")]
    folders[1:1] = [cache / "sdmad_course"] if (cache := user_cache()) else []
    for folder in folders:
        if os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK):
            break
    if folder != folders[0]:
        warn(f"{folders[0]} cannot be written: the course leaves its files in {folder}")
    return folder


OUTPUTS = _outputs()  # where notebooks leave files for each other; it can be deleted at any time


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


@contextmanager
def _kept_where_possible() -> Iterator[None]:
    try:
        yield
    except OutputError as error:
        warn(f"computed, but not kept for the next time: {error}")


def _digest(*parts: object) -> str:
    content = [part if isinstance(part, bytes) else repr(part).encode() for part in parts]
    return hashlib.sha256(b"|".join(content)).hexdigest()[:16]


def _place(detector: SDMAD, support: ImageTable, name: str) -> Path:
    """Of a detector under OUTPUTS; the name carries a hash of what it is fitted on: pixels, labels, bank, settings."""
    pixels = [np.asarray(read_image(image, detector.bank.color)) for image in support.images]
    content = [part for x in pixels for part in (x.shape, x.tobytes())]
    settings = detector.random_state, detector.adapters, detector.alignment, detector.selection, detector.evidence
    return OUTPUTS / f"{name}_{_digest(*content, support.labels.tolist(), detector.bank.model_dump_json(), settings)}"


def keep(detector: SDMAD, support: ImageTable, name: str) -> None:
    """Save a fitted detector where `load_or_fit` looks for it; where that is impossible, a remark says so."""
    with _kept_where_possible():
        detector.save(_place(detector, support, name))


def load_or_fit(
    support: ImageTable, bank: SignBank, backbone: Backbone, name: str, seed: int = 0, **settings: Any
) -> SDMAD:
    """The detector saved under OUTPUTS, or a newly fitted one, which is then kept there; `settings` as of SDMAD."""
    detector = SDMAD(bank, backbone=backbone, random_state=seed, **settings)
    folder = _place(detector, support, name)
    if (folder / "detector.json").is_file():
        try:
            kept = SDMAD.load(folder, backbone)
            print("detector: loaded, as an earlier run fitted it")
            return kept
        except SDMADError as error:  # of another backbone, an older version, or broken
            print(f"fitting again: {error}")
    detector.fit_table(support)
    print("detector: fitted now")
    with _kept_where_possible():
        detector.save(folder)
    return detector


def load_or_project(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP of embeddings (N, D) to (N, 2), saved under OUTPUTS: its first call in a process compiles for seconds."""
    from .pictures import project  # brings matplotlib

    embeddings = np.ascontiguousarray(embeddings)
    file = OUTPUTS / f"umap_{_digest(embeddings.tobytes(), embeddings.shape, embeddings.dtype, seed)}.json"
    with suppress(OSError, ValueError):  # not there, or broken
        if (points := np.array(json.loads(file.read_text(encoding="utf-8")))).shape == (len(embeddings), 2):
            return points
    points = project(embeddings, "umap", seed)
    with _kept_where_possible():
        write_text(file, json.dumps(points.tolist()))
    return points
