"""Stage 2: which signs are kept, with which weight and why, on cosines made by hand or with planted signs."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.metrics import f1_score, roc_auc_score

from sdmad_lite.errors import NotFittedError, SDMADError
from sdmad_lite.selection import (
    SelectionConfig,
    SignSelector,
    best_f1_thresholds,
    equal_weights,
    fit_simplex,
    margins,
    support_auroc,
)


def bank_of(*sizes):
    """M of categories with that many signs of their own, and one normal sign at the end."""
    membership = np.zeros((len(sizes) + 1, sum(sizes) + 1))
    membership[0, -1] = 1
    for c, size in enumerate(sizes):
        start = sum(sizes[:c])
        membership[c + 1, start : start + size] = 1
    return membership


def planted(seed, images=64, good=2, noise=12, gap=1.5):
    """z, Y, M of one category: the first signs are higher by `gap` deviations on positives, the others are noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(images) % 2
    z = rng.normal(0, 1, (images, good + noise + 1))
    z[:, :good] += gap * y[:, None]
    z[:, -1] *= 0.1
    return 0.05 * z, y[:, None], bank_of(good + noise)


# Support AUROC


def test_support_auroc_by_hand():
    """Sign 0 orders 3 of 4 pairs right: 0.75, shrunk by 2 positives against a prior of 2 to 0.5 + 0.25 / 2.

    Sign 1 orders all wrong: 0 becomes 0.5 - 0.5 / 2. Sign 2 is the normal one.
    """
    z = np.array([[0.10, 0.9, 0.3], [0.40, 0.8, 0.1], [0.35, 0.2, 0.5], [0.80, 0.1, 0.2]])
    labels = np.array([[0], [0], [1], [1]])
    got = support_auroc(z, labels, bank_of(2))
    np.testing.assert_allclose(got, [[0.625, 0.25, np.nan]])


def test_support_auroc_trusts_more_shots_more():
    """All pairs right: 0.5 + 0.5 * K / (K + 2)."""
    for shots, expected in ((1, 2 / 3), (2, 0.75), (16, 0.5 + 8 / 18)):
        y = np.repeat([0, 1], shots)
        got = support_auroc(np.stack([y, y], 1) * 0.1, y[:, None], bank_of(1))
        assert got[0, 0] == pytest.approx(expected)


def test_support_auroc_is_chance_where_a_category_has_no_positive_or_no_negative():
    z = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.array([[0, 1]] * 4)
    np.testing.assert_allclose(support_auroc(z, labels, bank_of(1, 1)), [[0.5, np.nan, np.nan], [np.nan, 0.5, np.nan]])


# Margins


def test_margins_by_hand():
    weights = np.array([[0, 0, 1.0], [0.25, 0.75, 0]])
    np.testing.assert_allclose(margins(np.array([[0.4, 0.8, 0.1]]), weights), [[0.1 + 0.6 - 0.1]])


def test_equal_weights_by_hand():
    np.testing.assert_allclose(
        equal_weights(np.array([[0, 0, 0, 1.0], [1, 1, 0, 0], [0, 1, 0, 0]])),
        [[0, 0, 0, 1], [0.5, 0.5, 0, 0], [0, 1, 0, 0]],
    )


# The fit on the simplex


def test_fit_simplex_finds_the_minimum_of_what_it_says_it_minimises():
    """The objective is written here as a loop over images, and its best a and b are searched for each w."""
    z, labels, _ = planted(0, images=20, noise=3)
    z, normal, y, strength = z[:, :-1], z[:, -1], labels[:, 0], 2.0
    positives, spread = y.sum(), np.std(z.mean(1) - normal) + 1e-6

    def objective(w):
        kl = sum(p * np.log(p * len(w)) for p in w)

        def given(log_a_and_b):
            log_a, b = log_a_and_b
            total = 0.0
            for n in range(len(y)):
                logit = np.exp(log_a) / spread * (z[n] @ w - normal[n]) + b
                share = 0.5 / positives if y[n] else 0.5 / (len(y) - positives)
                total -= share * log_expit(logit if y[n] else -logit)
            return total + 0.01 * log_a**2  # keeps the scale finite where classes separate

        return minimize(given, [0, 0], tol=1e-12).fun + strength / positives * kl

    w = fit_simplex(z, normal, y, strength)
    assert w.min() > 0 and w.sum() == pytest.approx(1)
    best = objective(w)
    for i in range(len(w)):
        for j in range(len(w)):
            if i != j:
                step = np.zeros(len(w))
                step[i], step[j] = 1, -1
                slope = (objective(w + 1e-4 * step) - objective(w - 1e-4 * step)) / 2e-4
                assert abs(slope) < 5e-4, (i, j)
                assert objective(w + 0.02 * step) > best


