"""The baselines: hand-worked values, what all of them promise, and that each learns what it can."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import quick_baselines
from sklearn.metrics import roc_auc_score

from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.errors import DataError, SDMADError
from sdmad_lite.evaluation.baselines import BASELINES, MetaTable, Query, Support, prototypes, zero_shot
from sdmad_lite.evaluation.baselines import phantom_table as meta_table
from sdmad_lite.evaluation.baselines.base import batches, descend
from sdmad_lite.evaluation.baselines.images import PatchAdapter, thumbnails
from sdmad_lite.evaluation.baselines.meta import episode, modality_of
from sdmad_lite.signs.bank import load_bank, parse_bank

MEMBERSHIP = torch.tensor([[0.0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]])


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
    assert torch.equal(support.many[0], u)
    views = torch.stack([u, -u])
    twice = replace(support, views=views)
    assert torch.equal(twice.many[0], torch.cat([u, -u])) and torch.equal(twice.many[1], support.target.repeat(2, 1))
    with pytest.raises(DataError, match=r"views \(2, 3, 8\)"):
        replace(support, views=views[:, :3])


# By hand


def test_zero_shot_by_hand():
    """Cosines 0.6, 0.8, -0.6 with the signs and 0 with the normal one: (0.6 + 0.8) / 2 and -0.6."""
    v = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0.8, -0.6]])
    np.testing.assert_allclose(zero_shot(torch.tensor([[0.6, 0.8]]), v, MEMBERSHIP), [[0.7, -0.6]], atol=1e-6)


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
    margins = zero_shot(u, v, torch.from_numpy(bank.membership()))
    start = replace(method, lr=1e-12)(support)(Query((), u))
    np.testing.assert_allclose(start, 10 * margins, rtol=1e-4, atol=1e-6)
    held, free = (replace(method, pull=pull)(support)(Query((), u)) for pull in (1e6, 1e-6))
    for c in range(3):  # scale and bias are free, the direction is not
        assert np.corrcoef(held[:, c], margins[:, c])[0, 1] > 0.9999 > np.corrcoef(free[:, c], margins[:, c])[0, 1]


def test_an_adapter_without_a_share_leaves_the_zero_shot_order(bank):
    u, v = F.normalize(torch.randn(8, 6), dim=1), F.normalize(torch.randn(len(bank.texts), 6), dim=1)
    got = replace(BASELINES["CLIP-Adapter"], ratio=0.0)(given(bank, u, np.eye(8, 3), v))(Query((), u))
    margins = zero_shot(u, v, torch.from_numpy(bank.membership()))
    assert all(np.corrcoef(got[:, c], margins[:, c])[0, 1] > 0.9999 for c in range(3))


def test_a_patch_adapter_by_hand():
    """1 -> token 2 -> back 6: 0.9 * 1 + 0.1 * 6. -1 -> -2, leaking -0.02 -> -0.06, leaking -0.0006."""
    adapter = PatchAdapter(1, 1, 0.1)
    torch.nn.init.constant_(adapter.down.weight, 2)
    torch.nn.init.constant_(adapter.up.weight, 3)
    got = adapter(None, torch.tensor([[[1.0], [-1.0]]]))
    torch.testing.assert_close(got, torch.tensor([[[1.5], [-0.90006]]]))
    torch.testing.assert_close(adapter.tokens, torch.tensor([[[2.0], [-0.02]]]))


def test_thumbnails_are_squares_between_0_and_1():
    grey = thumbnails([np.full((40, 20), 255, np.uint8), np.zeros((20, 40), np.uint8)], 8)
    assert grey.shape == (2, 1, 8, 8) and (grey[0] == 1).all() and (grey[1] == 0).all()
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 51
    color = thumbnails([red], 8, color=True)
    assert color.shape == (1, 3, 8, 8)
    torch.testing.assert_close(color[0, :, 0, 0], torch.tensor([0.2, 0, 0]))


def test_batches_take_every_row_once_before_any_again():
    draw = batches(6, 3, seed=0)
    rows = [next(draw).tolist() for _ in range(4)]
    assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3]) == list(range(6))
    assert len(next(batches(2, 32, seed=0))) == 2


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
    random = {"CLIP-Adapter", "visual adapter", "small CNN", "prototypical episodes", "first-order MAML"}
    assert same == (name not in random)


def test_settings_are_few_and_frozen():
    for name, method in BASELINES.items():
        assert method.what and len(method.__doc__) > 20 and len(fields(method)) < 10, name
        if fields(method):
            with pytest.raises(AttributeError):
                setattr(method, fields(method)[0].name, None)


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([[1], [0]], r"labels \(2, 1\), 3 features"),
        ([[1], [0], [2]], "only labels 0 and 1"),
        ([[0], [0], [0]], "no positive image of 'Emphysema'"),
        ([[1], [1], [1]], "no negative image of 'Emphysema'"),
    ],
)
def test_support_sets_that_cannot_be_learnt_from_are_refused(one, labels, named):
    with pytest.raises(DataError, match=named):
        given(one, torch.eye(3), labels)


def test_other_slips_are_refused(one):
    with pytest.raises(DataError, match="2 sign embeddings"):
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


def stripes(seed, repeats):
    """Grey noise; category 1 has stripes across, 2 has stripes down, an image may have both or none."""
    rng = np.random.default_rng(seed)
    labels = np.array([[0, 0], [1, 0], [0, 1], [1, 1]] * repeats)
    wave = 60 * np.sign(np.sin(np.arange(32) * np.pi / 4 + 0.1))
    images = [128 + rng.normal(0, 5, (32, 32)) + a * wave[:, None] + b * wave[None] for a, b in labels]
    return [np.clip(image, 0, 255).astype(np.uint8) for image in images], labels


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pixels", {}),
        ("visual adapter", {"layers": 2, "steps": 60, "views": 2, "lr": 1e-2}),
        ("small CNN", {"size": 32, "width": 4, "steps": 60, "lr": 1e-2}),
    ],
)
def test_methods_on_images_tell_categories_that_co_occur(clip, bank, name, settings):
    two = bank.restricted(["Cardiomegaly", "Emphysema"])
    (images, labels), (new, truth) = stripes(0, 6), stripes(1, 10)
    u, v = clip.encode_images(images), clip.encode_texts(two.texts)
    predict = replace(BASELINES[name], **settings)(Support(images, labels, u, v, two, clip))
    assert roc_auc_score(truth, predict(Query(new, clip.encode_images(new)))) > 0.9


# Meta-learning


def test_an_episode_is_drawn_as_a_support_set_is():
    """Column 2 has too few images; the others, and normal ones, give 2 to learn from and up to 3 to judge."""
    labels = np.zeros((30, 3), int)
    labels[:8, 0], labels[6:14, 1], labels[14:16, 2] = 1, 1, 1
    for seed in range(5):
        support, query, columns = episode(labels, 2, 3, 3, np.random.default_rng(seed))
        assert sorted(columns) == [0, 1] and not set(support) & set(query)
        assert (labels[support][:, columns].sum(0) >= 2).all() and (labels[support].sum(1) == 0).sum() == 2
        assert (labels[query][:, columns].sum(0) >= 1).all() and (labels[query].sum(1) == 0).sum() == 3
        assert labels[:, 2][np.concatenate([support, query])].sum() == 0
    for short in (labels[:14], labels[14:]):  # no normal image, no category
        with pytest.raises(DataError, match="too few images for episodes of 2 shots"):
            episode(short, 2, 3, 3, np.random.default_rng(0))


def four_that_matter(seed, labels, directions):
    """Features (N, 24): categories are directions among the first four, the other twenty mean nothing."""
    noise = torch.randn(len(labels), 24, generator=torch.Generator().manual_seed(seed))
    noise[:, :4] = 0.3 * noise[:, :4] + 2 * torch.from_numpy(labels).float() @ directions
    return F.normalize(noise, dim=1)


@pytest.mark.parametrize("name", ["prototypical episodes", "first-order MAML"])
def test_other_categories_teach_where_to_look(bank, name):
    """Meta-learnt on eight categories, it tells two new ones by two shots far better than plain prototypes do."""
    two, rng = bank.restricted(["Cardiomegaly", "Emphysema"]), np.random.default_rng(0)
    seen = torch.cat([torch.eye(4), -torch.eye(4)])
    new = 0.7 * torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, -1]])
    others, truth = ((rng.random((600, c)) < 0.15).astype(int) for c in (8, 2))
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0]])
    u, u_test = four_that_matter(1, labels, new), four_that_matter(2, truth, new)
    method = replace(BASELINES[name], table=MetaTable(four_that_matter(0, others, seen), others), episodes=100, lr=1e-2)
    before, after = prototypes(u, labels, u_test), method(given(two, u, labels))(Query((), u_test))
    assert roc_auc_score(truth, before) < 0.75 and roc_auc_score(truth, after) > 0.9


def test_the_table_to_meta_learn_on_is_made_once_of_the_pretraining_categories(clip):
    table = meta_table(clip, "fundus", count=6, size=32)
    assert table.labels.shape[0] == len(table.u) == 6 and set(np.unique(table.labels)) <= {0, 1}
    assert meta_table(clip, "fundus", count=6, size=32) is table
    with pytest.raises(DataError, match="unknown modality"):
        meta_table(clip, "knee")


def test_the_modality_of_a_bank_is_found_by_its_description(bank):
    assert modality_of(load_bank("nih_chest14")) == "chest" and modality_of(load_bank("brain_phantoms")) == "brain"
    with pytest.raises(DataError, match="no phantoms of modality 'knee MRI'"):
        modality_of(parse_bank({**bank.model_dump(), "modality": "knee MRI"}))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", BASELINES)
def test_every_method_agrees_on_a_gpu(quick, shown, tiny_clip_name, name):
    support, query = shown
    state = torch.cuda.get_rng_state()
    there = replace(support, backbone=load_clip(tiny_clip_name, device="cuda"))
    np.testing.assert_allclose(quick[name](there)(query), quick[name](support)(query), atol=1e-2)
    assert torch.equal(torch.cuda.get_rng_state(), state)
