"""The pictures of lesson 05b: every control is swept, and what is said is counted again."""

import re

import numpy as np
import pytest

from sdmad_course.decision_panels import DecisionCase, decision_panel, draw_reliability, which_answers
from sdmad_lite.deployment.decisions import TOO_FEW, Decisions
from sdmad_lite.errors import DataError


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    known, new = (rng.random((count, 2)) < 0.4 for count in (80, 100))
    logits = [rng.normal(2.0 * y - 1, 1.2) for y in (known, new)]
    return DecisionCase(Decisions(("A <b>", "B"), logits[0], known.astype(int)), logits[1], new.astype(int))


def test_every_position_says_what_was_covered(case):
    panel = decision_panel(case)
    for control in panel.controls.values():
        for value in control.options:
            control.value = value
            category, positives, level = (panel.controls[name].value for name in ("category", "positives", "level"))
            c, text = case.decisions.categories.index(category), panel.state.value
            sets, enough = case.with_positives(c, positives).sets(case.logits[:, [c]], level)
            told = re.findall(r"<b>(.*?)</b>", text)
            for kind, said in zip((1, 0), told, strict=True):
                covered = sets[case.labels[:, c] == kind, 0, kind].mean()
                assert said == (f"{covered:.2f}" if enough[0, kind] else TOO_FEW)


def test_few_positives_are_taken_as_they_come(case):
    few = case.with_positives(1, 4)
    assert few.counts.tolist() == [[case.decisions.counts[1, 0], 4]]
    with pytest.raises(DataError, match="category: 'C' is none of"):
        which_answers(case, "C", 4, 0.9)


def test_the_reliability_diagram_has_a_curve_for_each_name(case):
    p = 1 / (1 + np.exp(-case.logits.ravel()))
    figure = draw_reliability({"one": (p, case.labels.ravel()), "two": (p, case.labels.ravel())})
    assert len(figure.axes[0].containers) == 2 and len(figure.axes[0].lines) > 2
