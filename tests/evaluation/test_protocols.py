"""The three protocols and the statistics over draws, against values worked out by hand."""

import json
import math
from dataclasses import asdict, astuple

import numpy as np
import pytest
from sklearn import metrics

from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.intervals import Interval, bootstrap, mean_interval, over_draws, paired, remarks
from sdmad_lite.evaluation.protocols import Macro, Score, confusion, evaluate, ranked

#                    A    B     what it shows
IMAGES = np.array(
    [
        ([0.1, 0.2], [0, 0]),  # normal
        ([0.4, 0.0], [0, 0]),  # normal
        ([0.8, 0.3], [1, 0]),
        ([0.3, 0.35], [1, 0]),  # missed, and B is ranked above A
        ([0.5, 0.9], [0, 1]),
        ([0.9, 0.6], [1, 1]),
    ]
)
SCORES, LABELS = IMAGES[:, 0], IMAGES[:, 1].astype(int)


@pytest.fixture(scope="module")
def result():
    return evaluate(SCORES, LABELS, ["A", "B"], np.array([0.5, 0.5]))


def is_score(score, auroc, ap, positives, negatives):
    assert (score.auroc, score.ap) == pytest.approx((auroc, ap))
    return (score.positives, score.negatives) == (positives, negatives)


def test_what_is_taken_for_what_by_hand():
    """A is found in 2 of its 3 images, B in both; B in none of two images of A alone, A in the one image of B alone."""
    np.testing.assert_allclose(confusion(SCORES >= 0.5, LABELS), [[2 / 3, 0], [1, 1]])
    assert np.isnan(confusion(LABELS[:, [0, 0]], LABELS[:, [0, 0]])[0, 1])


def test_detection_by_hand(result):
    """A: .9 .8 .3 against the normal .4 .1: 5 of 6 pairs; ranks P P N P N: AP (1 + 1 + 3/4) / 3.

    Any, by the highest score: .9 .9 .8 .35 against .4 .2: 7 of 8 pairs; AP 2/4 + 1/4 + 1/4 * 4/5.
    """
    assert is_score(result.detection.per_category["A"], 5 / 6, 11 / 12, 3, 2)
    assert is_score(result.detection.per_category["B"], 1, 1, 2, 2)
    assert is_score(result.detection.any_anomaly, 7 / 8, 0.95, 4, 2)


def test_discrimination_by_hand(result):
    """A: .9 .8 .3 against the one image without A that is not normal, .5: 2 of 3 pairs; P P N P."""
    assert is_score(result.discrimination.per_category["A"], 2 / 3, 11 / 12, 3, 1)
    assert is_score(result.discrimination.per_category["B"], 1, 1, 2, 2)
    assert result.discrimination.any_anomaly is None


def test_multilabel_by_hand(result):
    """A: .9 .8 .3 against .5 .4 .1: 7 of 9 pairs; P P N N P N: AP (1 + 1 + 3/5) / 3.

    F1 at .5: 2 hits, 1 false, 1 missed.
    """
    a, b = result.multilabel.per_category.values()
    assert is_score(a, 7 / 9, 13 / 15, 3, 3) and is_score(b, 1, 1, 2, 4)
    assert (a.f1, b.f1) == pytest.approx((2 / 3, 1))


def test_macro_and_thresholded_figures_by_hand(result):
    """At .5, of 12 cells: 4 hits, 1 false (image 4, A), 1 missed (image 3, A).

    4 of 6 rows are right; image 3 is ranked wrong.
    """
    assert asdict(result.multilabel.macro) == pytest.approx(
        {
            "auroc": (7 / 9 + 1) / 2,
            "ap": (13 / 15 + 1) / 2,
            "positives": 5,
            "categories": 2,
            "f1": 5 / 6,
            "f1_micro": 8 / 10,
            "exact_match": 4 / 6,
            "hamming_loss": 2 / 12,
            "ranking_loss": 1 / 6,
        }
    )
    assert result.detection.macro.auroc == pytest.approx((5 / 6 + 1) / 2)  # "any" is not a category
    assert astuple(result.discrimination.macro)[:4] == pytest.approx((2, 5, 5 / 6, 23 / 24))


def test_without_thresholds_there_are_no_thresholded_figures():
    """The ranking loss needs none: of six images, image 3 alone is ranked wrong."""
    result = evaluate(SCORES, LABELS, ["A", "B"]).multilabel
    assert result.per_category["A"].f1 is None
    assert {name for name, value in asdict(result.macro).items() if value is None} == {
        "f1",
        "f1_micro",
        "exact_match",
        "hamming_loss",
    }
    assert result.macro.ranking_loss == pytest.approx(1 / 6)


def test_without_any_positive_there_is_no_f1_and_nothing_to_rank():
    macro = evaluate(SCORES, 0 * LABELS, ["A", "B"], np.full(2, 0.5)).multilabel.macro
    assert macro.f1_micro is None and macro.ranking_loss is None and macro.f1 is None
    assert macro.exact_match == pytest.approx(3 / 6) and macro.hamming_loss == pytest.approx(5 / 12)


