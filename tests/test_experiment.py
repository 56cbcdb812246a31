"""What stands between the parts: baselines, groups, who is eligible, and what the notebooks share."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from sdmad_lite import course
from sdmad_lite.baselines import clip_adapter, linear_probe, prototypes, zero_shot
from sdmad_lite.data import ImageTable
from sdmad_lite.experiment import METHODS, OURS, ZERO, eligible, groups, run_experiment

MEMBERSHIP = torch.tensor([[0.0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]])


def table(labels, **meta):
    labels = np.asarray(labels)
    meta = {name: tuple(str(v) for v in column) for name, column in meta.items()}
    return ImageTable(tuple(range(len(labels))), labels, tuple("ABC"[: labels.shape[1]]), meta)


def features(seed, count=60, width=8):
    """Unit features in which direction 0 tells the first category and direction 1 the second, among noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count, 2), generator=generator)
    u = 0.5 * torch.randn(count, width, generator=generator)
    u[:, :2] += 1.5 * labels
    return F.normalize(u, dim=1), labels.numpy()


# Baselines


def test_zero_shot_by_hand():
    """Cosines 0.6, 0.8, -0.6 with the signs and 0 with the normal one: (0.6 + 0.8) / 2 and -0.6."""
    v = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0.8, -0.6]])
    np.testing.assert_allclose(zero_shot(torch.tensor([[0.6, 0.8]]), v, MEMBERSHIP), [[0.7, -0.6]], atol=1e-6)


def test_prototypes_by_hand():
    """Positives (1, 0) and (0, 1) have the mean direction (1, 1) / sqrt 2; the negative is (-1, 0)."""
    u = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    got = prototypes(u, np.array([[1], [1], [0]]), torch.tensor([[0.6, 0.8]]))
    np.testing.assert_allclose(got, [[1.4 / 2**0.5 + 0.6]], rtol=1e-6)


def test_baselines_tell_new_images_and_follow_the_seed():
    (u, labels), (u_test, truth) = features(0), features(1)
    v = F.normalize(torch.eye(4, 8)[[0, 2, 1, 3]] + 0.3, dim=1)  # signs that point roughly where they should
    for method in (
        lambda seed: linear_probe(u, labels, u_test, seed),
        lambda seed: clip_adapter(u, labels, u_test, v, MEMBERSHIP, seed),
        lambda seed: prototypes(u, labels, u_test),
    ):
        scores = method(0)
        assert scores.shape == (60, 2) and roc_auc_score(truth, scores) > 0.8
        np.testing.assert_array_equal(method(0), scores)


def test_one_positive_is_enough_for_every_baseline():
    u, _ = features(0, 6)
    labels = np.eye(6, 2, dtype=int)
    v = F.normalize(torch.ones(4, 8), dim=1)
    for scores in (prototypes(u, labels, u), linear_probe(u, labels, u), clip_adapter(u, labels, u, v, MEMBERSHIP)):
        assert scores.shape == (6, 2) and np.isfinite(scores).all()


# Experiment


def test_groups_are_the_values_of_columns_with_more_than_one():
    got = groups(table([[0]] * 4, view="APAP", sex="FFFF", age=[30, 40, 50, 60]))
    assert {name: rows.tolist() for name, rows in got.items()} == {"view=A": [0, 2], "view=P": [1, 3]}


def test_eligible_names_who_is_short_and_of_what():
    """A: 4 positives of 2 patients in train. B: 1 positive in train. C: none in test."""
    train = table([[1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1], [0, 0, 0]], patient_id=[1, 1, 1, 2, 3])
    test = table([[1, 1, 0], [1, 1, 0]])
    assert eligible(train, test, shots=2, least=2).keys() == {"B", "C"}
    short = eligible(train, test, shots=3, least=1)
    assert short["A"] == "2 positive patients in train, 3 shots need 3"
    assert short["C"] == "4 positives in train and 0 in test, 1 are needed in each"


def test_an_experiment_scores_every_method_on_every_draw(tiny_clip, bank, phantom_table):
    test = phantom_table.rows(np.arange(24, 48))
    experiment = run_experiment(phantom_table.rows(np.arange(24)), test, bank, tiny_clip, 1, [0, 7])
    assert set(experiment.results) == set(METHODS) and all(len(r) == 2 for r in experiment.results.values())
    # nothing in the zero-shot row depends on the draw, nor on the seven methods run before it
    assert experiment.series(ZERO)[0] == experiment.series(ZERO)[1]
    u, v = tiny_clip.encode_images(test.images), tiny_clip.encode_texts(bank.texts)
    scores = zero_shot(u, v, torch.from_numpy(bank.membership()))
    expected = roc_auc_score(test.labels, scores, average="macro")
    assert experiment.mean(ZERO)["multilabel"]["macro"]["auroc"] == pytest.approx(expected, abs=1e-6)
    for detector, scored in zip(experiment.detectors, experiment.scores, strict=True):
        np.testing.assert_allclose(detector.predict_proba(test.images), scored, atol=1e-6)
    mine = experiment.compare(OURS, ZERO)
    assert mine["difference"] == pytest.approx(np.mean(experiment.series(OURS)) - experiment.series(ZERO)[0])


# The course


def test_the_samples_of_the_course_load():
    bank, train, test = course.chest_samples()
    assert train.categories == test.categories == bank.categories
    assert not set(train.patients()) & set(test.patients())
    assert (train.labels.sum(0) >= 16).all()


def test_support_and_validation_share_no_patient(phantom_table):
    support, validation = course.support_and_validation(phantom_table, 2, seed=0)
    assert not set(support.patients()) & set(validation.patients())
    left = set(phantom_table.patients()) - set(support.patients())
    assert set(validation.patients()) == left and len(validation) == 2 * len(left)


def test_a_detector_of_the_course_is_fitted_once_for_each_support_set(
    tiny_clip, bank, phantom_table, tmp_path, monkeypatch
):
    monkeypatch.setattr(course, "OUTPUTS", tmp_path)
    support, validation = course.support_and_validation(phantom_table, 2, seed=0)
    images = validation.images[:4]
    one = course.load_or_fit(support, bank, tiny_clip, "lesson")
    (state,) = tmp_path.glob("*/detector.json")
    written = state.stat().st_mtime_ns
    again = course.load_or_fit(support, bank, tiny_clip, "lesson")
    assert state.stat().st_mtime_ns == written  # the second was loaded
    np.testing.assert_allclose(again.predict_proba(images), one.predict_proba(images), rtol=1e-6)
    other, _ = course.support_and_validation(phantom_table, 2, seed=1)
    course.load_or_fit(other, bank, tiny_clip, "lesson")
    assert len(list(tmp_path.iterdir())) == 2
