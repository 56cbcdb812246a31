"""Pictures of names that look like formulas."""

import numpy as np
import pytest

from sdmad_lite import plots


@pytest.mark.parametrize("name", ["$x_{ & $", "5 $", "a\\frac$b$", "<script>"])
def test_a_name_is_drawn_as_it_stands(name):
    scores = np.random.default_rng(0).random((20, 2))
    figure = plots.plot_curves(scores, (scores > 0.5).astype(int), [name, "other"])
    assert plots.to_png(figure).startswith(b"\x89PNG")
    assert plots.to_png(plots.show_images([np.eye(2)], [name])).startswith(b"\x89PNG")