def test_a_category_without_positives_is_not_averaged():
    scores, labels = np.column_stack([SCORES, SCORES[:, 0]]), np.column_stack([LABELS, np.zeros(6, dtype=int)])
    three = evaluate(scores, labels, ["A", "B", "C"], np.full(3, 0.5))
    two = evaluate(SCORES, LABELS, ["A", "B"], np.full(2, 0.5))
    for one, other in zip(three.protocols().values(), two.protocols().values(), strict=True):
        c = one.per_category["C"]
        assert (c.auroc, c.ap, c.f1, c.positives) == (None, None, None, 0)
        assert astuple(one.macro)[:5] == astuple(other.macro)[:5]  # counts, AUROC, AP and F1


def test_what_has_nothing_to_compare_with_is_none():
    """No normal image: nothing to detect against. One category: nothing to tell it from."""
    no_normal = evaluate(SCORES[2:], LABELS[2:], ["A", "B"])
    assert no_normal.detection.per_category["A"] == Score(positives=3, negatives=0, auroc=None, ap=None)
    assert no_normal.detection.macro == Macro(categories=0, positives=0, auroc=None, ap=None)
    alone = evaluate(SCORES[:4, :1], LABELS[:4, :1], ["A"])
    assert alone.discrimination.per_category["A"].auroc is None
    assert alone.detection.per_category["A"].auroc == pytest.approx(3 / 4)


def test_one_category_has_thresholded_figures_too():
    """A alone on all six images: 2 hits, 1 false, 1 missed, 4 of 6 right; there is no second category to rank."""
    macro = evaluate(SCORES[:, :1], LABELS[:, :1], ["A"], np.array([0.5])).multilabel.macro
    assert macro.f1_micro == macro.f1 == pytest.approx(2 / 3)
    assert macro.exact_match == pytest.approx(4 / 6) and macro.hamming_loss == pytest.approx(2 / 6)
    assert macro.ranking_loss is None


@pytest.mark.parametrize("digits", [0, 1, 16])
def test_rankings_are_those_of_scikit_learn(digits):
    rng = np.random.default_rng(digits)
    y, score = rng.random(300) < 0.1, rng.random(300).round(digits)
    expected = metrics.roc_auc_score(y, score), metrics.average_precision_score(y, score)
    assert ranked(y, score) == pytest.approx(expected, abs=1e-14)
    found = evaluate(score[:, None], y[:, None], ["A"], [0.5]).multilabel.per_category["A"].f1
    assert found == pytest.approx(metrics.f1_score(y, score >= 0.5), abs=1e-14)


def test_the_ranking_loss_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, scores = (rng.random((200, 5)) < 0.3).astype(int), rng.random((200, 5)).round(1)
    found = evaluate(scores, labels, list("ABCDE")).multilabel.macro.ranking_loss
    assert found == pytest.approx(metrics.label_ranking_loss(labels, scores), abs=1e-14)


def test_only_the_order_of_scores_matters_to_the_rankings():
    plain, curved = evaluate(SCORES, LABELS, ["A", "B"]), evaluate(np.exp(5 * SCORES), LABELS, ["A", "B"])
    assert plain == curved


@pytest.mark.parametrize(
    ("scores", "labels", "categories", "named"),
    [
        (SCORES, LABELS[:, :1], ["A", "B"], r"\(6, 2\), labels \(6, 1\)"),
        (SCORES, LABELS, ["A", "B", "C"], "3 categories"),
        (SCORES[:, 0], LABELS[:, 0], ["A"], r"scores \(6,\)"),
        (np.where(SCORES == 0.8, np.inf, SCORES), LABELS, ["A", "B"], "row 2 is not finite"),
    ],
)
def test_bad_input_is_named(scores, labels, categories, named):
    with pytest.raises(DataError, match=named):
        evaluate(scores, labels, categories)


# Over draws


def test_interval_by_hand():
    """.4, .5, .6: mean .5, deviation .1, t of 2 degrees of freedom 4.302653; half width .4302653 / sqrt 3."""
    half = 0.4302653 / math.sqrt(3)
    assert mean_interval([0.4, 0.5, 0.6]) == pytest.approx((0.5, 0.5 - half, 0.5 + half), rel=1e-6)


@pytest.mark.parametrize("values", [[0.95, 1.0], [0.93, 1.0, 1.0, 1.0, 0.99], [0.0, 0.02], [1.0, 1.0]])
def test_no_interval_leaves_the_bounds_of_its_figure(values):
    mean, low, high = mean_interval(values)
    assert 0 <= low <= mean <= high <= 1
    assert paired(values, [0.0] * len(values)).high <= 1 and paired([0.0] * len(values), values).low >= -1
    with pytest.raises(DataError, match="outside"):
        mean_interval([*values, 1.1])


