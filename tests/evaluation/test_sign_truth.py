"""Figures of sign truth against values worked out by hand."""

import numpy as np
import pytest

from sdmad_lite.evaluation.sign_truth import pixel_auroc, points_at, sign_truth

MEMBERSHIP = np.array([[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]])


def test_a_sign_is_judged_among_positives_of_its_category_alone():
    """Of 20 positives the first ten show sign 0, whose score is higher there but for one pair in a hundred."""
    labels = np.repeat([[1, 0], [0, 1]], [20, 10], axis=0)
    drawn, scores = np.zeros((30, 4), int), np.zeros((30, 4))
    drawn[:10, 0], drawn[10:, 2], drawn[:3, 1] = 1, 1, 1
    scores[:20, 0] = np.r_[np.arange(11, 20), 8.5, np.arange(-1, 8), 9.0]  # 8.5 lies below 9.0
    scores[20:, 0] = 100  # others do not count
    found = sign_truth(scores, drawn, labels, MEMBERSHIP)
    assert found.within[0] == pytest.approx(0.99) and np.isnan(found.within[1:]).all()  # three, all, none
    assert found.auroc == pytest.approx(0.99)


def test_longest_bars_count_where_some_but_not_all_signs_are_there():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 1]])
    drawn = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]])
    scores = np.array([[0.3, 0.2, 0.9, 0], [0.3, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    found = sign_truth(scores, drawn, labels, MEMBERSHIP)
    assert found.bars.tolist() == [[1, 0.5, 1], [0, 0.5, 0]]
    assert (found.longest_true, found.longest_chance) == (0.5, 0.5)
    bars = np.zeros((4, 2, 4))
    bars[1, 0, 1] = 1
    assert sign_truth(scores, drawn, labels, MEMBERSHIP, bars).longest_true == 1


def test_nothing_to_judge_is_nan():
    found = sign_truth(np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((2, 2)), MEMBERSHIP)
    assert np.isnan([found.auroc, found.longest_true, found.longest_chance]).all()


def test_a_map_points_at_a_sign_where_its_brightest_patch_touches_it():
    mask = np.zeros((8, 8), bool)
    mask[0, 5] = True  # one pixel in the upper right of four patches
    maps = np.array([[[0, 1], [0, 0]], [[1, 0], [0, 0]], [[1, 0], [0, 0]]])
    np.testing.assert_array_equal(points_at(maps, [mask, mask, None]), [[1, 0.25], [0, 0.25]])


def test_pixels_of_a_sign_are_ranked_by_its_map_drawn_large():
    mask = np.zeros((8, 8), bool)
    mask[:, 4:] = True
    maps = np.array([[[0, 1], [0, 1]], [[1, 0], [1, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 1]]], float)
    np.testing.assert_allclose(pixel_auroc(maps, [mask] * 3 + [None]), [1, 0, 0.5])
    np.testing.assert_allclose(pixel_auroc(np.array([[[np.nan, 1], [0, 1]]]), [mask]), [1])  # cut off is least
    assert pixel_auroc(maps[:2], [np.ones((8, 8), bool), None]).size == 0