def test_fit_simplex_gives_a_planted_sign_most_of_the_weight():
    z, labels, _ = planted(1, good=1, noise=4, gap=2.5)
    w = fit_simplex(z[:, :-1], z[:, -1], labels[:, 0], 0.1)
    assert w.argmax() == 0 and w[0] > 0.6


def test_a_stronger_pull_ends_nearer_to_equal_weights():
    z, labels, _ = planted(2, good=1, noise=4)
    distance = [
        np.abs(fit_simplex(z[:, :-1], z[:, -1], labels[:, 0], strength) - 0.2).sum() for strength in (0.1, 1, 10, 1e4)
    ]
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 1e-3


def test_the_order_of_signs_does_not_matter():
    z, labels, _ = planted(3, noise=4)
    order = np.array([3, 0, 5, 1, 4, 2])
    one = fit_simplex(z[:, :-1], z[:, -1], labels[:, 0], 1.0)
    other = fit_simplex(z[:, order], z[:, -1], labels[:, 0], 1.0)
    np.testing.assert_allclose(other, one[order], atol=1e-3)


def test_a_single_sign_has_all_the_weight():
    np.testing.assert_array_equal(fit_simplex(np.ones((4, 1)), np.zeros(4), np.array([0, 1, 0, 1]), 1.0), [1.0])


# The selector