def test_few_draws_and_a_category_ranked_backwards_get_a_line():
    """B is ranked backwards in all six draws, A in none."""
    draws = [evaluate(np.column_stack([LABELS[:, 0], -SCORES[:, 1]]), LABELS, ["A", "B"])] * 6
    assert [line.split(":")[0] for line in remarks(over_draws(draws), 6)] == ["B is ranked backwards"]
    few, backwards = remarks(over_draws(draws[:4]), 4)
    assert few.startswith("too few draws: 4") and "0.000 [0.000, 0.000] in multilabel" in backwards
    assert len(remarks(over_draws(draws[:1]), 1)) == 1
    assert remarks(bootstrap(LABELS.astype(float), LABELS, "AB", None, range(6), resamples=9)) == []


def test_one_draw_has_no_interval():
    mean, low, high = mean_interval([0.7])
    assert mean == 0.7 and math.isnan(low) and math.isnan(high)


def test_paired_verdicts_by_hand():
    """Differences .10, .11, .09: mean .1, deviation .01, half width .01 * 4.302653 / sqrt 3 = .0248."""
    ours, theirs = [0.80, 0.82, 0.81], [0.70, 0.71, 0.72]
    better = paired(ours, theirs)
    assert asdict(better) == {
        "difference": pytest.approx(0.1),
        "low": pytest.approx(0.1 - 0.0248414, abs=1e-6),
        "high": pytest.approx(0.1 + 0.0248414, abs=1e-6),
        "draws": 3,
        "verdict": "better",
    }
    assert paired(theirs, ours).verdict == "worse"
    assert paired([0.9, 0.5, 0.7], [0.7, 0.6, 0.6]).verdict == "no difference shown"  # +.2 -.1 +.1
    assert paired([0.9], [0.1]).verdict == "no difference shown"  # one draw proves nothing


def test_pairing_sees_what_the_means_hide():
    """Draws differ by far more than the methods do, but one method is ahead in each of them."""
    theirs = np.array([0.5, 0.9, 0.6, 0.8, 0.7])
    ours = theirs + np.array([0.010, 0.012, 0.009, 0.011, 0.010])
    assert mean_interval(ours)[1] < mean_interval(theirs)[2]  # the intervals of the two means overlap
    assert paired(ours, theirs).verdict == "better"


def test_over_draws_by_hand():
    """Two draws: t of 1 degree of freedom is 12.7062 and the half width is that times half the difference."""
    draws = [evaluate(scores, LABELS, ["A", "B"], np.full(2, 0.5)) for scores in (SCORES, 1 - SCORES)]
    over = over_draws(draws)
    mean, low, high = dict(over.rows("multilabel"))["A"]
    assert mean.auroc == pytest.approx(0.5)  # 7/9 and 2/9
    assert [low.auroc, high.auroc] == [0, 1]  # 0.5 -+ 12.7062 * 2.5 / 9 goes beyond both
    for end in (mean, low, high):
        assert (end.positives, end.negatives) == (3, 3)
    macro = over.mean.multilabel.macro
    assert macro.categories == 2
    assert macro.exact_match == pytest.approx(np.mean([d.multilabel.macro.exact_match for d in draws]))
    assert over.macro()[1] == over.low.multilabel.macro
    assert Interval.from_dict(json.loads(json.dumps(asdict(over) | {"notice": "more"}))) == over


def test_over_draws_keeps_none_and_gives_one_draw_no_interval():
    labels = LABELS * [1, 0]
    over = over_draws([evaluate(SCORES, labels, ["A", "B"])])
    a, b = (dict(over.rows("multilabel"))[name] for name in "AB")
    assert b == (Score(positives=0, negatives=6, auroc=None, ap=None),) * 3
    assert a[0].auroc > 0 and a[1] == a[2] == Score(positives=3, negatives=3, auroc=None, ap=None)


def test_bootstrap_knows_that_images_of_a_patient_are_no_further_evidence():
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 2, (25, 2)), 4, axis=0)
    scores = labels + np.repeat(rng.normal(0, 1, (25, 2)), 4, axis=0)
    widths = []
    for patients in (np.arange(100), [f"P{i // 4}" for i in range(100)]):
        found = bootstrap(scores, labels, ("a", "b"), None, patients, resamples=30)
        assert found.mean == evaluate(scores, labels, ("a", "b"))
        mean, low, high = found.macro()
        assert low.auroc < mean.auroc < high.auroc and low.positives == mean.positives and low.f1 is None
        widths.append(high.auroc - low.auroc)
    assert widths[1] > 1.3 * widths[0]


def test_without_resamples_or_where_few_have_a_figure_there_is_no_interval():
    """B has one patient with it: a third of the resamples leaves her out."""
    none = bootstrap(SCORES, LABELS, "AB", None, range(6), resamples=0)
    assert none.low.multilabel.macro.auroc is None and none.mean == evaluate(SCORES, LABELS, "AB")
    rare = bootstrap(SCORES, LABELS, "AB", None, [0, 1, 2, 3, 4, 4], resamples=50)
    a, b = (dict(rare.rows("multilabel"))[name] for name in "AB")
    assert b[0].auroc == 1 and b[1].auroc is None and a[1].auroc is not None
