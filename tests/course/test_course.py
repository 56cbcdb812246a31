"""What the notebooks share: samples, a support set with validation images, a detector and a map computed once."""

import importlib
import json
import os

import numpy as np
import pytest
from PIL import Image

import sdmad_course as course
from sdmad_course import pictures
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.data import ImageTable
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import SDMADWarning
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


class Quick(SDMAD):
    def __init__(self, *given, **more):
        super().__init__(*given, **({"alignment": AlignmentConfig(steps=3, augmentations=2)} | more))


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "OUTPUTS", tmp_path / "outputs")
    # UMAP is tried in test_pictures; its first call in a process compiles for 5 s
    monkeypatch.setattr(pictures, "project", lambda x, method, seed: x[:, :2] + seed)
    return tmp_path / "outputs"


def test_a_detector_is_fitted_once_for_the_same_pixels_labels_bank_and_seed(
    tiny_clip, bank, phantom_table, tmp_path, outputs, monkeypatch
):
    monkeypatch.setattr(course, "SDMAD", Quick)
    support, validation = course.support_and_validation(phantom_table, 2, seed=0)
    files = [tmp_path / f"{i}.png" for i in range(len(support))]
    for file, image in zip(files, support.images, strict=True):
        Image.fromarray(image).save(file)
    support = ImageTable(tuple(files), support.labels, support.categories, support.meta)
    one = course.load_or_fit(support, bank, tiny_clip, "lesson")
    (state,) = outputs.glob("*/detector.json")
    written = state.stat().st_mtime_ns
    again = course.load_or_fit(support, bank, tiny_clip, "lesson")
    assert state.stat().st_mtime_ns == written  # the second was loaded
    images = validation.images[:4]
    np.testing.assert_allclose(again.predict_proba(images), one.predict_proba(images), rtol=1e-6)
    files[0].write_bytes(files[1].read_bytes())  # another picture of the same name
    course.load_or_fit(support, bank, tiny_clip, "lesson")
    other = bank.model_copy(update={"signs": bank.signs[::-1]})
    for changed in (
        (support, other, 0),
        (support, bank, 1),
        (course.support_and_validation(phantom_table, 2, 1)[0], bank, 0),
    ):
        course.load_or_fit(*changed[:2], tiny_clip, "lesson", changed[2])
    assert len(list(outputs.iterdir())) == 5


def test_a_map_is_computed_once_and_again_where_its_file_is_broken(outputs):
    u = np.random.default_rng(0).normal(size=(6, 8)).astype("float32")
    points = course.load_or_project(u, seed=3)
    np.testing.assert_array_equal(points, u[:, :2] + 3)
    (file,) = outputs.iterdir()
    file.write_text(json.dumps([[1, 2]] * 6))
    np.testing.assert_array_equal(course.load_or_project(u, seed=3), [[1, 2]] * 6)
    for broken in ("[[1, 2", "[[1, 2]]", "{}"):
        file.write_text(broken)
        np.testing.assert_array_equal(course.load_or_project(u, seed=3), points)


def test_where_the_clone_cannot_be_written_the_course_leaves_its_files_elsewhere(tmp_path, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(tmp_path) in str(path) and allowed(path, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    with pytest.warns(SDMADWarning, match="cannot be written: the course leaves its files in"):
        assert importlib.reload(course).OUTPUTS == tmp_path / "sdmad_course"
    monkeypatch.undo()
    assert importlib.reload(course).OUTPUTS == course.ROOT / "build" / "course"


def test_what_cannot_be_kept_is_given_back_all_the_same(outputs):
    outputs.write_text("no folder")
    with pytest.warns(SDMADWarning, match="not kept for the next time"):
        assert course.load_or_project(np.eye(5)).shape == (5, 2)
