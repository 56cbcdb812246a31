"""What the notebooks share: samples, a support set with validation images, a detector fitted once."""

import numpy as np
import pytest

import sdmad_course as course
from sdmad_phantoms import modality_named


@pytest.mark.parametrize("modality", ["chest", "brain", "fundus"])
def test_the_samples_of_the_course_load(modality):
    bank, train, test = course.samples(modality)
    assert bank.name == f"{modality}_phantoms"
    assert train.categories == test.categories == bank.categories
    assert not set(train.patients()) & set(test.patients())
    assert (train.labels.sum(0) >= 16).all()
    bank, train, _ = course.samples(modality, kept_out=True)
    assert bank.categories == train.categories == modality_named(modality).kept_out


def test_support_and_validation_share_no_patient(phantom_table):
    support, validation = course.support_and_validation(phantom_table, 2, seed=0)
    assert not set(support.patients()) & set(validation.patients())
    left = set(phantom_table.patients()) - set(support.patients())
    assert set(validation.patients()) == left and len(validation) == 2 * len(left)


def test_a_detector_of_the_course_is_fitted_once_for_each_support_set(
    tiny_clip, bank, phantom_table, tmp_path, monkeypatch
):
    monkeypatch.setattr(course, "OUTPUTS", tmp_path)
    support, validation = course.support_and_validation(phantom_table, 2, seed=0)
    images = validation.images[:4]
    one = course.load_or_fit(support, bank, tiny_clip, "lesson")
    (state,) = tmp_path.glob("*/detector.json")
    written = state.stat().st_mtime_ns
    again = course.load_or_fit(support, bank, tiny_clip, "lesson")
    assert state.stat().st_mtime_ns == written  # the second was loaded
    np.testing.assert_allclose(again.predict_proba(images), one.predict_proba(images), rtol=1e-6)
    other, _ = course.support_and_validation(phantom_table, 2, seed=1)
    course.load_or_fit(other, bank, tiny_clip, "lesson")
    assert len(list(tmp_path.iterdir())) == 2
