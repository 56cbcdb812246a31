"""Decisions: what K positives can promise, worked out by hand, and that no image is scored by what trained on it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bad_inputs.world import World
from conftest import plain_table, stripes
from PIL import Image
from scipy.special import logit
from sklearn.metrics import brier_score_loss

from sdmad_course.reliability import reliability
from sdmad_lite.cli import main
from sdmad_lite.data import patient_folds
from sdmad_lite.deployment import decisions as room
from sdmad_lite.deployment.decisions import TOO_FEW, Decisions, cross_fit, promised_cover
from sdmad_lite.errors import DataError, DetectorError, MissingExtraError, SDMADError


def of(positives, negatives, **more) -> Decisions:
    """One category, with these logits of images with it and without it."""
    logits = np.array([*positives, *negatives], float)[:, None]
    labels = np.repeat([1, 0], [len(positives), len(negatives)])[:, None]
    return Decisions(("A",), logits, labels, **more)


# Promises


@pytest.mark.parametrize(
    ("n", "level", "expected"),
    [
        (16, 0.9, (16 / 17, 0.05 ** (1 / 16), 0.95 ** (1 / 16))),  # rank 16 of 16: Beta(16, 1), whose cdf is x^16
        (4, 0.9, None),  # even the largest of four covers 0.8 on average
        (10, 0.9, None),
        (19, 0.9, (18 / 20,)),
        (4, 0.7, (4 / 5,)),
    ],
)
def test_what_n_images_can_promise(n, level, expected):
    found = promised_cover(n, level)
    assert found is None if expected is None else found[: len(expected)] == pytest.approx(expected)


def test_sets_reach_to_the_rank_of_the_promise():
    # 16 positives: all of them stay in, so "present" is excluded below the lowest, 1; of 24 negatives -1 ... -24 the
    # rank is ceil(25 * 0.9) = 23, so "absent" is excluded above the second largest, -2
    decisions = of(range(1, 17), range(-24, 0))
    new = np.array([[-3.0], [-2.1], [-1.5], [0.9], [1.1]])
    sets, enough = decisions.sets(new)
    assert enough.all()
    assert sets[:, 0, 1].tolist() == [False, False, False, False, True]
    assert sets[:, 0, 0].tolist() == [True, True, False, False, False]
    assert decisions.answers(new)[:, 0].tolist() == ["absent", "absent", "unlike both", "unlike both", "present"]
    overlapping = of(range(1, 17), range(-20, 4))  # the second largest negative is 2
    assert overlapping.answers(np.array([[1.5]]))[0, 0] == "unsure"


def test_too_few_positives_are_an_answer_of_their_own():
    decisions = of([3, 4, 5, 6], range(-24, 0))
    new = np.array([[-9.0], [9.0]])
    sets, enough = decisions.sets(new)
    assert enough.tolist() == [[True, False]] and sets[:, 0, 1].all()  # nothing is excluded without a promise
    assert (decisions.answers(new) == TOO_FEW).all()
    assert (decisions.answers(new, level=0.7) != TOO_FEW).all()


def test_of_new_images_as_many_are_covered_as_promised():
    rng, covered = np.random.default_rng(0), []
    for _ in range(60):
        decisions = of(rng.normal(1, 1, 16), rng.normal(-1, 1, 24))
        new = np.concatenate([rng.normal(1, 1, 200), rng.normal(-1, 1, 200)])[:, None]
        sets, _ = decisions.sets(new)
        covered.append((sets[:200, 0, 1].mean(), sets[200:, 0, 0].mean()))
    np.testing.assert_allclose(np.mean(covered, 0), (16 / 17, 23 / 25), atol=0.02)


def test_safe_thresholds_say_where_positives_are_too_few():
    # no miss of 16: 0.8^16 = 0.03 is under 0.1, so recall 0.8 can be promised; 0.9^16 = 0.19 is not. With one miss
    # P(at most one of 16 | 0.2) = 0.14 is too much, so the threshold is the lowest positive.
    decisions = of(np.linspace(0.5, 2, 16), np.linspace(-3, 1, 24))
    assert decisions.safe_thresholds(0.8)[0] == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert np.isnan(decisions.safe_thresholds(0.9)[0])
    assert not np.isnan(of(np.linspace(0.5, 2, 40), np.linspace(-3, 1, 24)).safe_thresholds(0.9)[0])


# Probabilities


def test_prevalence_moves_the_log_odds_and_nothing_else():
    rng = np.random.default_rng(0)
    decisions, new = of(rng.normal(1, 1, 30), rng.normal(-1, 1, 60)), np.linspace(-3, 3, 7)[:, None]
    half, tenth = decisions.probabilities(new, 0.5), decisions.probabilities(new, 0.1)
    np.testing.assert_allclose(logit(half) - logit(tenth), np.log(9))
    np.testing.assert_allclose(decisions.probabilities(new), decisions.probabilities(new, np.array([1 / 3])))
    assert (np.diff(half[:, 0]) > 0).all() and half[3, 0] == pytest.approx(0.5, abs=0.1)


def test_calibrated_probabilities_are_right_where_logits_are_too_bold():
    rng = np.random.default_rng(1)
    bold = of(5 * rng.normal(1, 1, 200), 5 * rng.normal(-1, 1, 200))  # the true log odds are 2 x, it says 5 x
    y = rng.integers(0, 2, 4000)
    new = 5 * rng.normal(2 * y - 1, 1)[:, None]
    calibrated = bold.probabilities(new, 0.5)[:, 0]
    assert brier_score_loss(y, calibrated) < brier_score_loss(y, 1 / (1 + np.exp(-new[:, 0])))
    assert all(abs(one.said - one.was) < 0.06 for one in reliability(calibrated, y))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_prevalence_is_found_with_an_interval_that_holds_it(share):
    rng = np.random.default_rng(2)
    decisions = of(rng.normal(1, 1, 40), rng.normal(-1, 1, 60))
    y = rng.random(400) < share
    [(value, low, high)] = decisions.prevalence(rng.normal(2 * y - 1, 1)[:, None], resamples=50)
    assert low <= share <= high and low < value < high and abs(value - share) < 0.1


# Cross-fitting


def test_folds_keep_patients_together_and_leave_every_category_some():
    labels = [[0, 0], [1, 0], [0, 1], [1, 1]] * 6
    table = plain_table(labels, patient_id=np.arange(24) // 2)
    fold = patient_folds(table, folds=4)
    assert sorted(set(fold)) == [0, 1, 2, 3] and (fold[::2] == fold[1::2]).all()
    for k in range(4):
        assert table.labels[fold != k].any(0).all() and (table.labels[fold != k].sum(1) == 0).any()
    assert patient_folds(plain_table([[0], [0], [1], [1]])).max() == 1  # as many folds as there are positives


class Remembers:
    """In place of SDMAD: its logits are the numbers of the images that it was fitted on."""

    def __init__(self, *categories):
        self.bank, self.random_state, self.made = SimpleNamespace(categories=categories), 3, []

    def fit_table(self, table):
        self.fitted = set(table.patients())
        self.made.append(self)
        return self

    def decision_function(self, images):
        assert not self.fitted & {f"P{image // 2}" for image in images}
        return np.array([[float(image), len(self.fitted)] for image in images])


def test_no_image_is_scored_by_a_detector_that_saw_its_patient(monkeypatch):
    table = plain_table([[0, 0], [1, 0], [0, 1], [1, 1]] * 6, patient_id=[f"P{i // 2}" for i in range(24)])
    table = replace(table, categories=("A", "B"))
    detector = Remembers("A", "B")
    monkeypatch.setattr(room, "about", lambda detector: {"detector": "its hash"})
    found = cross_fit(detector, table, folds=3)
    assert found.logits[:, 0].tolist() == list(range(24)) and found.logits[:, 1].tolist() == [8] * 24
    assert found.detector == "its hash" and len(detector.made) == 3 and detector not in detector.made
    assert not hasattr(detector, "fitted") and all(other.random_state == 3 for other in detector.made)


# On disk, and as a command


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip_name):
    """24 images of two categories, and a detector fitted on the first 16 by the command."""
    world = World(tmp_path_factory.mktemp("decide"), None, None)
    lines = ["image,Effusion,Nodule,patient_id,sex,site,split"]
    for i, (pixels, label) in enumerate(zip(*stripes(0, 6), strict=True)):
        Image.fromarray(pixels).save(world.path / f"{i}.png")
        lines.append(f"{i}.png,{label[0]},{label[1]},P{i},{'FM'[i // 4 % 2]},A,{'test' if i > 15 else 'train'}")
    (world.path / "labels.csv").write_text("\n".join(lines))
    world.fitted = world.path / "detector"
    given = ["--signs", str(world.bank()), "--backbone", tiny_clip_name, "--device", "cpu", "--steps", "1"]
    assert main(["fit", "--quiet", "--data", str(world.path), "--out", str(world.fitted), *given]) == 0
    return world


def ask(capsys, *words):
    capsys.readouterr()
    assert main([*map(str, words), "--quiet", "--json"]) == 0
    return json.loads(capsys.readouterr().out) | {"remarks": None}


def test_a_detector_decides_after_it_was_cross_fitted_once(world, capsys):
    given = ["decide", "--detector", world.fitted, "--device", "cpu", world.path / "20.png", "--level", 0.7]
    first = ask(capsys, *given, "--data", world.path)
    again = ask(capsys, *given)
    assert first == again
    assert [row["category"] for row in first["decisions"]] == ["Effusion", "Nodule"]
    assert first["promises"]["Nodule"]["present"] == {"images": 8, "cover": list(promised_cover(8, 0.7))}
    rare, dear = ask(capsys, *given, "--prevalence", 0.01), ask(capsys, *given, "--miss", 1e9)
    assert all(
        a["probability"] > b["probability"] for a, b in zip(*(x["decisions"] for x in (first, rare)), strict=True)
    )
    assert all(row["alarm"] for row in dear["decisions"]) and not any(row["alarm"] for row in rare["decisions"])
    few = ask(capsys, "decide", "--detector", world.fitted, world.path / "20.png")  # 8 positives, 90 % asked
    assert {row["answer"] for row in few["decisions"]} == {TOO_FEW} and few["promises"]["Nodule"]["present"][
        "cover"
    ] is None
    assert main(["decide", "--quiet", "--detector", str(world.fitted), str(world.path / "20.png"), "--estimate"]) == 0
    assert TOO_FEW in capsys.readouterr().out


def test_decisions_of_another_detector_are_refused(world, tmp_path, tiny_clip_name):
    from sdmad_lite.detector import SDMAD

    detector = SDMAD.load(world.fitted)
    own = of(range(16), range(-16, 0), detector=room.about(detector)["detector"])
    own.save(tmp_path)
    np.testing.assert_array_equal(Decisions.load(tmp_path, detector).logits, own.logits)
    of(range(16), range(-16, 0), detector="another").save(tmp_path)
    with pytest.raises(DetectorError, match="of another detector"):
        Decisions.load(tmp_path, detector)


# Bad input


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: of([1, 2], []), "'A' needs images with it, 1, and without it, 0"),
        (lambda: of([1, np.nan], [0]), "expected finite ones"),
        (lambda: of([1, 2], [0]).probabilities(np.zeros((1, 1)), 1.0), "a share between 0 and 1"),
        (lambda: of([1, 2], [0]).answers(np.zeros((1, 1)), level=1), "level is 1"),
        (lambda: patient_folds(plain_table([[0], [0], [1]])), "1 patients with 'A'"),
        (lambda: patient_folds(plain_table([[0], [0], [1], [1]], patient_id="abcc")), "1 patients with 'A'"),
    ],
)
def test_bad_input(act, message):
    with pytest.raises((DataError, SDMADError), match=message):
        act()


def test_a_missing_mapie_is_answered_with_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mapie", None)
    monkeypatch.setitem(__import__("sys").modules, "mapie.classification", None)
    with pytest.raises(MissingExtraError, match=r"sdmad_lite\[decisions\]"):
        of([1, 2], [0]).sets(np.zeros((1, 1)))
