"""The baselines: hand-worked values, what all promise (those of tools/research_baselines too), what each can learn."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import quick_baselines, stripes
from research_baselines import BASELINES
from sklearn.metrics import roc_auc_score

from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.errors import DataError, SDMADError
from sdmad_lite.evaluation.baselines import Query, Support, descend, embed_augmented, prototypes
from sdmad_lite.selection import equal_weights

MEMBERSHIP = np.array([[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=np.float32)


@pytest.fixture(scope="module")
def one(bank):
    """A bank of one category."""
    return bank.restricted(["Emphysema"])


def given(bank, u, labels, v=None, images=None, seed=0, backbone=None):
    v = torch.zeros(len(bank.texts), u.shape[1]) if v is None else v
    return Support(images or tuple(range(len(u))), np.asarray(labels), u, v, bank, backbone, seed)


def features(seed, count=60, width=8):
    """Unit features in which direction 0 tells the first category and direction 1 the second, among noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count, 2), generator=generator)
    u = 0.5 * torch.randn(count, width, generator=generator)
    u[:, :2] += 1.5 * labels
    return F.normalize(u, dim=1), labels.numpy()


def test_versions_of_an_image_bring_its_labels(bank):
    u, _ = features(0, count=4)
    support = given(bank.restricted(["Emphysema", "Cardiomegaly"]), u, [[0, 1], [1, 0], [1, 1], [0, 0]])
    assert torch.equal(support.examples[0], u)
    augmented = torch.stack([u, -u])
    twice = replace(support, augmented=augmented)
    assert torch.equal(twice.examples[0], torch.cat([u, -u])) and torch.equal(
        twice.examples[1], support.target.repeat(2, 1)
    )
    with pytest.raises(DataError, match=r"augmented has shape \(2, 3, 8\)"):
        replace(support, augmented=augmented[:, :3])


# By hand


def test_zero_shot_by_hand():
    """Cosines 0.6, 0.8, -0.6 with the signs and 0 with the normal one: (0.6 + 0.8) / 2 and -0.6."""
    v = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0.8, -0.6]])
    two = SimpleNamespace(categories=("A", "B"), texts="abcn", membership=lambda: MEMBERSHIP)
    predict = BASELINES["zero-shot signs"](given(two, torch.eye(2), [[1, 0], [0, 1]], v))
    np.testing.assert_allclose(predict(Query((0,), torch.tensor([[0.6, 0.8]]))), [[0.7, -0.6]], atol=1e-6)


def test_category_names_by_hand(one):
    """The prompts are asked for in words; cosines 0.6 with the name and 0.8 with normal."""
    words = {"a picture of normal": [0.0, 1], "a picture of Emphysema": [1.0, 0]}
    backbone = SimpleNamespace(encode_texts=lambda texts: torch.tensor([words[text] for text in texts]))
    method = replace(BASELINES["zero-shot names"], template="a picture of {}")
    predict = method(given(one, torch.eye(2), [[1], [0]], backbone=backbone))
    np.testing.assert_allclose(predict(Query((0,), torch.tensor([[0.6, 0.8]]))), [[-0.2]], rtol=1e-6)


def test_prototypes_by_hand():
    """Positives (1, 0) and (0, 1) have the mean direction (1, 1) / sqrt 2; the negative is (-1, 0)."""
    u = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    got = prototypes(u, np.array([[1], [1], [0]]), torch.tensor([[0.6, 0.8]]))
    np.testing.assert_allclose(got, [[1.4 / 2**0.5 + 0.6]], rtol=1e-6)


def test_a_cache_by_hand(one):
    """Affinity 1 with itself and exp(-ln 2) = 1/2 at a right angle.

    The positive counts +1, each of two negatives -1/2: 1 - 1/2 (1/2 + 1/2) for the positive and
    1/2 - 1/2 (1 + 1/2) for a negative; times alpha 2 and the scale 10.
    """
    method = replace(BASELINES["Tip-Adapter-F"], alpha=2.0, beta=np.log(2), lr=1e-12)
    u = torch.eye(3)
    predict = method(given(one, u, [[1], [0], [0]]))
    np.testing.assert_allclose(predict(Query((0, 1, 2), u)), [[10], [-5], [-5]], rtol=1e-5)


def test_a_text_probe_starts_at_the_margin_of_all_signs_and_a_strong_pull_holds_it_there(bank):
    u, v = F.normalize(torch.randn(8, 6), dim=1), F.normalize(torch.randn(len(bank.texts), 6), dim=1)
    support, method = given(bank, u, np.eye(8, 3), v), BASELINES["text-initialised probe"]
    margins = (u @ v.T).numpy() @ equal_weights(bank.membership()).T
    start = replace(method, lr=1e-12)(support)(Query((), u))
    np.testing.assert_allclose(start, 10 * margins, rtol=1e-4, atol=1e-6)
    held, free = (replace(method, pull=pull)(support)(Query((), u)) for pull in (1e6, 1e-6))
    for c in range(3):  # scale and bias are free, the direction is not
        assert np.corrcoef(held[:, c], margins[:, c])[0, 1] > 0.9999 > np.corrcoef(free[:, c], margins[:, c])[0, 1]


