"""Real images: a set in its publisher's layout becomes one cell, measured once, and a page with both intervals."""

import numpy as np
import pytest
import real_sets as script
import real_sets_page
from conftest import few_steps
from PIL import Image
from shared import by_patient, less

from sdmad_lite.evaluation.baselines import ON_FEATURES
from sdmad_lite.evaluation.experiment import BOTH_STAGES
from sdmad_lite.show.report import write_json


@pytest.fixture
def busi(tmp_path, monkeypatch):
    for name, value in {"SHOTS": (1,), "DRAWS": 2, "LEAST": 2, "RESAMPLES": 20, "CELLS": tmp_path / "cells"}.items():
        monkeypatch.setattr(script, name, value)
    chance = np.random.default_rng(0)
    for label, count in (("benign", 12), ("malignant", 4), ("normal", 8)):
        (tmp_path / "busi" / label).mkdir(parents=True)
        for i in range(count):
            pixels = chance.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "busi" / label / f"{label} ({i}).png")
    script.real_set.cache_clear()
    with few_steps():
        yield script.real_set("busi", tmp_path / "busi")
    script.real_set.cache_clear()


def test_a_cell_is_measured_once_and_its_page_has_both_intervals(busi, tiny_clip, monkeypatch, tmp_path):
    names = ("linear probe", "prototypes", "zero-shot signs")
    methods = {name: ON_FEATURES[name] for name in names} | {"pixels": script.BASELINES["pixels"]}
    cell = script.measured(busi, 1, tiny_clip, tiny_clip, methods)
    monkeypatch.setattr(script, "run_experiment", lambda *a, **k: pytest.fail("measured twice"))
    again = script.measured(busi, 1, tiny_clip, tiny_clip, methods)
    assert again["key"] == cell["key"]
    with pytest.raises(pytest.fail.Exception):
        script.measured(busi, 1, tiny_clip, tiny_clip, methods | {"CLIP-Adapter": ON_FEATURES["CLIP-Adapter"]})

    rows = cell["parts"][""]
    blank = rows[f"{BOTH_STAGES}, random weights"]["AUROC"]  # the same model here
    assert blank["draws"] == rows[BOTH_STAGES]["AUROC"]["draws"] and blank["sdmad_minus"]["patients"] == (0, 0)
    row, ours = rows["prototypes"]["AUROC"], rows[BOTH_STAGES]["AUROC"]
    assert row["mean"] == pytest.approx(np.mean(row["draws"]))
    assert row["sdmad_minus"]["difference"] == pytest.approx(ours["mean"] - row["mean"])

    write_json(tmp_path / "found.json", {"command": "", "draws": 2, "least": 2, "cells": [cell]})
    real_sets_page.write_page(tmp_path / "found.json", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    for said in ("Benign 6", "no patient is named", "parted into halves of images", "Labels an image: 0.67", "pixels"):
        assert said in text
    assert f"{row['mean']:.3f} [" in text and f"({row['patients'][0]:.3f}, {row['patients'][1]:.3f})" in text


def test_a_difference_is_bold_where_both_intervals_exclude_zero():
    row = {"difference": 0.2, "low": 0.1, "high": 0.3, "draws": 5, "verdict": "better"}
    cases = {(0.05, 0.3): True, (-0.05, 0.3): False, (-0.3, -0.05): False}
    for patients, bold in cases.items():
        assert less(row | {"patients": patients}).startswith("**") == bold
    assert "**" not in less(row | {"verdict": "no difference shown", "patients": (0.05, 0.3)})


def test_resampled_patients_keep_their_images_and_what_cannot_be_ranked_does_not_count():
    """Ranked right, every resample gives 1; ranked backwards, AUROC 0. One patient drawn thrice tells nothing."""
    y = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    found = by_patient({"right": [y, y], "wrong": [1 - y]}, y, ["a", "a", "b", "c"], resamples=200)
    assert set(found["right"]["AUROC"]) == {1} and set(found["right"]["mAP"]) == {1}
    assert set(found["wrong"]["AUROC"]) == {0} and 150 < len(found["wrong"]["AUROC"]) < 200
