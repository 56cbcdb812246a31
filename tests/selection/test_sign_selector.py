"""Stage 2: which signs are kept, with which weight and why, on cosines made by hand or with planted signs."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.exceptions import NotFittedError
from sklearn.metrics import f1_score, roc_auc_score

from sdmad_lite.selection import (
    TRAINING_FREE,
    SelectionConfig,
    SignSelector,
    Spread,
    best_f1_thresholds,
    discriminant_weights,
    equal_weights,
    margins,
    support_auroc,
    typical,
)
from sdmad_lite.selection.sign_selector import sign_scores


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


def test_a_sign_score_is_a_mean_of_the_whole_and_of_the_patches_most_like_the_sign():
    """The whole at 0.2, patches at 0.9, 0.5 and -1 of one sign; of the other sign what is left of unit length."""
    cosines = torch.tensor([0.2, 0.5, -1.0, 0.9])
    views = torch.stack([cosines, (1 - cosines**2).sqrt()], 1)[None]
    v = torch.eye(2)
    assert sign_scores(views, v, 0.0, 2)[0].tolist() == pytest.approx([0.2, 0.96**0.5])
    assert sign_scores(views, v, 0.25, 2)[0, 0].item() == pytest.approx(0.75 * 0.2 + 0.25 * 0.7)
    assert sign_scores(views, v, 1.0, 9)[0, 0].item() == pytest.approx(0.4 / 3)  # fewer patches than asked for
    assert sign_scores(views[:, :1], v, 0.5, 2)[0, 0].item() == pytest.approx(0.2)  # no patches


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
    weights = np.array([[0.25, 0.75, -1.0]])
    np.testing.assert_allclose(margins(np.array([[0.4, 0.8, 0.1]]), weights), [[0.1 + 0.6 - 0.1]])


def test_equal_weights_by_hand():
    np.testing.assert_allclose(
        equal_weights(np.array([[0, 0, 0, 1.0, 1], [1, 1, 0, 0, 0], [0, 1, 0, 0, 0]])),
        [[0.5, 0.5, 0, -0.5, -0.5], [0, 1, 0, -0.5, -0.5]],
    )


# The discriminant


def test_discriminant_weights_by_hand():
    """Two signs, within each class +-1 of the mean in both, uncorrelated: covariance 1. The means differ by 2 and -1.

    Variance 1 and total variances 2 and 1.25, whose mean times 1e-3 is added twice. With no pull the second weight
    would be below 0 and is cut, the first is 2 / covariance. With pull 6 and 2 positives, strength is 6 / 2^2 = 1.5
    variances towards e, the best multiple of equal weights: (2 - 1) / 2 / (0.5 covariance) of one half each.
    """
    x = np.array([[a + 2, b - 1] for a in (-1, 1) for b in (-1, 1)] + [[a, b] for a in (-1, 1) for b in (-1, 1)])
    y, equal = np.repeat([1, 0], 4), np.array([0.5, 0.5])
    extra = 1e-3 * (2 + 1.25) / 2
    free = discriminant_weights(Spread.of(x, y), equal, positives=2, shrink=0.0, pull=0.0)
    np.testing.assert_allclose(free, [2 / (1 + extra), 0], atol=1e-9)
    pulled = discriminant_weights(Spread.of(x, y), equal, positives=2, shrink=0.0, pull=6.0)
    strength, e = 1.5 * (1 + extra), 0.5 / (0.5 * (1 + extra)) * 0.5
    np.testing.assert_allclose(pulled, np.maximum([2 + strength * e, -1 + strength * e], 0) / (1 + extra + strength))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_non_negative_weights_are_better(seed):
    """The objective is written here once more, and small steps in every allowed direction do not lower it."""
    z, labels, _ = planted(seed, images=24, noise=5)
    x, y, equal = z[:, :-1], labels[:, 0], np.full(7, 1 / 7)
    w = discriminant_weights(Spread.of(x, y), equal, positives=12, shrink=0.3, pull=24.0)
    within = np.mean([(x[i] - x[y == y[i]].mean(0))[:, None] * (x[i] - x[y == y[i]].mean(0)) for i in range(24)], 0)
    extra = 1e-3 * x.var(0).mean() + 1e-12
    variance = np.trace(within) / 7 + extra
    within = 0.7 * within + (0.3 * variance + extra) * np.eye(7)
    apart = x[y == 1].mean(0) - x[y == 0].mean(0)
    e = equal * max(apart @ equal / (equal @ within @ equal), 0)

    def objective(w):
        return w @ within @ w / 2 - w @ apart + 24 / 12**2 * variance * (w @ w / 2 - w @ e)

    assert (w >= 0).all() and (w == 0).any()
    rng = np.random.default_rng(0)
    for _ in range(300):
        assert objective(np.maximum(w + rng.normal(0, 1e-3 * w.max(), 7), 0)) >= objective(w)


def test_a_stronger_pull_and_fewer_shots_end_nearer_to_equal_weights():
    z, labels, _ = planted(2, good=1, noise=4)

    def distance(positives, pull):
        w = discriminant_weights(Spread.of(z[:, :-1], labels[:, 0]), np.full(5, 0.2), positives, 0.2, pull)
        return np.abs(w / w.sum() - 0.2).sum()

    far = [distance(32, pull) for pull in (0.1, 100, 1e4, 1e8)]
    assert far == sorted(far, reverse=True) and far[-1] < 1e-3
    assert distance(4, 100) < distance(32, 100)


def test_signs_that_move_together_share_their_weight():
    """A copy of a sign is no further evidence: both halves together weigh what the one sign weighed."""
    z, labels, _ = planted(3, images=400, good=2, noise=1)
    x, y = z[:, :2], labels[:, 0]
    alone = discriminant_weights(Spread.of(x, y), np.full(2, 0.5), 200, 0.0, 0.0)
    twice = discriminant_weights(Spread.of(x[:, [0, 0, 1]], y), np.full(3, 1 / 3), 200, 0.0, 0.0)
    assert twice[:2].sum() / twice[2] == pytest.approx(alone[0] / alone[1], rel=0.02)


# The selector


@pytest.mark.parametrize("rule", ["discriminant", "rank", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_weights_are_signed_shares_inside_the_membership(rule, seed):
    rng = np.random.default_rng(seed)
    membership = bank_of(4, 1, 3)
    membership[2, 1] = membership[3, 4] = 1  # two shared signs
    labels = np.concatenate([rng.integers(0, 2, (20, 3)), np.eye(3, dtype=int), np.zeros((4, 3), dtype=int)])
    z = rng.normal(0, 0.1, (2, len(labels), 9)) + (labels @ np.minimum(membership[1:], 1)) * rng.uniform(0, 0.2, 9)
    selector = SignSelector(SelectionConfig(rule=rule, keep=0.3)).fit(z, labels, membership)
    for c, weights in enumerate(selector.weights_):
        own, normal = membership[c + 1] == 1, membership[0] == 1
        assert (weights[own] >= 0).all() and weights[own].sum() == pytest.approx(1)
        assert (weights[normal] <= 0).all() and (weights[~own & ~normal] == 0).all()
        assert set(selector.reasons_[c]) == set(np.flatnonzero(own | normal))
        for s, reason in selector.reasons_[c].items():
            assert reason.startswith("kept" if weights[s] else "dropped")


@pytest.fixture(scope="module")
def planted_fits():
    """10 draws of 64 images: 2 true signs among 14, which equal weights would give 1/7 of the score."""
    return {seed: SignSelector(TRAINING_FREE).fit(*planted(seed)) for seed in range(10)}


def test_planted_signs_are_kept_and_noise_is_dropped_with_a_reason(planted_fits):
    kept_true, dropped_noise, true_weight = [], [], []
    for selector in planted_fits.values():
        weights = selector.weights_[0, :-1]
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
    assert min(gains) > 0.05


def test_a_category_keeps_one_sign_even_where_none_weighs_enough():
    z, labels, membership = planted(0)
    selector = SignSelector(SelectionConfig(drop_below=1000)).fit(z, labels, membership)
    np.testing.assert_allclose(selector.weights_[0, :-1].max(), 1)
    assert (selector.weights_[0, :-1] > 0).sum() == 1


def test_a_normal_sign_that_is_higher_on_positives_is_dropped():
    z, labels, membership = planted(0)
    z[:, -1] += 0.2 * labels[:, 0]
    selector = SignSelector(TRAINING_FREE).fit(z, labels, membership)
    assert selector.weights_[0, -1] == 0
    assert selector.reasons_[0][14].startswith("dropped: as a normal sign it tells nothing from this category")


def test_where_every_sign_is_the_wrong_way_round_all_stay():
    z, labels, membership = planted(0, good=3, noise=0, gap=-5)
    z[:, -1] = -z[:, 0]
    selector = SignSelector(SelectionConfig(pull=0)).fit(z, labels, membership)
    np.testing.assert_allclose(selector.weights_, equal_weights(membership))
    assert "none is higher on the positives" in selector.reasons_[0][0]


@pytest.mark.parametrize(("positives", "negatives"), [(1, 8), (8, 1)])
def test_too_few_images_keep_all_signs(positives, negatives):
    labels = np.repeat([1, 0], [positives, negatives])[:, None]
    z = np.random.default_rng(0).normal(0, 0.1, (9, 4))
    z[:, 0] += labels[:, 0]  # a perfect sign: even so one image proves nothing of what was trained on it
    selector = SignSelector().fit(z, labels, bank_of(3))
    np.testing.assert_allclose(selector.weights_[0], [1 / 3, 1 / 3, 1 / 3, -1])
    few = "positive" if positives == 1 else "negative"
    assert f"all signs are kept: 1 {few} to judge by, too few" in selector.reasons_[0][1]
    assert SignSelector(TRAINING_FREE).fit(z, labels, bank_of(3)).weights_[0, 0] > 1 / 3


def test_rank_keeps_the_best_share_by_support_auroc():
    """Four signs whose AUROC is 1, .75, .5 and 0 by construction; half of them stay."""
    labels = np.array([[0], [0], [1], [1]])
    z = np.array([[0, 0.0, 0.5, 1, 0], [0, 0.4, 0.5, 1, 0], [1, 0.3, 0.5, 0, 0], [1, 0.8, 0.5, 0, 0]])
    selector = SignSelector(SelectionConfig(rule="rank", keep=0.5)).fit(z, labels, bank_of(4))
    np.testing.assert_allclose(selector.weights_[0], [0.5, 0.5, 0, 0, -1])
    assert "best 2 of 4 kept" in selector.reasons_[0][0]
    assert selector.reasons_[0][3].startswith("dropped: under-fitted, support AUROC 0.25")
    one = SignSelector(SelectionConfig(rule="rank", keep=0.01)).fit(z, labels, bank_of(4))
    np.testing.assert_allclose(one.weights_[0], [1, 0, 0, 0, -1])


def test_all_keeps_all():
    z, labels, membership = planted(0)
    selector = SignSelector(SelectionConfig(rule="all")).fit(z, labels, membership)
    np.testing.assert_allclose(selector.weights_, equal_weights(membership))


def test_views_of_an_image_are_no_further_evidence():
    z, labels, membership = planted(0)
    single, copies = (SignSelector().fit(views, labels, membership) for views in (z, np.stack([z] * 3)))
    np.testing.assert_allclose(copies.weights_, single.weights_)


def test_categories_are_judged_apart():
    z, labels, _ = planted(0)
    noise = np.random.default_rng(5).normal(0, 0.05, (64, 5))
    both = np.column_stack([z[:, :-1], noise, z[:, -1]])
    two = np.column_stack([labels, np.roll(labels, 1)])
    pair = SignSelector().fit(both, two, bank_of(14, 5))
    alone = SignSelector().fit(z, labels, bank_of(14))
    np.testing.assert_allclose(pair.weights_[0, :14], alone.weights_[0, :14])


def test_transform_gives_margins_and_needs_a_fit():
    z, labels, membership = planted(0)
    with pytest.raises(NotFittedError, match=r"call fit\("):
        SignSelector().transform(z)
    selector = SignSelector().fit(z, labels, membership)
    np.testing.assert_allclose(selector.transform(z)[:, 0], z @ selector.weights_[0])


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


def test_a_typical_image_is_the_mean_of_positives_and_one_average_negative():
    cosines = np.array([[0.9, 0.2], [0.5, 0.4], [0.1, 0.6], [0.3, 0.0]])
    groups = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    # category 0: (0.9 + 0.5 + (0.1 + 0.3) / 2) / 3, (0.2 + 0.4 + 0.3) / 3; category 1: (0.5 + 0.1 + 0.3 + 0.9) / 4, ...
    wanted = [[1.6 / 3, 0.3], [0.45, 0.3]]
    np.testing.assert_allclose(typical(groups @ cosines, groups.sum(1)), wanted)
