"""Who pays: figures of groups by hand and beside scikit-learn's, intervals over patients, groups that are too small."""

import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from conftest import plain_table
from sklearn.metrics import f1_score, roc_auc_score

from sdmad_lite.deployment.subgroups import FIGURES, MACRO, TOO_FEW, by_group, columns_to_group, group_names
from sdmad_lite.errors import DataError, MissingExtraError, SDMADWarning
from sdmad_lite.show.answers import groups_text

SAME = "no difference shown"
HALF = np.array([0.5])


def row(rows, **wanted):
    """The one row with these values."""
    [found] = [one for one in rows if all(getattr(one, name) == value for name, value in wanted.items())]
    return found


def test_figures_of_two_groups_by_hand():
    #          F: one of two missed, one of two alarmed in vain;  M: none and none
    scores = np.array([[0.9], [0.2], [0.6], [0.1], [0.8], [0.7], [0.3], [0.4]])
    table = plain_table([[1], [1], [0], [0], [1], [1], [0], [0]], sex="FFFFMMMM")
    rows = by_group(scores, table, HALF, ["sex"], least=2, resamples=0)
    women, men = ({r.figure: (r.value, r.difference) for r in rows if r.group == sex} for sex in "FM")
    assert women["misses"] == (0.5, 0.25) and men["misses"] == (0, -0.25)
    assert women["false alarms"] == (0.5, 0.25) and men["false alarms"] == (0, -0.25)
    assert women["F1"] == (0.5, pytest.approx(0.5 - 0.75)) and men["F1"][0] == 1
    assert women["AUROC"] == (0.75, pytest.approx(0.75 - 13 / 16))  # of all 16 pairs 0.2 loses to 0.3, 0.4, 0.6
    assert {(r.images, r.patients, r.verdict, r.interval) for r in rows} == {(4, (2, 2), SAME, (None, None))}


