"""Reliability, the Brier score and decision curves against values worked out by hand."""

import numpy as np
import pytest

from sdmad_course.reliability import brier, net_benefit, reliability
from sdmad_lite.deployment.decisions import cost_threshold


def test_costs_and_the_decision_curve_by_hand():
    assert cost_threshold(miss=4) == 0.2
    # at 0.5 one right and one false alarm of four, which weigh the same; at 0.2 two right, one false at 1 : 4
    found = net_benefit([0.9, 0.6, 0.4, 0.1], [1, 0, 1, 0], [0.5, 0.2])
    np.testing.assert_allclose(found, [[0.25 - 0.25, 0], [0.5 - 0.25 / 4, 0.5 - 0.5 / 4]])
    # one in ten has it: half of these found, half of the others alarmed in vain
    np.testing.assert_allclose(net_benefit([0.9, 0.6, 0.4, 0.1], [1, 0, 1, 0], [0.5], 0.1)[0], [0.05 - 0.45, 0.1 - 0.9])


def test_bins_and_the_brier_score_by_hand():
    p, y = np.array([0.8, 0.1, 0.3, 0.6]), np.array([1, 0, 1, 0])
    low, high = reliability(p, y, bins=2)
    assert (low.images, low.said, low.was) == (2, pytest.approx(0.2), 0.5) and low.low < 0.5 < low.high
    assert (high.said, high.was) == (pytest.approx(0.7), 0.5)
    value, below, above = brier(p, y, list("aabb"))
    assert value == pytest.approx((0.04 + 0.01 + 0.49 + 0.36) / 4)
    assert below == pytest.approx((0.04 + 0.01) / 2) and above == pytest.approx((0.49 + 0.36) / 2)  # a or b alone
