"""A category that nobody showed: neither its images nor its signs reach the fit, and the page has both rows."""

import left_out as script
import numpy as np
import pytest

from sdmad_lite.data import ImageTable
from sdmad_lite.evaluation.protocols import ranked


def test_no_image_of_the_category_is_left_even_beside_others():
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    table = script.without(ImageTable(tuple("abcd"), labels, ("A", "B"), {}), "A")
    assert table.images == ("c", "d") and table.categories == ("B",) and table.labels.tolist() == [[1], [0]]


def test_any_is_the_highest_probability_and_fires_at_any_threshold():
    class Detector:
        thresholds_ = np.array([0.5, 0.9])

        def predict_proba(self, images):
            return np.array([[0.6, 0.1], [0.1, 0.8], [0.2, 0.3], [0.5, 0.0]])

    table = ImageTable(tuple("abcd"), np.zeros((4, 2), int), ("A", "B"), {})
    abnormal = np.array([True, True, False, False])
    found = script.fired(Detector(), table, abnormal)
    assert found == {"auroc": ranked(abnormal, np.array([0.6, 0.8, 0.3, 0.5]))[0], "fired": 0.5, "alarms": 0.5}


def test_the_page_has_each_category_and_the_mean():
    def draws(*values):
        return [{figure: value for figure in script.FIGURES} for value in values]

    cells = {"chest": {"alone": {"A": 7, "B": 9}, "rows": {}}}
    for category, value in (("A", 0.6), ("B", 0.8)):
        cells["chest"]["rows"][category] = {"left out": draws(value, value), "shown": draws(1, 1)}
    text = script.page(cells, 16, 2)
    assert "| chest, A (7 images), left out | 0.600" in text and "mean of 2 categories, left out | 0.700" in text
    assert text.count("1.000") == pytest.approx(3 * 3 * 3)  # three rows, three figures with both ends
