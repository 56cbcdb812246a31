"""Another hospital: remedies worked out by hand, and a report that says whether they help."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import stripes
from test_memory import BANK

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import ImageTable
from sdmad_lite.deployment.sites import FIGURES, centred, compare_sites, exposed, exposure_curve, site_figures
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError, SDMADError, SDMADWarning
from sdmad_lite.evaluation.seen_images import unseen, write_seen
from sdmad_lite.show.answers import remedies_text
from sdmad_lite.signs.bank import parse_bank


def striped(seed, machine=lambda image: image):
    images, labels = stripes(seed, 12)
    patients = tuple(f"P{i}" for i in range(len(images)))
    return ImageTable(tuple(map(machine, images)), labels, tuple(BANK["categories"]), {"patient_id": patients})


def darker(image):
    return (image * 0.3).astype(np.uint8)


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["whole", "patches"])
def detector(tiny_clip_name, request):
    clip = load_clip(tiny_clip_name, device="cpu")
    settings = {"backbone": clip, "alignment": AlignmentConfig(steps=1, augmentations=1, local=request.param)}
    return SDMAD(parse_bank(BANK), **settings).fit(*stripes(0, 4))


def test_a_curve_brings_grey_values_to_those_of_home():
    """Half of the pixels are 10, half 30; at home half are 100, half 200. What never occurs lies in between."""
    here, home = (np.array([pair * 2], np.uint8) for pair in ([10, 30], [100, 200]))
    curve = exposure_curve([here], [home])
    assert exposed([here], curve)[0].tolist() == [[100, 200, 100, 200]]
    assert curve.shape == (256, 1) and (np.diff(curve[:, 0].astype(int)) >= 0).all()


def test_a_tinted_picture_of_a_grey_site_is_read_as_grey():
    tinted, grey, home = np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 30, np.uint8), np.full((2, 2), 80, np.uint8)
    tinted[..., 0] = 100  # 30 as grey
    with pytest.warns(SDMADWarning, match="colour"):
        curve = exposure_curve([tinted, grey], [home])
        assert [one.tolist() for one in exposed([tinted, grey], curve)] == [[[80, 80], [80, 80]]] * 2
    with pytest.raises(DataError, match="is a colour image, but this modality is grey"):
        exposed([tinted], curve)


def test_a_curve_of_colours_treats_each_alone():
    here, home = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8)
    here[0, :, 0], home[0, :, 0] = [10, 30], [30, 10]
    here[0, :, 2], home[0, :, 2] = [10, 30], [50, 90]
    assert exposed([here], exposure_curve([here], [home], color=True))[0][0].tolist() == [[10, 0, 50], [30, 0, 90]]


def test_centring_moves_thresholds_and_no_ranking(detector):
    home, site = striped(1), striped(2, darker)
    normals = [[t.images[i] for i in np.flatnonzero(t.labels.sum(1) == 0)] for t in (site, home)]
    moved = centred(detector, *normals)
    assert moved.decision_function(normals[0]).mean(0) == pytest.approx(detector.decision_function(normals[1]).mean(0))
    before, after = detector.decision_function(site.images), moved.decision_function(site.images)
    assert np.array_equal(before.argsort(0, kind="stable"), after.argsort(0, kind="stable"))


def test_figures_by_hand():
    y, s = np.array([[1, 0], [0, 0], [0, 1], [0, 0]]), np.array([[2.0, -1], [3, -1], [-1, 1], [-1, -2]])
    figures = dict(zip(FIGURES, site_figures(s, y, np.zeros(2)), strict=True))
    # first category: above two of three, one right and one wrong detection; second: perfect; one of two normal images
    assert figures == pytest.approx({"AUROC": (2 / 3 + 1) / 2, "F1": (2 / 3 + 1) / 2, "false alarms": 0.5})


def test_the_report_has_each_remedy_where_it_acts_and_a_verdict(detector):
    rows = compare_sites(detector, striped(1), striped(2, darker), shots=2, resamples=20)
    assert {(row.remedy, row.site) for row in rows} == {
        ("exposure", "site"),
        ("normals", "site"),
        ("shots", "home"),
        ("shots", "site"),
    }
    at = {(row.remedy, row.site, row.figure): row for row in rows}
    assert at["normals", "site", "AUROC"].after == at["normals", "site", "AUROC"].before
    assert at["normals", "site", "AUROC"].verdict == "no difference shown"
    assert at["shots", "home", "AUROC"].before == pytest.approx(1) or at["shots", "home", "AUROC"].interval[1] >= 0
    text = remedies_text(rows)
    assert all(row.verdict in text for row in rows) and "no ranking changes" in text
    again = compare_sites(detector, striped(1), striped(2, darker), shots=2, resamples=20)
    assert again == rows


def split(table):
    """The first half to adapt with, the second to judge by."""
    return replace(table, meta=table.meta | {"split": ("train",) * 24 + ("test",) * 24})


def test_a_picture_of_one_site_does_not_judge_what_was_learnt_from_it_at_the_other(detector):
    home, site = split(striped(1)), split(striped(2))
    site = replace(site, images=(*site.images[:3], home.images[40], *site.images[4:]))  # to adapt with, and to judge by
    with pytest.raises(SDMADError, match="1 train images are in test too, pixel for pixel"):
        compare_sites(detector, home, site, shots=2, resamples=2)
    assert compare_sites(detector, home, site, shots=2, resamples=2, drop_copies=True)


def test_what_the_detector_was_fitted_on_does_not_judge_it(detector, tmp_path):
    home, site = split(striped(1)), split(striped(2))
    write_seen(tmp_path, home.rows([0, 40]))
    with pytest.raises(SDMADError, match=r"fitted on 1 of these images; give other images, or .*exclude_support=True"):
        compare_sites(detector, home, site, shots=2, resamples=2, unseen=partial(unseen, tmp_path))
    with pytest.warns(SDMADWarning, match="1 images of the support set's patients are left out"):
        without = partial(unseen, tmp_path, exclude_support=True)
        rows = compare_sites(detector, home, site, shots=2, resamples=2, unseen=without)
    assert rows != compare_sites(detector, home, site, shots=2, resamples=2)


def test_a_remedy_without_an_interval_is_refused(detector):
    with pytest.raises(SDMADError, match="resamples is 0"):
        compare_sites(detector, striped(1), striped(2), resamples=0)
