"""The baselines that need images or other categories; tests/evaluation/test_baselines.py has what all promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import stripes
from research_baselines import BASELINES, MetaTable
from research_baselines import phantom_table as meta_table
from research_baselines.images import PatchAdapter, batches, thumbnails
from research_baselines.meta import episode, modality_of
from sklearn.metrics import roc_auc_score

from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.baselines import Query, Support, prototypes
from sdmad_lite.signs.bank import load_bank, parse_bank


@pytest.fixture(scope="module")
def clip(tiny_clip_name):
    """For reading only."""
    return load_clip(tiny_clip_name, device="cpu")


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pixels", {}),
        ("visual adapter", {"layers": 2, "steps": 60, "augmentations": 2, "lr": 1e-2}),
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
    before, after = (
        prototypes(u, labels, u_test),
        method(Support(range(6), labels, u, torch.zeros(len(two.texts), 24), two, None))(Query((), u_test)),
    )
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