def random_case(count=300, seed=0, categories=2, apart=0.6):
    """Scores that miss women more often; two images for each patient."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (count, categories))
    sex = np.repeat(rng.choice(["F", "M"], count // 2), 2)
    s = rng.normal(1.2 * y - 0.6, 1) - apart * ((sex == "F")[:, None] & (y == 1))
    site = np.repeat(rng.choice(["A", "B", "C"], count // 2, p=[0.475, 0.475, 0.05]), 2)
    return s, plain_table(y, sex=sex, site=site, patient_id=np.arange(count) // 2)


def test_figures_are_those_of_scikit_learn_in_each_group():
    s, table = random_case()
    women = np.array(table.meta["sex"]) == "F"
    rows = by_group(s, table, np.array([0.1, -0.1]), ["sex"], resamples=0)
    y = np.asarray(table.labels)
    for c, threshold in enumerate((0.1, -0.1)):
        own = {"group": "F", "category": "AB"[c]}
        assert row(rows, figure="AUROC", **own).value == pytest.approx(roc_auc_score(y[women, c], s[women, c]))
        expected = f1_score(y[women, c], s[women, c] >= threshold)
        assert row(rows, figure="F1", **own).value == pytest.approx(expected)
    mean = np.mean([row(rows, figure="misses", group="F", category=c).value for c in "AB"])
    assert row(rows, figure="misses", group="F", category=MACRO).value == pytest.approx(mean)


def test_who_pays_is_found_and_chance_is_not():
    found = by_group(*random_case(), np.zeros(2), ["sex"])
    paying = row(found, figure="misses", group="F", category=MACRO)
    assert paying.verdict == "higher" and paying.difference_interval[0] > 0
    assert row(found, figure="misses", group="M", category=MACRO).verdict == "lower"
    assert row(found, figure="false alarms", group="F", category=MACRO).verdict == SAME
    assert {r.verdict for r in by_group(*random_case(apart=0), np.zeros(2), ["sex"])} == {SAME}
    text = groups_text(found)
    assert "mean of all" in text and "higher" in text


def test_images_of_a_patient_stay_together():
    """Every image twice: the interval is that of the single images, not narrower by the root of two."""
    s, table = random_case(100, seed=3)
    alone = replace(table, meta=table.meta | {"patient_id": tuple(map(str, range(100)))})
    twice = alone.rows(np.repeat(np.arange(100), 2))
    narrow = replace(twice, meta={"sex": twice.meta["sex"]})  # as if each image were another patient's
    widths = []
    for scores, given in ((s, alone), (s.repeat(2, 0), twice), (s.repeat(2, 0), narrow)):
        low, high = row(by_group(scores, given, np.zeros(2), ["sex"]), figure="F1", group="M", category="A").interval
        widths.append(high - low)
    assert widths[0] == pytest.approx(widths[1]) and widths[2] < 0.85 * widths[0]


def test_a_small_group_gets_too_few_to_say_and_so_does_what_it_lacks():
    s, table = random_case()
    rows = by_group(s, table, np.zeros(2), ["site"])
    small = [r for r in rows if r.group == "C" and r.category != MACRO]
    assert {(r.verdict, r.value, r.difference) for r in small} == {(TOO_FEW, None, None)} and small[0].images < 30
    assert row(rows, group="A", figure="AUROC", category=MACRO).value is not None
    sick = (np.array(table.meta["site"]) != "B") | (table.labels[:, 0] == 1)  # B has positives of A alone
    few = table.rows(np.flatnonzero(sick))
    with pytest.warns(SDMADWarning, match="B has only images with A; add others"):
        rows = by_group(s[sick], few, np.zeros(2), ["site"])
    told = {r.figure: r.verdict == TOO_FEW for r in rows if r.group == "B" and r.category == "A"}
    assert told == {"AUROC": True, "F1": True, "misses": False, "false alarms": True}


def test_groups_are_crossed_and_ages_come_in_bands():
    table = plain_table([[0]] * 4, sex="FFMM", site="ABAB", age=["39", "40", "60.5", ""], view="PPPP")
    assert group_names(table, "sex+site").tolist() == ["F+A", "F+B", "M+A", "M+B"]
    assert group_names(table, "age").tolist() == ["under 40", "40 to 59", "60 and over", "not given"]
    assert columns_to_group(table) == ["sex", "age", "site"]


def test_any_metric_can_be_asked_for():
    s, table = random_case()
    figures = {"found": (lambda y, s: float((s[y == 1] >= 0).mean()), (1,))}
    rows = by_group(s, table, np.zeros(2), ["sex"], figures=figures, resamples=20)
    misses = by_group(s, table, np.zeros(2), ["sex"], figures={"misses": FIGURES["misses"]}, resamples=20)
    assert [r.value for r in rows] == pytest.approx([1 - r.value for r in misses])
    assert asdict(rows[0])["figure"] == "found"


TABLE = plain_table([[0], [1]] * 20, sex="FM" * 20, site="A" * 40, age=["old"] * 40)


@pytest.mark.parametrize(
    ("by", "options", "message"),
    [
        ("view", {}, "by: the data have no column 'view' to group by; they have sex, site, age"),
        ("site", {}, "by: every image has site 'A'; name a column with two groups or more"),
        ("age", {}, "by: age 'old' in row 0 is no number of years"),
        ("sex", {"least": 0}, "least is 0"),
        ("sex", {"least": 30}, "by sex: no group has least=30 patients of a kind"),
    ],
)
@pytest.mark.filterwarnings("ignore::sdmad_lite.errors.SDMADWarning")
def test_bad_input(by, options, message):
    with pytest.raises(ValueError, match=message):
        by_group(np.zeros((40, 1)), TABLE, HALF, [by], **options)
    with pytest.raises(DataError, match="scores of shape"):
        by_group(np.zeros((3, 1)), TABLE, HALF, ["sex"])


def test_a_missing_fairlearn_is_answered_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fairlearn", None)
    monkeypatch.setitem(sys.modules, "fairlearn.metrics", None)
    with pytest.raises(MissingExtraError, match=r"sdmad_lite\[fairness\]"):
        s, table = random_case()
        by_group(s, table, np.zeros(2), ["sex"])
