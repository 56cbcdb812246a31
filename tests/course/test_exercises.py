"""Checks of exercises: what is right passes, what is typed to be rid of them does not."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sdmad_course import exercises, rules  # noqa: F401 - rules register themselves
from sdmad_course.exercises import EXERCISES, TRIVIAL, NotYet, check, passes
from sdmad_lite.errors import SDMADError
from sdmad_phantoms import CHEST

TINY = {"signs": [{"text": "meniscus at the lung base", "categories": ["Effusion"]}]}
OWN = {
    "name": "mine",
    "modality": "chest radiograph",
    "categories": ["Effusion", "Edema"],
    "signs": [
        {"text": "white crescent at the lung base", "categories": ["Effusion"]},
        {"text": "lost costophrenic corner", "categories": ["Effusion", "Edema"]},
        {"text": "blurred upper vessels", "categories": ["Edema"]},
        {"text": "bat-wing haze around the hilum", "categories": ["Edema"]},
        {"text": "white veil over one lung", "categories": ["Effusion"]},
    ],
    "normal_signs": [{"text": "clear lung fields"}, {"text": "crisp vessel edges"}],
    "provenance": {"author": "you", "kind": "person", "date": "2026-01-01", "reviewed": False},
}
SERIES = {"zero-shot names": [0.4, 0.4], "zero-shot signs": [0.5, 0.5], "linear probe": [0.5, 0.7]}
WANTED = ["Pleural effusion", "Pulmonary edema", "Cardiomegaly", "Consolidation"]
WEIGHTS = np.array([[3.0, -1.0], [0.02, 0.5]])
NEEDS_A_DETECTOR = {"00.2", "04.2", "06.1", "08.1", "14.2"}
"""Their checks run in the notebooks alone, and hold the trivial answers against each solution there."""

PROBABILITIES = np.array([[0.9, 0.1], [0.3, 0.4], [0.6, 0.1]])
STUB = SimpleNamespace(predict_proba=lambda images: PROBABILITIES, thresholds_=np.array([0.5, 0.2]))
TABLE = SimpleNamespace(images=(), labels=np.array([[1, 0], [0, 0], [0, 0]]), categories=("A", "B"))
SPACE = {"u": np.array([[0.9, 0], [0.8, 0], [0.1, 0], [0, 0.2]]), "has": np.array([1, 1, 0, 0]), "bar": 0.6}


def packed(weights, axis=1):
    steps = np.maximum(np.abs(weights).max(axis, keepdims=True), 1e-12) / 127
    return np.rint(weights / steps).astype(np.int8), steps


RIGHT = [
    ("00.1", (1, "B"), {"detector": STUB, "table": TABLE}),
    ("01.1", ["hidden_diaphragm", "upper_vessels"], {"bank": CHEST.bank, "wanted": WANTED}),
    ("01.2", OWN, {"given": TINY}),
    ("02.1", 0.75, {"cosines": np.array([0.9, 0.3, 0.5, 0.1]), "shown": np.array([1, 1, 0, 0])}),
    ("02.2", "two words", SPACE | {"encode": lambda texts: np.array([[1.0, 0.0]])}),
    ("03.1", lambda d, r: 2 * d * r + d + r, {}),
    ("03.2", (np.log(4 / 3) / 16 + (np.log(4 / 3) / 16 + np.log(2) / 4) / 2) / 2, {}),
    ("04.1", 6, {}),
    ("05.1", 0.8333, {}),
    ("05.2", ["zero-shot signs", "zero-shot names"], {"series": SERIES}),
    ("05.3", 22, {}),
    (
        "06.2",
        "A bar is faithful: it is a part of the score. It is not always correct; set how often it names a drawn "
        "sign against chance, before you tell anybody what it shows.",
        {},
    ),
    ("07.1", 0.575, {}),
    ("07.2", 0.65, {"on_test": np.array([[0.4, 0.8, 0.3], [0.6, 0.5, 0.7]])}),
    ("09.1", lambda site, here, home: site - here.mean(0) + home.mean(0), {}),
    ("10.1", lambda mean, count, x: (count * mean + x) / (count + 1), {}),
    ("11.1", 0.0175, {}),
    ("11.2", 2, {"activations": np.eye(4), "difference": np.array([0, 0.1, 0.8, 0])}),
    ("12.1", packed, {"weights": WEIGHTS}),
    ("13.1", 0.98, {}),
    ("13.2", "two words", SPACE | {"encode": lambda texts: torch.tensor([[1.0, 0.0]]).double(), "sign": "a sign"}),
    ("14.1", OWN, {"draft": {"categories": OWN["categories"], "signs": OWN["signs"][:2]}}),
]


def test_every_exercise_is_held_against_trivial_answers():
    assert {name for name, *_ in RIGHT} | NEEDS_A_DETECTOR == set(EXERCISES)


@pytest.mark.parametrize(("name", "answer", "given"), RIGHT, ids=[name for name, *_ in RIGHT])
def test_what_is_right_passes_and_nothing_trivial_does(name, answer, given, capsys):
    check(name, answer, **given)
    assert "correct" in capsys.readouterr().out
    assert not any(passes(name, trivial, **given) for trivial in TRIVIAL)


@pytest.mark.parametrize(
    ("name", "answer", "given"),
    [
        ("01.1", ["hidden_diaphragm", "upper_vessels", "nodule"], {"bank": CHEST.bank, "wanted": WANTED}),
        ("01.2", OWN, {"given": OWN}),
        ("02.2", "two words", SPACE | {"encode": lambda texts: np.array([[-1.0, 0.0]])}),
        ("03.1", lambda d, r: d * r, {}),
        ("04.1", 6.0, {}),
        ("05.2", ["zero-shot signs"], {"series": SERIES}),
        ("06.2", "faithful correct chance", {}),
        ("12.1", lambda weights: packed(weights, None), {"weights": WEIGHTS}),
        ("07.2", 0.75, {"on_test": np.array([[0.4, 0.8, 0.3], [0.6, 0.5, 0.7]])}),
    ],
)
def test_what_is_nearly_right_is_told_so(name, answer, given):
    with pytest.raises(NotYet, match=re.escape(EXERCISES[name].hint)) as error:
        check(name, answer, **given)
    assert error.value._render_traceback_() == [f"not yet: {EXERCISES[name].hint}"]


def test_the_dots_of_a_stub_are_named():
    with pytest.raises(NotYet, match="replace the dots"):
        check("05.1", ...)


def test_a_check_that_lets_a_trivial_answer_pass_is_found(monkeypatch):
    monkeypatch.setitem(EXERCISES, "99.1", exercises.Exercise(lambda answer: answer is not None, "think"))
    with pytest.raises(SDMADError, match="too weak: 0 passes it as well"):
        check("99.1", 7)


def test_an_unknown_exercise_is_named():
    with pytest.raises(SDMADError, match=r"no exercise '42\.1'; there are 00\.1, "):
        check("42.1", 1)
