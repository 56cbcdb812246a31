"""Sums over images: worked out by hand, added up over sites, and what stage 2 makes of them beside the images."""

import numpy as np
import pytest
from scipy.stats import norm

from sdmad_federated.sums import (
    deviations,
    fit_image_evidence,
    fit_signs,
    logistic_sums,
    mean_margins,
    normal_auroc,
    normal_f1_thresholds,
)
from sdmad_lite.deployment.moments import Moments
from sdmad_lite.selection import EvidenceConfig, ImageEvidence, SelectionConfig, SignSelector
from sdmad_lite.selection.calibration import class_means

X = np.array([[1.0, 0], [3, 2], [0, 4], [2, 2]])
Y = np.array([[1], [1], [0], [0]])


def test_moments_by_hand():
    """Positives (1, 0) and (3, 2): 2 images, sums (4, 2), squares (10, 4), product 6; means (2, 1) and (1, 3)."""
    found = Moments.of(X, Y)
    np.testing.assert_array_equal(found.count, [2, 4])
    np.testing.assert_array_equal(found.total, [[4, 2], [6, 8]])
    np.testing.assert_array_equal(found.square, [[[14, 10], [10, 24]]])
    np.testing.assert_array_equal(found.means(), [[[2, 1]], [[1, 3]]])
    np.testing.assert_array_equal(mean_margins(found, np.array([[1, -1]])), [[1], [-2]])
    alone = Moments.of(X, Y, products=False)
    np.testing.assert_array_equal(alone.square, [[10, 4], [14, 24]])
    np.testing.assert_array_equal(deviations(alone), [[[1, 1]], [[1, 1]]])
    np.testing.assert_allclose(normal_auroc(alone), [norm.cdf([1 / np.sqrt(2), -2 / np.sqrt(2)])])


def test_sites_add_up():
    for products in (True, False):
        parts = [Moments.of(X[rows], Y[rows], products) for rows in ([0], [1, 2], [], [3])]
        together = sum(parts, start=Moments.none(2, 1, products))
        for ours, theirs in zip(vars(together).values(), vars(Moments.of(X, Y, products)).values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def support():
    """z (A, N, S), h (A, N, d), Y (N, C) and M of three categories with three signs each and two normal ones."""
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 3)) < 0.4).astype(int)
    membership = np.zeros((4, 11))
    membership[0, 9:] = 1
    for c in range(3):
        membership[c + 1, 3 * c : 3 * c + 3] = 1
    signal = np.concatenate([np.repeat(labels, 3, axis=1), np.zeros((60, 2))], axis=1)
    z = 0.3 + 0.03 * (signal + rng.normal(0, 1, (4, 60, 11)))
    h = labels @ rng.normal(0, 1, (3, 7)) + rng.normal(0, 2, (4, 60, 7)) + 5
    return z, h, labels, membership


@pytest.mark.parametrize("rule", ["discriminant", "all"])
def test_signs_are_weighed_as_from_the_images(support, rule):
    z, _, labels, membership = support
    there = SignSelector(SelectionConfig(rule=rule)).fit(z, labels, membership)
    moments = Moments.of(z[0], labels, products=False), Moments.of(z, labels)
    here = fit_signs(SelectionConfig(rule=rule), *moments, membership)
    np.testing.assert_allclose(here.weights_, there.weights_, atol=1e-9)
    np.testing.assert_allclose(here.auroc_, there.auroc_, atol=0.05)
    assert [set(one) for one in here.reasons_] == [set(one) for one in there.reasons_]


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_image_evidence_is_fitted_as_from_the_images(support, share):
    _, h, labels, _ = support
    signs = 3.0 * labels - 1
    there = ImageEvidence(EvidenceConfig(share)).fit(h, labels, signs)
    rows, every = h.reshape(-1, 7), np.tile(labels, (4, 1))

    def at(weights, centre, spread, balance):
        halves = [(slice(None, 100), ...), (slice(100, None), ...)]
        return sum(logistic_sums(weights, (rows[part] - centre) / spread, every[part], balance) for part in halves)

    moments = Moments.of(h[0], labels, products=False), Moments.of(h, labels, products=False)
    here = fit_image_evidence(EvidenceConfig(share), *moments, class_means(signs, labels), at)
    np.testing.assert_allclose(here.weights_, there.weights_, atol=0.01)
    np.testing.assert_allclose(here.bias_, there.bias_, atol=0.02)


def test_sums_of_a_logistic_regression_by_hand():
    """At weights 0 each image loses log 2; a positive of weight 3 pulls by -0.5 * 3 * x, a negative of 1 by 0.5 * x."""
    found = logistic_sums(np.zeros((1, 2)), np.array([[2.0], [4.0]]), np.array([[1], [0]]), np.array([[3.0], [1.0]]))
    np.testing.assert_allclose(found, [[4 * np.log(2), -0.5 * 3 * 2 + 0.5 * 4, -0.5 * 3 + 0.5]])


def test_thresholds_of_two_normals():
    """Classes far apart: any threshold between them is best; the prior draws it to 0.5."""
    logits = np.array([[-4.0], [-6], [4], [6]])
    labels = np.array([[0], [0], [1], [1]])
    (free,) = normal_f1_thresholds(Moments.of(logits, labels, products=False))
    assert 0.003 < free < 0.99
    (pulled,) = normal_f1_thresholds(Moments.of(logits, labels, products=False), prior=2)
    assert pulled == pytest.approx((2 * free + 1) / 4)