def test_an_adapter_without_a_share_leaves_the_zero_shot_order(bank):
    u, v = F.normalize(torch.randn(8, 6), dim=1), F.normalize(torch.randn(len(bank.texts), 6), dim=1)
    got = replace(BASELINES["CLIP-Adapter"], ratio=0.0)(given(bank, u, np.eye(8, 3), v))(Query((), u))
    margins = (u @ v.T).numpy() @ equal_weights(bank.membership()).T
    assert all(np.corrcoef(got[:, c], margins[:, c])[0, 1] > 0.9999 for c in range(3))


# What all promise


@pytest.fixture(scope="module")
def clip(tiny_clip_name):
    """For reading only."""
    return load_clip(tiny_clip_name, device="cpu")


@pytest.fixture(scope="module")
def quick(clip):
    return quick_baselines(clip)


@pytest.fixture(scope="module")
def shown(clip, bank, phantom_table):
    """One shot of each category, and ten other images."""
    v = clip.encode_texts(bank.texts)
    table = phantom_table.rows(draw_support(phantom_table, 1, seed=0))
    u, images = clip.encode_images(table.images), phantom_table.images[:10]
    return Support(table.images, table.labels, u, v, bank, clip, 3), Query(images, clip.encode_images(images))


@pytest.mark.parametrize("name", BASELINES)
def test_every_method_learns_from_one_shot_and_follows_the_seed_alone(quick, shown, name):
    support, query = shown
    before = support.u.clone(), support.labels.copy(), support.backbone.encode_images(query.images)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    predict = quick[name](support)
    scores = predict(query)
    assert torch.equal(torch.get_rng_state(), state)
    assert scores.shape == (10, 3) and np.isfinite(scores).all() and scores.std(0).min() > 0
    torch.manual_seed(2)
    np.testing.assert_array_equal(quick[name](support)(query), scores)
    np.testing.assert_array_equal(predict(query), scores)
    alone = predict(Query(query.images[4:5], query.u[4:5]))
    np.testing.assert_allclose(alone[0], scores[4], rtol=1e-3, atol=1e-5)  # an image's score is its own
    after = support.u, support.labels, support.backbone.encode_images(query.images)
    assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all() and torch.equal(before[2], after[2])


@pytest.mark.parametrize("name", BASELINES)
def test_the_seed_matters_where_something_is_random(quick, shown, name):
    support, query = shown
    again = Support(support.images, support.labels, support.u, support.v, support.bank, support.backbone, 4)
    same = np.array_equal(quick[name](again)(query), quick[name](support)(query))
    random = {"CLIP-Adapter", "visual adapter", "small CNN", "prototypical episodes", "first-order MAML", "two stages"}
    assert same == (name not in random)


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([[1], [0]], r"labels has shape \(2, 1\), expected \(3, 1\)"),
        ([[1], [0], [2]], "only labels 0 and 1"),
        ([[0], [0], [0]], "no positive image of 'Emphysema'"),
        ([[1], [1], [1]], "no negative image of 'Emphysema'"),
    ],
)
def test_support_sets_that_cannot_be_learnt_from_are_refused(one, labels, named):
    with pytest.raises(DataError, match=named):
        given(one, torch.eye(3), labels)


def test_other_slips_are_refused(one):
    with pytest.raises(DataError, match=r"v has shape \(2, 3\)"):
        given(one, torch.eye(3), [[1], [0], [0]], torch.eye(2, 3))
    for slip in ({"steps": 0}, {"lr": 0.0}):
        with pytest.raises(SDMADError, match="at least one step"):
            replace(BASELINES["Tip-Adapter-F"], **slip)(given(one, torch.eye(3), [[1], [0], [0]]))


def test_descent_finds_the_bottom():
    x = torch.nn.Parameter(torch.tensor([3.0]))
    descend([x], lambda: (x - 1).square().sum(), steps=200, lr=0.1)
    assert x.item() == pytest.approx(1, abs=1e-2)


# What each can learn


@pytest.mark.parametrize(
    "name", ["prototypes", "linear probe", "text-initialised probe", "Tip-Adapter-F", "CLIP-Adapter"]
)
def test_methods_on_features_tell_new_images(bank, name):
    two = bank.restricted(["Cardiomegaly", "Emphysema"])
    (u, labels), (u_test, truth) = features(0), features(1)
    member = torch.from_numpy(two.membership())
    v = F.normalize(member[1:].T @ torch.eye(2, 8) + 0.3, dim=1)  # signs that point roughly where they should
    scores = BASELINES[name](given(two, u, labels, v))(Query((), u_test))
    assert roc_auc_score(truth, scores) > 0.8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", BASELINES)
def test_every_method_agrees_on_a_gpu(quick, shown, tiny_clip_name, name):
    support, query = shown
    state = torch.cuda.get_rng_state()
    there = replace(support, backbone=load_clip(tiny_clip_name, device="cuda"))
    np.testing.assert_allclose(quick[name](there)(query), quick[name](support)(query), atol=1e-2)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_embedded_views_are_those_of_the_frozen_model(tiny_clip):
    images, _ = stripes(0, 3)
    u = embed_augmented(tiny_clip, images, 3, seed=0)
    assert u.shape == (3, 12, 16) and not torch.allclose(u[0], u[1])
    torch.testing.assert_close(u[0], tiny_clip.encode_images(images))
