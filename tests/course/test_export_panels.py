"""The panel of notebook 12: rounding as worked out by hand, undone when the block ends, and every control swept."""

from itertools import product

import numpy as np
import pytest
import torch

from sdmad_course.export_panels import SCALES, bits_panel, few_bits, rounded, rounding_case, with_rounded
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError


@pytest.fixture(scope="module")
def case(bank, phantom_table, tiny_clip_name):
    clip = load_clip(tiny_clip_name, device="cpu")
    detector = SDMAD(bank, backbone=clip, alignment=AlignmentConfig(5)).fit_table(phantom_table)
    return rounding_case(detector, phantom_table.images[:12], bits=(2, 4, 8))


def test_rounding_by_hand():
    weights = torch.tensor([[3.0, -1.4, 0.6], [0.3, 0.16, -0.1]])
    # three bits: three steps to each side; steps of 1 and 0.1, or of 1 for both
    each, whole = rounded(weights, 3), rounded(weights, 3, SCALES[1])
    assert torch.allclose(each, torch.tensor([[3.0, -1.0, 1.0], [0.3, 0.2, -0.1]]))
    assert torch.equal(whole, torch.tensor([[3.0, -1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert torch.equal(rounded(torch.zeros(1, 2), 8), torch.zeros(1, 2))


def test_the_detector_is_as_before_and_eight_bits_change_least(case):
    images = [np.full((32, 32), 9 * i, np.uint8) for i in range(5)]
    before = case.detector.predict_proba(images)
    with pytest.raises(KeyboardInterrupt), with_rounded(case.detector, 2, SCALES[0]):
        assert (case.detector.predict_proba(images) != before).any()
        raise KeyboardInterrupt
    assert np.array_equal(case.detector.predict_proba(images), before)
    moved = np.abs(case.rounded_cosines - case.cosines).mean((2, 3))  # (scales, bits)
    assert (np.diff(moved, axis=1) < 0).all()


def test_a_share_is_what_is_counted(case):
    same = []
    for weights, typical in zip(case.detector.weights_, case.detector.reference_, strict=True):
        own = np.flatnonzero(weights > 0)
        for n in range(len(case.scores)):
            orders = [
                sorted(own, key=lambda s: -weights[s] * (z[n, s] - typical[s]))
                for z in (case.cosines, case.rounded_cosines[1, 0])
            ]
            same.append(orders[0] == orders[1])
    assert case.reasons_kept()[1, 0] == pytest.approx(np.mean(same))
    assert case.decisions_kept().shape == (2, 3)


def test_every_control(case):
    categories = case.detector.bank.categories
    for bits, scale, category in product(case.bits, SCALES, categories[:2]):
        figure, text = few_bits(case, bits, scale, category)
        assert len(figure.axes) == 3 and f"<b>{bits} bits</b>" in text and category in text
    panel = bits_panel(case)
    before = panel.picture.value
    panel.controls["bits"].value = 8
    assert panel.picture.value != before and "8 bits" in panel.state.value
    with pytest.raises(DataError, match="bits: 7 is none of 2, 4, 8"):
        few_bits(case, 7, SCALES[0], categories[0])
