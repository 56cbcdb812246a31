"""The whole path gives what it gave before: a detector of version 0.1.0, and those that are fitted anew on the samples.

`golden/detector_0.1.0` was fitted on 4 shots of the kept-out chest categories (seed 0) and saved by that version;
`golden/probabilities.json` holds what it said of 40 validation images, what a new fit with the model and settings of
that version says, and one with those of today. A rewrite may move none. Where the figures are meant to change,
`python tests/test_golden.py` writes them again, and the change is said in CHANGELOG.md.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdmad_course import samples, support_and_validation
from sdmad_lite import SDMAD, AlignmentConfig, load_clip
from sdmad_phantoms import CHEST

GOLDEN = Path(__file__).with_name("golden")
SAVED, EXPECTED = GOLDEN / "detector_0.1.0", GOLDEN / "probabilities.json"


def case():
    """Bank, support set and 40 validation images of the kept-out chest categories."""
    bank, train, _ = (table.restricted(list(CHEST.kept_out)) for table in samples("chest"))
    support, validation = support_and_validation(train, 4, 0)
    return bank, support, validation.images[:40]


def fitted() -> tuple[dict[str, np.ndarray], SDMAD]:
    bank, support, images = case()
    clip, whole = load_clip("embedded-2", device="cpu"), AlignmentConfig(local=0)  # as version 0.1.0 had them
    trained = SDMAD(bank, backbone=clip, alignment=whole).fit_table(support)
    free = SDMAD.training_free(bank, backbone=clip, alignment=replace(whole, steps=0)).fit_table(support)
    today = SDMAD(bank, backbone=load_clip(device="cpu")).fit_table(support)
    fits = {"trained": trained, "training-free": free, "today": today}
    return {name: detector.predict_proba(images) for name, detector in fits.items()}, trained


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return {name: np.array(rows) for name, rows in json.loads(EXPECTED.read_text(encoding="utf-8")).items()}


def test_a_detector_of_version_0_1_0_loads_and_scores_as_it_did(expected):
    detector = SDMAD.load(SAVED, device="cpu")
    np.testing.assert_allclose(detector.predict_proba(case()[2]), expected["trained"], atol=1e-5)


def test_a_new_fit_on_the_samples_scores_as_it_did(expected):
    """Another kind of processor rounds otherwise, and a hundred steps make up to 0.001 of it (measured)."""
    found, detector = fitted()
    np.testing.assert_allclose(found["training-free"], expected["training-free"], atol=1e-5)
    for name in ("trained", "today"):
        np.testing.assert_allclose(found[name], expected[name], atol=5e-3)
    before = SDMAD.load(SAVED, detector.backbone)
    assert [[s.kept for s in rows] for rows in detector.selected_signs().values()] == [
        [s.kept for s in rows] for rows in before.selected_signs().values()
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    scores, _ = fitted()
    for name, values in scores.items():
        print(name, hashlib.sha256(values.tobytes()).hexdigest())
    EXPECTED.write_text(json.dumps({name: values.round(7).tolist() for name, values in scores.items()}) + "\n")