@pytest.mark.parametrize("rule", ["simplex", "rank", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_weights_are_on_the_simplex_inside_the_membership(rule, seed):
    rng = np.random.default_rng(seed)
    membership = bank_of(4, 1, 3)
    membership[2, 1] = membership[3, 4] = 1  # two shared signs
    labels = np.concatenate([rng.integers(0, 2, (20, 3)), np.eye(3, dtype=int), np.zeros((4, 3), dtype=int)])
    z = rng.normal(0, 0.1, (2, len(labels), 9)) + (labels @ np.minimum(membership[1:], 1)) * rng.uniform(0, 0.2, 9)
    selector = SignSelector(SelectionConfig(rule=rule, keep=0.3), seed).fit(z, labels, membership)
    weights = selector.weights_
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights >= 0).all() and (weights[membership == 0] == 0).all()
    assert ((weights > 0).sum(1) >= 1).all()
    np.testing.assert_array_equal(weights[0], membership[0])
    for c in range(3):
        own = np.flatnonzero(membership[c + 1])
        assert list(selector.reasons_[c]) == own.tolist()
        for s in own:
            assert selector.reasons_[c][s].startswith("kept" if weights[c + 1, s] > 0 else "dropped")


@pytest.fixture(scope="module")
def planted_fits():
    """10 draws of 64 images: 2 true signs among 14, which equal weights would give 1/7 of the score."""
    return {seed: SignSelector(seed=seed).fit(*planted(seed)) for seed in range(10)}


def test_planted_signs_are_kept_and_noise_is_dropped_with_a_reason(planted_fits):
    kept_true, dropped_noise, true_weight = [], [], []
    for selector in planted_fits.values():
        weights = selector.weights_[1, :-1]
        kept_true.append((weights[:2] > 0).all())
        dropped_noise.append((weights[2:] == 0).mean())
        true_weight.append(weights[:2].sum())
        for s in np.flatnonzero(weights == 0):
            auroc = selector.auroc_[0, s]
            why = "under-fitted" if auroc < 0.55 else "adds nothing beside the others"
            assert selector.reasons_[0][s].startswith(f"dropped: {why}")
            assert f"{auroc:.2f}" in selector.reasons_[0][s]
    assert all(kept_true)
    assert np.mean(dropped_noise) > 1 / 3
    assert np.mean(true_weight) > 3 / 7


def test_the_chosen_weights_score_new_images_better_than_all_signs(planted_fits):
    gains = []
    for seed, selector in planted_fits.items():
        new, truth, membership = planted(1000 + seed, images=400)
        all_signs = margins(new, equal_weights(membership))
        gains.append(roc_auc_score(truth, selector.transform(new)) - roc_auc_score(truth, all_signs))
    assert np.mean(gains) > 0.05 and min(gains) > -0.05


def test_a_category_keeps_one_sign_even_where_none_weighs_enough():
    z, labels, membership = planted(0)
    selector = SignSelector(SelectionConfig(drop_below=1000)).fit(z, labels, membership)
    assert selector.gains_[0] > 0.05 and (selector.weights_[1] > 0).sum() == 1


def test_on_random_labels_mostly_all_signs_stay():
    stay = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        z, labels = rng.normal(0, 0.05, (16, 9)), rng.permutation(16)[:, None] % 2
        selector = SignSelector(seed=seed).fit(z, labels, bank_of(8))
        stay.append((selector.weights_[1, :-1] > 0).all())
    assert np.mean(stay) > 0.6


def test_where_all_signs_stay_they_weigh_the_same_and_the_reason_says_why():
    z, labels, membership = planted(0, good=0, noise=6)
    selector = SignSelector(SelectionConfig(strengths=(1e9,)), seed=0).fit(z, labels, membership)  # no freedom, no gain
    np.testing.assert_allclose(selector.weights_[1, :-1], 1 / 6)
    assert selector.reasons_[0][0].startswith("kept; all signs are kept: no clear cross-fitted gain")


@pytest.mark.parametrize(("positives", "negatives"), [(1, 8), (8, 1)])
def test_too_few_images_keep_all_signs(positives, negatives):
    labels = np.repeat([1, 0], [positives, negatives])[:, None]
    z = np.random.default_rng(0).normal(0, 0.1, (9, 4))
    z[:, 0] += labels[:, 0]  # a perfect sign: even so one image proves nothing
    selector = SignSelector().fit(z, labels, bank_of(3))
    np.testing.assert_allclose(selector.weights_[1], [1 / 3, 1 / 3, 1 / 3, 0])
    assert np.isnan(selector.gains_[0])
    few = "positive" if positives == 1 else "negative"
    assert f"all signs are kept: 1 {few} to judge by, too few" in selector.reasons_[0][1]


def test_rank_keeps_the_best_share_by_support_auroc():
    """Four signs whose AUROC is 1, .75, .5 and 0 by construction; half of them stay."""
    labels = np.array([[0], [0], [1], [1]])
    z = np.array([[0, 0.0, 0.5, 1, 0], [0, 0.4, 0.5, 1, 0], [1, 0.3, 0.5, 0, 0], [1, 0.8, 0.5, 0, 0]])
    selector = SignSelector(SelectionConfig(rule="rank", keep=0.5)).fit(z, labels, bank_of(4))
    np.testing.assert_allclose(selector.weights_[1], [0.5, 0.5, 0, 0, 0])
    assert "best 2 of 4 kept" in selector.reasons_[0][0]
    assert selector.reasons_[0][3].startswith("dropped: under-fitted, support AUROC 0.25")
    one = SignSelector(SelectionConfig(rule="rank", keep=0.01)).fit(z, labels, bank_of(4))
    np.testing.assert_allclose(one.weights_[1], [1, 0, 0, 0, 0])


def test_all_keeps_all():
    z, labels, membership = planted(0)
    selector = SignSelector(SelectionConfig(rule="all")).fit(z, labels, membership)
    np.testing.assert_allclose(selector.weights_, equal_weights(membership))


@pytest.mark.parametrize("seed", range(6))
def test_views_of_an_image_stay_in_one_fold(seed):
    """Copies tell nothing new. Were they spread over folds, each image would be known from its copy."""
    rng = np.random.default_rng(seed)
    z, labels, membership = rng.normal(0, 0.05, (16, 41)), np.arange(16)[:, None] % 2, bank_of(40)
    single = SignSelector(seed=seed).fit(z, labels, membership)
    copies = SignSelector(seed=seed).fit(np.stack([z] * 3), labels, membership)
    assert copies.gains_[0] == pytest.approx(single.gains_[0], abs=0.02)
    np.testing.assert_array_equal(copies.weights_ > 0, single.weights_ > 0)
    np.testing.assert_allclose(copies.weights_, single.weights_, atol=0.01)


def test_categories_are_judged_apart():
    z, labels, _ = planted(0)
    noise = np.random.default_rng(5).normal(0, 0.05, (64, 5))
    both = np.column_stack([z[:, :-1], noise, z[:, -1]])
    two = np.column_stack([labels, np.roll(labels, 1)])
    pair = SignSelector(SelectionConfig(rule="rank")).fit(both, two, bank_of(14, 5))
    alone = SignSelector(SelectionConfig(rule="rank")).fit(z, labels, bank_of(14))
    np.testing.assert_allclose(pair.weights_[1, :14], alone.weights_[1, :14])


def test_the_same_seed_selects_the_same():
    one, two = (SignSelector(seed=4).fit(*planted(0)) for _ in range(2))
    np.testing.assert_array_equal(one.weights_, two.weights_)
    assert one.reasons_ == two.reasons_


def test_transform_gives_margins_and_needs_a_fit():
    z, labels, membership = planted(0)
    with pytest.raises(NotFittedError, match=r"call fit\("):
        SignSelector().transform(z)
    selector = SignSelector().fit(z, labels, membership)
    np.testing.assert_allclose(selector.transform(z)[:, 0], z @ selector.weights_[1] - z[:, -1])


@pytest.mark.parametrize("setting", [{"rule": "best"}, {"keep": 0}, {"keep": 1.5}, {"folds": 1}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(SDMADError, match=next(iter(setting))):
        SelectionConfig(**setting)


# Thresholds


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0.5),  # separable: midway between 0.2 and 0.8
        # at or above .9: F1 2/3; .7: 1/2; .6: P 2/3, R 1, F1 0.8; .2: 2/3. Best at .6, midway to .2
        ([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0], 0.4),
        ([0.1, 0.5], [1, 0], 0.05),  # all are called positive; there is no lower score: midway to 0
        ([0.3, 0.3, 0.3, 0.1], [1, 1, 0, 0], 0.2),  # ties
    ],
)
def test_best_f1_thresholds_by_hand(scores, labels, expected):
    got = best_f1_thresholds(np.array(scores)[:, None], np.array(labels)[:, None])
    np.testing.assert_allclose(got, [expected])


