"""A mark burnt into a phantom: it lies in its corner, and nothing else changes."""

import numpy as np
import pytest

from sdmad_lite.errors import DataError
from sdmad_phantoms.marks import CORNERS, burnt


@pytest.mark.parametrize("shape", [(100, 80), (100, 80, 3)])
@pytest.mark.parametrize(("corner", "place"), list(zip(CORNERS, ([2, 2], [2, 70], [90, 2], [90, 70]), strict=True)))
def test_a_mark_is_white_in_its_corner_and_nowhere_else(shape, corner, place):
    image = np.full(shape, 7, np.uint8)
    marked = burnt(image, corner, share=0.1)  # 8 pixels, 2 from the edge
    assert (image == 7).all()
    rows, columns = np.nonzero((marked == 255).reshape(100, 80, -1).all(2))
    assert [rows.min(), columns.min()] == place and len(rows) == 64
    assert (marked != 7).sum() == 64 * image[0, 0].size


@pytest.mark.parametrize(
    ("given", "message"), [({"corner": "middle"}, "corner 'middle'"), ({"share": 0}, "share is 0")]
)
def test_bad_input(given, message):
    with pytest.raises(DataError, match=message):
        burnt(np.zeros((9, 9), np.uint8), **given)
