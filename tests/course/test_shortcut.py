"""The shortcut of lesson 08: who is marked, what is scored, and what its panel draws."""

import numpy as np
import pytest

from sdmad_course import rules, shortcut  # noqa: F401 - rules register themselves
from sdmad_course.exercises import passes
from sdmad_course.shortcut import HOSPITAL, SICK, ShortcutCase, shortcut_panel, with_marks
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.detector import SDMAD
from sdmad_phantoms import CHEST


@pytest.fixture(scope="module")
def case(tiny_clip_name):
    test = shortcut.phantoms(48, 5)
    few = SDMAD(
        CHEST.bank.restricted(list(CHEST.kept_out)),
        backbone=load_clip(tiny_clip_name, device="cpu"),
        alignment=AlignmentConfig(steps=1, augmentations=1),
    ).fit_table(test.rows(range(24)))
    return ShortcutCase(few, test.rows(range(24)), test)


def test_each_image_is_scored_as_it_is_marked(case):
    every = np.full(48, True)
    some = case.marked(0.5, 0.5)
    assert 0 < some.sum() < 48 and case.marked(1, 0).tolist() == case.sick.tolist()
    images = with_marks(case.test, some).images
    np.testing.assert_allclose(case.scores(some), case.detector.decision_function(images)[:, case.column], atol=1e-5)
    assert not np.allclose(case.scores(every), case.scores(~every))
    at_home = np.array(case.test.meta["site"])[case.home()]
    assert set(at_home) == {HOSPITAL} and case.sick[case.home()].all()
    scores, table, threshold = case.asked(some)
    assert scores.shape == table.labels.shape == (48, 1) and table.categories == (SICK,) and threshold.shape == (1,)
    assert (np.array(table.meta["mark"]) == "yes").tolist() == some.tolist()


def test_the_panel_counts_every_image_once(case):
    panel = shortcut_panel(case)
    for control in panel.controls.values():
        for value in (0.0, 0.35, 1.0):
            control.value = value
            counts = [int(word) for word in panel.state.value.replace(",", " ").split() if word.isdigit()]
            assert "AUROC" in panel.state.value and sum(counts[1::2]) == 48


def test_the_check_wants_the_mark_gone_and_the_disease_kept(case):
    def corner(image):
        clean, size = image.copy(), len(image) // 4
        clean[:size, -size:] = 0
        return clean

    def all_of_it(image):
        return np.zeros_like(image)

    answers = [passes("08.1", answer, case=case) for answer in (corner, lambda image: image, all_of_it)]
    assert answers[1:] == [False, False] and isinstance(answers[0], bool)
