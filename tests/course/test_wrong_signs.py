"""Banks with wrong signs, for lessons on selection."""

import numpy as np
import pytest

from sdmad_course.wrong_signs import with_wrong_signs
from sdmad_lite.errors import BankError
from sdmad_lite.signs import load_bank

BANK = load_bank("nih_chest14")


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5])
def test_wrong_signs_reach_the_fraction_in_every_list(fraction):
    dirty = with_wrong_signs(BANK, fraction, seed=3)
    true, noisy = BANK.membership()[1:], dirty.membership()[1:]
    assert (noisy >= true).all()  # right signs stay
    wrong = (noisy - true).sum(1)
    np.testing.assert_array_equal(wrong, np.round(true.sum(1) * fraction / (1 - fraction)))
    np.testing.assert_allclose(wrong / noisy.sum(1), fraction, atol=0.1)
    assert dirty.texts == BANK.texts
    np.testing.assert_array_equal(dirty.membership()[0], BANK.membership()[0])


def test_wrong_signs_follow_the_seed():
    assert with_wrong_signs(BANK, 0.5, seed=1) == with_wrong_signs(BANK, 0.5, seed=1)
    assert with_wrong_signs(BANK, 0.5, seed=1) != with_wrong_signs(BANK, 0.5, seed=2)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_wrong_signs_refuse_an_impossible_fraction(fraction):
    with pytest.raises(BankError, match=f"fraction is {fraction}"):
        with_wrong_signs(BANK, fraction)
