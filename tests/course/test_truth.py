"""Reasons against what was drawn, on numbers worked out by hand."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sdmad_course.truth import bars_against_truth, without
from sdmad_lite.detector import SDMAD

BANK = SimpleNamespace(
    categories=("A",),
    texts=["one", "two", "three", "clear"],
)
DETECTOR = SimpleNamespace(
    bank=BANK, scale_=np.array([2.0]), weights_=np.array([[0.5, 0.3, 0.2, -1.0]]), reference_=np.array([[0, 0, 0.5, 0]])
)
DETECTOR.membership = np.array([[0, 0, 0, 1], [1, 1, 1, 0]])
DETECTOR.contributions = partial(SDMAD.contributions, DETECTOR)


def test_bars_are_counted_where_some_signs_were_drawn_and_others_not():
    cosines = np.array([[0.2, 0.9, 0.1, 0.0], [0.4, 0.1, 0.9, 0.0], [0.9, 0.9, 0.9, 0.0], [0.5, 0.1, 0.1, 0.0]])
    labels, drawn = np.array([[1], [1], [1], [0]]), [{"two"}, {"two", "three"}, {"one", "two", "three"}, {"two"}]
    # image 0: bars 0.2, 0.54, -0.16: the longest is drawn, and above both others; image 1: 0.4, 0.06, 0.16: neither
    bars = bars_against_truth(DETECTOR, cosines, labels, drawn)
    assert (bars.cases, bars.first) == (2, 0.5)
    assert bars.chance == pytest.approx((1 / 3 + 2 / 3) / 2) and bars.pairs == pytest.approx((1 + 0) / 2)


def test_nothing_to_count_is_no_number():
    assert np.isnan(bars_against_truth(DETECTOR, np.zeros((1, 4)), np.array([[1]]), [set()]).first)


def test_only_the_patches_named_are_blurred():
    pixels = np.zeros((8, 8), np.uint8)
    pixels[::2] = 255
    gone = np.asarray(without(Image.fromarray(pixels), np.array([[True, False], [False, False]])))
    np.testing.assert_array_equal(gone[4:], pixels[4:])
    assert len(np.unique(gone[:4, :4])) and not np.array_equal(gone[:4, :4], pixels[:4, :4])
