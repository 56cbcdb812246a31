"""What stands between the parts: the whole experiment, and who is eligible."""

import numpy as np
import pytest
import torch
from conftest import plain_table, quick_baselines
from sklearn.metrics import roc_auc_score

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.baselines import ON_FEATURES, Query
from sdmad_lite.evaluation.experiment import BOTH_STAGES, OWN, ZERO_SHOT, Settings, eligible, groups, run_experiment
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.selection import equal_weights, margins


def test_eligible_names_who_is_short_and_of_what():
    """A: 4 positives of 2 patients in train. B: 1 positive in train. C: none in test."""
    train = plain_table([[1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1], [0, 0, 0]], patient_id=[1, 1, 1, 2, 3])
    test = plain_table([[1, 1, 0], [1, 1, 0]])
    assert eligible(train, test, shots=2, least=2).keys() == {"B", "C"}
    short = eligible(train, test, shots=3, least=1)
    assert short["A"] == "2 positive patients in train, 3 shots need 3"
    assert short["C"] == "4 positives in train and 0 in test, 1 are needed in each"


def test_groups_are_the_values_of_columns_with_more_than_one():
    got = groups(plain_table([[0]] * 4, view="APAP", sex="FFFF", age=[30, 40, 50, 60]))
    assert {name: rows.tolist() for name, rows in got.items()} == {"view=A": [0, 2], "view=P": [1, 3]}


def test_an_experiment_scores_every_method_on_every_draw(tiny_clip, bank, phantom_table):
    test = phantom_table.rows(np.arange(24, 48))
    settings = Settings(AlignmentConfig(steps=5, augmentations=2))  # and every baseline as it is shipped
    experiment = run_experiment(phantom_table.rows(np.arange(24)), test, bank, tiny_clip, 1, [0, 7], settings)
    assert set(experiment.results) == {*OWN, *ON_FEATURES} and all(len(r) == 2 for r in experiment.results.values())
    # nothing in the zero-shot row depends on the draw, nor on the methods run before it
    assert experiment.series(ZERO_SHOT)[0] == experiment.series(ZERO_SHOT)[1]
    u, v = tiny_clip.encode_images(test.images), tiny_clip.encode_texts(bank.texts)
    scores = margins((u @ v.T).numpy(), equal_weights(bank.membership()))
    expected = roc_auc_score(test.labels, scores, average="macro")
    assert experiment.mean(ZERO_SHOT).mean.multilabel.macro.auroc == pytest.approx(expected, abs=1e-6)
    for detector, scored in zip(experiment.detectors, experiment.scores[BOTH_STAGES], strict=True):
        np.testing.assert_allclose(detector.predict_proba(test.images), scored, atol=1e-6)
        for name, rows in groups(test).items():
            again = evaluate(scored[rows], test.labels[rows], test.categories, detector.thresholds_)
            assert again in experiment.subgroups[name] and again != experiment.results[BOTH_STAGES][0]
    mine = experiment.compare(BOTH_STAGES, ZERO_SHOT)
    assert mine.difference == pytest.approx(np.mean(experiment.series(BOTH_STAGES)) - experiment.series(ZERO_SHOT)[0])


def test_draws_and_methods_of_ones_own_can_be_given(tiny_clip, bank, phantom_table):
    train, test = phantom_table.rows(np.arange(24)), phantom_table.rows(np.arange(24, 48))
    rows = [draw_support(train, 1, seed) for seed in (3, 2)]
    mine = {"prototypes again": ON_FEATURES["prototypes"]}
    short = AlignmentConfig(steps=1, augmentations=1)
    settings = Settings(alignment=short, baselines=mine, support=rows)
    experiment = run_experiment(train, test, bank, tiny_clip, 1, [1, 0], settings)
    assert list(experiment.results) == list(experiment.methods) == [*OWN, "prototypes again"]
    for given, used in zip(rows, experiment.support, strict=True):
        np.testing.assert_array_equal(given, used)
    with pytest.raises(DataError, match="no column 'Pleural effusion'; the columns are Emphysema"):
        run_experiment(train, test.restricted(["Emphysema"]), bank, tiny_clip, 1, [0])


def test_every_method_is_fitted_before_a_test_image_is_read(tiny_clip, bank, phantom_table):
    """The test images are missing: it is noticed only when the predictors of all draws are there."""
    fitted = []

    def spy(support):
        fitted.append(support.seed)
        return lambda query: np.zeros((len(query.images), 3))

    spy.what = "counts"
    missing = ImageTable(("gone.png",) * 4, np.eye(4, 3, dtype=int), bank.categories, {})
    with pytest.raises(DataError, match=r"gone\.png"):
        short = AlignmentConfig(steps=1, augmentations=1)
        run_experiment(phantom_table, missing, bank, tiny_clip, 1, [4, 5], Settings(short, baselines={"spy": spy}))
    assert fitted == [4, 5]


def test_another_test_set_changes_nothing_that_was_fitted(tiny_clip, bank, phantom_table):
    """Bit for bit: adapters, weights, thresholds, and what every method says of the same new images."""
    train, new = phantom_table.rows(np.arange(24)), phantom_table.rows(np.arange(40, 48)).images
    tests = phantom_table.rows(np.arange(24, 32)), phantom_table.rows(np.arange(32, 48))
    query = Query(new, tiny_clip.encode_images(new))
    methods = quick_baselines(tiny_clip)
    short = AlignmentConfig(steps=5)
    settings = Settings(short, baselines=methods)
    one, two = (run_experiment(train, t, bank, tiny_clip, 2, [1], settings) for t in tests)
    for a, b in zip(one.detectors + one.training_free, two.detectors + two.training_free, strict=True):
        for name, tensor in a.adapters_.state_dict().items():
            assert torch.equal(tensor, b.adapters_.state_dict()[name])
        for name in ("weights_", "thresholds_", "scale_", "bias_", "image_weights_"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.reasons_ == b.reasons_ and a.history_ == b.history_
    assert [rows.tolist() for rows in one.support] == [rows.tolist() for rows in two.support]
    assert set(one.predictors) == set(two.predictors) == {*OWN, *methods}
    for method in one.methods:
        for a, b in zip(one.predictors[method], two.predictors[method], strict=True):
            np.testing.assert_array_equal(a(query), b(query))
    assert one.series(BOTH_STAGES) != two.series(BOTH_STAGES)  # the results, which may change
