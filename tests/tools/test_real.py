"""Real radiographs, where SDMAD_REAL_CXR names a folder with NIH images and their labels.csv; skipped elsewhere.

The images are not part of the repository.
"""

import os

import numpy as np
import pytest

from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support, load_folder, read_image, split_train_test
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.experiment import eligible, groups
from sdmad_lite.signs.bank import load_bank

FOLDER = os.environ.get("SDMAD_REAL_CXR")
pytestmark = pytest.mark.skipif(not FOLDER, reason="SDMAD_REAL_CXR names no folder of NIH images")


@pytest.fixture(scope="module")
def bank():
    return load_bank("nih_chest14")


@pytest.fixture(scope="module")
def table(bank):
    return load_folder(FOLDER, bank.categories)


def test_the_table_has_the_categories_of_the_bank(table, bank):
    assert table.categories == bank.categories and len(table) > 100
    assert {"patient_id", "view", "split"} <= set(table.meta)
    assert all(name.startswith("view=") or name.startswith("sex=") for name in groups(table))
    assert read_image(table.images[0]).mode == "L"


def test_rare_findings_are_left_out_by_name_and_the_others_can_be_drawn(table, bank):
    train, test = split_train_test(table)
    left_out = eligible(train, test, shots=16, least=15)
    assert 0 < len(left_out) < len(table.categories)
    for category, why in left_out.items():
        positives = [int(t.labels[:, table.categories.index(category)].sum()) for t in (train, test)]
        assert min(positives) < 15 or "patients" in why
        assert str(positives[0]) in why or "patients" in why
    kept = [c for c in table.categories if c not in left_out]
    train = train.restricted(kept)
    support = train.rows(draw_support(train, 16, seed=0))
    assert (support.labels.sum(0) >= 16).all() and (support.labels.sum(1) == 0).sum() == 16
    assert len(set(support.patients())) == len(support)


def test_the_embedded_model_reads_them_and_gives_finite_scores(table, bank):
    train, test = split_train_test(table)
    kept = [c for c in table.categories if c not in eligible(train, test, shots=4, least=15)]
    train = train.restricted(kept)
    support = train.rows(draw_support(train, 4, seed=0))
    detector = SDMAD.training_free(bank.restricted(kept), backbone=load_clip(device="cpu"))
    probabilities = detector.fit_table(support).predict_proba(test.images[:20])
    assert probabilities.shape == (20, len(kept)) and np.isfinite(probabilities).all()
