"""Panels and exercises of lessons 11 and 13: houses, sums over patients, wordings, one and three images."""

import numpy as np
import pytest
import torch
from conftest import plain_table

from sdmad_course.exercises import TRIVIAL, NotYet, check, passes
from sdmad_course.together import MOST, SumCase, divided, joined, sum_panel
from sdmad_course.words import WORDINGS, WordsCase, few_images, prototype_scores, words_panel

RNG = np.random.default_rng(0)
ARCHIVE = RNG.normal(0, 1, (40, 8))
SHOWN, UNIT = np.arange(40) % 8 < 3, np.eye(8)[np.arange(40) % 8]


def encode(texts):
    """A text tower: `good` words see what is shown, others nothing."""
    good = np.where(np.arange(8) < 3, 1.0, 0.0)
    return torch.tensor(np.array([good if "good" in text else -good for text in texts]))


RIGHT = [
    ("11.1", 5.6 / 40 - (14 / 40) ** 2, {}),
    ("11.2", 17, {"activations": ARCHIVE, "difference": ARCHIVE[17] + 0.01}),
    ("13.1", 0.98, {}),
    ("13.2", "good words", {"encode": encode, "u": UNIT, "has": SHOWN, "bar": 0.5, "sign": "other words"}),
]


@pytest.mark.parametrize(("name", "answer", "given"), RIGHT, ids=[name for name, *_ in RIGHT])
def test_what_is_right_passes_and_nothing_trivial_does(name, answer, given):
    check(name, answer, **given)
    assert not any(passes(name, trivial, **given) for trivial in TRIVIAL)


@pytest.mark.parametrize(("name", "answer"), [("11.1", 0.14), ("11.2", 16), ("13.1", 1.04), ("13.2", "bad words")])
def test_what_is_nearly_right_is_told_so(name, answer):
    with pytest.raises(NotYet):
        check(name, answer, **dict((n, g) for n, _, g in RIGHT)[name])


def test_no_patient_is_in_two_houses():
    labels = np.array([[0, 0], [1, 0], [0, 1]] * 20)
    table = plain_table(labels, patient_id=np.arange(60) // 2)
    houses = divided(table, (4, 2, 2), seed=0)
    people = [set(house.patients()) for house in houses]
    assert len(set().union(*people)) == sum(map(len, people))
    assert all(house.labels.sum(0).min() >= k for house, k in zip(houses, (4, 2, 2), strict=True))
    whole = joined(houses)
    assert len(whole) == sum(map(len, houses)) and whole.labels.sum(0).min() >= 8


def test_who_knows_all_others_in_a_sum_finds_the_last_one():
    case = SumCase.of(ARCHIVE, target=17)
    assert case.order[0] == 17 and sorted(case.order) == list(range(40))
    for patients in (1, 5, MOST):
        likeness = case.likeness(patients, known=patients - 1)
        assert likeness.argmax() == 17 and likeness[17] == pytest.approx(1)
    assert case.likeness(MOST, 0)[17] < 0.9


def swept(panel):
    """Pictures of all states of all controls, one moved at a time."""
    for control in panel.controls.values():
        values = getattr(control, "options", None) or ([True, False] if isinstance(control.value, bool) else None)
        pictures = set()
        for value in values or range(control.min, control.max + 1, 4):
            control.value = value
            pictures.add(panel.picture.png)
        assert len(pictures) > 1


def test_the_panels_move():
    panel = sum_panel(SumCase.of(ARCHIVE, 17))
    assert "rank <b>1</b> of 40" in panel.state.value
    panel.controls["patients"].value = MOST
    swept(panel)
    sign = next(iter(WORDINGS))
    other = list(WORDINGS)[1]
    tower = lambda texts: encode([text if text == sign else "good" for text in texts])  # noqa: E731
    case = WordsCase.of(UNIT + 0.01 * ARCHIVE, tower, {sign: SHOWN, other: ~SHOWN})
    panel = words_panel(case)
    panel.controls["truth"].value = True
    assert f"AUROC {case.auroc(sign, sign):.2f}" in panel.state.value
    swept(panel)
    panel.controls["sign"].value = other
    assert panel.controls["wording"].options == (other, *WORDINGS[other])


def test_prototypes_by_hand_and_over_draws():
    support, labels = np.array([[1.0, 0], [0.6, 0.8], [0, 1], [-1, 0]]), np.array([1, 1, 0, 0])
    assert prototype_scores(np.array([[0.8, 0.6]]), support, labels)[0] == pytest.approx(0.98)
    table = plain_table(SHOWN[:, None].astype(int))
    found = few_images(ARCHIVE + 2 * SHOWN[:, None], np.where(SHOWN, 1.0, 0), table, 3, draws=5)
    assert {name: len(values) for name, values in found.items()} == {"words": 5, "images": 5, "both": 5}
    assert (found["words"] == 1).all() and found["images"].min() > 0.8
