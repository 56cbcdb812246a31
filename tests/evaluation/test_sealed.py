"""The sealed test set."""

import copy
import pickle

import numpy as np
import pytest
from conftest import plain_table

from sdmad_lite.errors import DataError, SDMADError
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.evaluation.sealed import SealedTest

LABELS = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0], [1, 0]])


def scores(images):
    """Four times the image's number, and something else."""
    return np.array([[4.0 * i, (5 * i) % 7] for i in images])


def test_an_opened_test_set_gives_scores_and_figures():
    data, cut = plain_table(LABELS, view="APAPAP"), np.array([3.0, 3.0])
    opened = SealedTest(data).open({"a": scores, "b": lambda x: -scores(x)}, {"a": cut})
    np.testing.assert_array_equal(opened.scores["b"], -opened.scores["a"])
    assert opened.results["a"] == evaluate(scores(range(6)), LABELS, "AB", cut)
    assert opened.results["b"] == evaluate(-scores(range(6)), LABELS, "AB")


def test_what_predictors_take_is_prepared_once():
    calls = []

    def prepare(images):
        calls.append(images)
        return list(images)

    SealedTest(plain_table(LABELS)).open({"a": scores, "b": scores}, prepare=prepare)
    assert calls == [(0, 1, 2, 3, 4, 5)]


def test_a_test_set_opens_once_and_shows_nothing_before():
    sealed = SealedTest(plain_table(LABELS))
    assert len(sealed) == 6 and sealed.categories == ("A", "B")
    assert not {"table", "images", "labels", "meta"} & set(dir(sealed))
    for another in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(SDMADError, match="copied"):
            another(sealed)
    sealed.open({"a": scores})
    with pytest.raises(SDMADError, match="opened before"):
        sealed.open({"a": scores})


def test_a_slip_before_the_opening_leaves_it_sealed_one_after_it_does_not():
    sealed = SealedTest(plain_table(LABELS))
    with pytest.raises(DataError, match="'b' is none of the predictors"):
        sealed.open({"a": scores}, {"b": np.zeros(2)})
    with pytest.raises(DataError, match=r"'a': scores of shape \(6, 1\), expected \(6, 2\)"):
        sealed.open({"a": lambda images: scores(images)[:, :1]})
    with pytest.raises(SDMADError, match="opened before"):
        sealed.open({"a": scores})
    with pytest.raises(DataError, match="empty"):
        SealedTest(plain_table(LABELS).rows([]))