def test_thresholds_are_shrunk_by_hand():
    """Best F1 at 0.3, from 3 positives; a prior worth 2 positives asks for 0.5: (3 * 0.3 + 2 * 0.5) / 5."""
    scores, labels = np.array([[0.5], [0.45], [0.4], [0.2]]), np.array([[1], [1], [1], [0]])
    np.testing.assert_allclose(best_f1_thresholds(scores, labels, prior=2), [0.38])
    np.testing.assert_allclose(best_f1_thresholds(scores, labels, prior=0), [0.3])


def test_no_other_threshold_has_a_better_f1():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (30, 4))
    scores = expit(rng.normal(size=(30, 4)) + labels)
    for c, threshold in enumerate(best_f1_thresholds(scores, labels)):
        every = [f1_score(labels[:, c], scores[:, c] >= cut) for cut in scores[:, c]]
        assert f1_score(labels[:, c], scores[:, c] >= threshold) == pytest.approx(max(every))


def test_a_gain_within_its_standard_error_counts_as_luck():
    """A higher bar keeps all signs where the default would choose: the gain's error is over folds."""
    z, labels, membership = planted(0)
    default = SignSelector().fit(z, labels, membership)
    strict = SignSelector(SelectionConfig(least_gain=1e6)).fit(z, labels, membership)
    assert (default.weights_[1] == 0).sum() > (strict.weights_[1] == 0).sum()
    np.testing.assert_allclose(strict.gains_, default.gains_)
    assert "no clear cross-fitted gain" in strict.reasons_[0][0]
