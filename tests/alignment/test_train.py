"""Stage 1: each loss against values worked out by hand and a plain loop, and what training does and leaves alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import stripes

from sdmad_lite.alignment import (
    AdapterConfig,
    AlignmentConfig,
    RunConfig,
    align,
    augment,
    build_adapters,
    discrepancy_loss,
    installed,
    inter_anomaly_loss,
    intra_anomaly_loss,
    iter_augmented,
    mixup,
)
from sdmad_lite.alignment.train import draw_signs
from sdmad_lite.selection import equal_weights, margins
from sdmad_lite.selection.sign_selector import sign_scores
from sdmad_lite.signs.bank import parse_bank

# two categories that share sign 1; sign 3 is normal
MEMBERSHIP = torch.tensor([[0.0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0]])


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# Signs of a step


def test_of_a_large_bank_some_signs_are_drawn_and_each_category_has_one():
    member = np.eye(4, 40)  # three rows of one sign each, the others are of the fourth
    member[3] += np.arange(40) >= 4
    assert draw_signs(member, 40, (0, 1)).tolist() == list(range(40))
    drawn = [draw_signs(member, 10, (0, step)).tolist() for step in range(50)]
    assert all(len(set(signs)) == 10 and set(signs) >= {0, 1, 2} for signs in drawn)
    assert set().union(*drawn) == set(range(40)) and drawn[1] == draw_signs(member, 10, (0, 1)).tolist()
    assert len(draw_signs(member, 1, (0, 1))) == 4


def test_each_category_has_as_many_signs_in_a_step_as_another():
    member = np.repeat(np.eye(3), (30, 5, 25), axis=1)
    counts = [member[:, draw_signs(member, 21, (0, step))].sum(1).tolist() for step in range(20)]
    assert all(sorted(count)[0] == 5 and sorted(count)[1:] == [8, 8] for count in counts)


# Category logit


def test_margins_by_hand():
    """Cosines with the signs: 0.6, 0.8, -0.6, 0. Category 1: (0.6 + 0.8) / 2, category 2: (0.8 - 0.6) / 2."""
    u = torch.tensor([[0.6, 0.8]])
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.8, -0.6]])
    got = margins(u @ v.T, equal_weights(MEMBERSHIP))
    torch.testing.assert_close(got, torch.tensor([[0.7, 0.1]]))


def test_margins_against_a_loop():
    u, v = unit(5, 8), unit(4, 8, seed=1)
    weights = torch.rand(2, 4, generator=torch.Generator().manual_seed(2)) - 0.5
    got = margins(u @ v.T, weights)
    for n in range(5):
        for c in range(2):
            expected = sum(weights[c, s] * torch.dot(u[n], v[s]) for s in range(4))
            assert got[n, c].item() == pytest.approx(expected.item(), abs=1e-6)


def test_uniform_weights_by_hand():
    expected = torch.tensor([[0.5, 0.5, 0, -1], [0, 0.5, 0.5, -1]])
    assert torch.equal(equal_weights(MEMBERSHIP), expected)


# Inter-anomaly loss


def test_inter_anomaly_by_hand():
    """One column: .75 (a positive), .5 (a negative); the other: .5 (a negative), .25 (a positive). Mean of 4 cells."""
    logits = torch.tensor([[math.log(3), 0.0], [0.0, -math.log(3)]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = (math.log(4 / 3) + math.log(2) + math.log(2) + math.log(4)) / 4
    assert inter_anomaly_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_positives_and_negatives_weigh_the_same_in_total():
    """One positive at p = .75 and three negatives at p = .5: (ln 4/3 + mean of three ln 2) / 2."""
    logits, labels = torch.tensor([[math.log(3)], [0.0], [0.0], [0.0]]), torch.tensor([[1.0], [0], [0], [0]])
    assert inter_anomaly_loss(logits, labels).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-6)


def test_hardness_by_hand():
    """Exponent 2 weighs the positive (p = .75) by .25 squared and the negative (p = .5) by .5 squared."""
    logits, labels = torch.tensor([[math.log(3)], [0.0]]), torch.tensor([[1.0], [0.0]])
    expected = (math.log(4 / 3) * 0.25**2 + math.log(2) * 0.5**2) / 2
    assert inter_anomaly_loss(logits, labels, hardness=2).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("hardness", [0.0, 1.5])
def test_inter_anomaly_against_a_loop(hardness):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 3)), rng.integers(0, 2, (9, 3))
    labels[:, 2] = 0  # a batch may miss a category
    total = 0.0
    for c in range(3):
        for value in (0, 1):
            rows = [n for n in range(9) if labels[n, c] == value]
            for n in rows:
                p = 1 / (1 + math.exp(-logits[n, c]))
                right = p if value else 1 - p
                total += -math.log(right) * (1 - right) ** hardness / len(rows)
    got = inter_anomaly_loss(torch.tensor(logits), torch.tensor(labels, dtype=torch.float64), hardness)
    assert got.item() == pytest.approx(total / 6, rel=1e-9)


@pytest.mark.parametrize("hardness", [0.0, 2.0])
def test_a_co_occurring_category_is_never_a_negative(hardness):
    """The gradient pulls up every category that an image has, however many, and pushes down all others."""
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]])
    logits = torch.zeros(4, 3, requires_grad=True)
    inter_anomaly_loss(logits, labels, hardness).backward()
    assert torch.equal(logits.grad < 0, labels == 1)
    assert torch.equal(logits.grad > 0, labels == 0)


# Discrepancy


def test_discrepancy_by_hand():
    """Two of three categories in one place. Centred: (1, -1)/3 twice and (-2, 2)/3, cosines 1, -1, -1.

    Above -1/2, as far apart as three can be: 1.5, 0, 0. Mean square 2.25 / 3.
    """
    membership = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    together = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert discrepancy_loss(together, membership).item() == pytest.approx(0.75, rel=1e-5)
    assert discrepancy_loss(torch.eye(3), membership).item() == pytest.approx(0.0, abs=1e-6)


def test_discrepancy_against_a_loop():
    membership = torch.zeros(5, 9)
    for s, c in enumerate((1, 1, 2, 2, 2, 3, 4, 4, 0)):
        membership[c, s] = 1
    v = unit(9, 6)
    centres = [torch.stack([v[s] for s in range(9) if membership[c, s]]).mean(0) for c in range(1, 5)]
    middle = torch.stack(centres).mean(0)
    terms = []
    for a in range(4):
        for b in range(4):
            if a != b:
                cosine = F.cosine_similarity(centres[a] - middle, centres[b] - middle, dim=0).item()
                terms.append(max(0.0, cosine + 1 / 3) ** 2)
    assert discrepancy_loss(v, membership).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_discrepancy_ignores_shared_signs():
    membership = torch.zeros(4, 5)
    membership[1, 0] = membership[2, 1] = membership[3, 2] = 1
    membership[1, 3] = membership[2, 3] = 1  # sign 3 is shared, sign 4 is normal
    membership[0, 4] = 1
    v = unit(5, 6).requires_grad_()
    loss = discrepancy_loss(v, membership)
    loss.backward()
    assert loss.item() > 0.01 and v.grad[:3].abs().sum() > 0
    assert torch.equal(v.grad[3:], torch.zeros(2, 6))


@pytest.mark.parametrize(
    "membership",
    [
        [[0, 1.0], [1, 0]],  # one category
        [[0, 0, 1.0], [1, 1, 0], [1, 1, 0]],  # two, sharing all signs
    ],
)
def test_discrepancy_is_zero_where_there_is_nothing_to_push_apart(membership):
    membership = torch.tensor(membership)
    assert discrepancy_loss(unit(membership.shape[1], 4), membership).item() == 0


# Intra-anomaly


def test_intra_anomaly_by_hand():
    """Signs 0 and 1 of one category moved from cosine 0 to 0.6; sign 2 is of another, where moving is free."""
    membership = torch.tensor([[0.0, 0, 0], [1, 1, 0], [0, 0, 1]])
    frozen = torch.eye(3)
    now = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 1.0, 0]])
    assert intra_anomaly_loss(now, frozen, membership).item() == pytest.approx(0.36, rel=1e-5)
    assert intra_anomaly_loss(frozen, now, membership).item() == 0  # moving apart costs nothing


def test_intra_anomaly_against_a_loop():
    now, frozen = unit(4, 5), unit(4, 5, seed=1)
    total, pairs = 0.0, 0
    for a in range(4):
        for b in range(4):
            if a != b and any(MEMBERSHIP[c, a] and MEMBERSHIP[c, b] for c in range(3)):
                total += max(0.0, (now[a] @ now[b] - frozen[a] @ frozen[b]).item()) ** 2
                pairs += 1
    assert intra_anomaly_loss(now, frozen, MEMBERSHIP).item() == pytest.approx(total / pairs, rel=1e-5)


# Views


def test_augment_keeps_range_and_grey_and_follows_the_generator():
    images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    one, again, other = (augment(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert one.shape == images.shape and one.min() >= 0 and one.max() <= 1
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(one[:, 0], one[:, 1]) and torch.equal(one[:, 0], one[:, 2])


def test_augment_moves_an_image_no_further_than_asked():
    images = torch.zeros(40, 1, 32, 32)
    images[:, :, 16, 16] = 1
    places = augment(images, torch.Generator().manual_seed(0), shift=2 / 32).flatten(1).argmax(1)
    rows, columns = (places // 32 - 16).tolist(), (places % 32 - 16).tolist()
    assert set(rows) | set(columns) == {-2, -1, 0, 1, 2}


def test_the_first_view_is_the_image_itself(tiny_clip, phantom_table):
    pixels = tiny_clip.prepare(phantom_table.images[:3])
    views = list(iter_augmented(tiny_clip, pixels, 3, seed=0))
    assert torch.equal(views[0], pixels)
    assert len(views) == 3 and not torch.allclose(views[1], views[2])
    again, other = (list(iter_augmented(tiny_clip, pixels, 3, seed))[1] for seed in (0, 1))
    assert torch.equal(views[1], again) and not torch.equal(views[1], other)


# Training

TEXTS = ["enlarged cardiac silhouette", "engorged upper lobe vessels", "flattened diaphragm", "clear lung fields"]
BANK = parse_bank(  # with MEMBERSHIP
    {
        "name": "stripes",
        "modality": "patterns",
        "categories": ["across", "down"],
        "signs": [
            {"text": TEXTS[0], "categories": ["across"]},
            {"text": TEXTS[1], "categories": ["across", "down"]},
            {"text": TEXTS[2], "categories": ["down"]},
        ],
        "normal_signs": [{"text": TEXTS[3]}],
        "provenance": {"author": "a test", "kind": "person", "date": "2026-01-01", "reviewed": False},
    }
)


@pytest.fixture(scope="session")
def patterns():
    return stripes(0, 3)


def train(backbone, patterns, seed=0, lam=0.9, **settings):
    config = AlignmentConfig(**{"lr": 1e-2, "augmentations": 2, "mixup": 0, **settings})
    adapters = build_adapters(backbone, AdapterConfig(lam=lam), seed)
    return adapters, align(backbone, adapters, *patterns, BANK, config, seed)


def values(adapters, aligned):
    """All that a training gives; last what no training changes."""
    tensors = [aligned.cosines, aligned.sign_embeddings, aligned.bias, torch.tensor(aligned.scale)]
    return [*adapters.state_dict().values(), *tensors, aligned.activations]


def test_the_loss_falls_and_the_support_set_is_separated(tiny_clip, patterns):
    """Guessing costs ln 2 = 0.69."""
    _, aligned = train(tiny_clip, patterns, steps=120, lam=0.5)
    loss = [step["inter-anomaly"] for step in aligned.history]
    assert len(loss) == 120
    assert np.mean(loss[-5:]) < 0.2 < 0.69 < np.mean(loss[:5])
    logits = margins(aligned.cosines[0], equal_weights(MEMBERSHIP)) * aligned.scale + aligned.bias
    np.testing.assert_array_equal((logits > 0).numpy(), patterns[1] == 1)


def test_the_returned_cosines_are_those_of_the_adapted_model(tiny_clip, patterns):
    adapters, aligned = train(tiny_clip, patterns, steps=5)
    with installed(tiny_clip, adapters), torch.no_grad():
        views, v = tiny_clip.views(tiny_clip.prepare(patterns[0])), tiny_clip.encode_texts(TEXTS)
    z = sign_scores(views, v, AlignmentConfig().local, AlignmentConfig().patches)
    torch.testing.assert_close(aligned.cosines[0], z, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(aligned.sign_embeddings, v, rtol=1e-5, atol=1e-6)
    assert aligned.cosines.shape == (2, 12, len(TEXTS))


def test_the_same_seed_trains_the_same_adapters_bit_for_bit(tiny_clip, patterns):
    one, again, other = (values(*train(tiny_clip, patterns, seed, steps=8)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))


def test_mixing_blends_images_and_labels_in_the_same_shares():
    x, y = torch.eye(4).view(4, 2, 2), torch.eye(4)
    blended, labels = mixup(x, y, 1.0, np.random.default_rng(0))
    torch.testing.assert_close(blended.flatten(1), labels)  # the labels of these images are their pixels
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    assert (blended > 0).flatten(1).sum(1).max() == 2 and not torch.equal(blended, x)
    alone, same = mixup(x[:1], y[:1], 1.0, np.random.default_rng(0))
    torch.testing.assert_close(alone, x[:1])
    torch.testing.assert_close(same, y[:1])


def test_a_watcher_sees_every_step_and_the_adapted_model(tiny_clip, patterns):
    seen = []

    def watch(step):
        seen.append((step, tiny_clip.encode_texts(TEXTS)))

    frozen = tiny_clip.encode_texts(TEXTS)
    config = AlignmentConfig(steps=3, augmentations=1)
    aligned = align(tiny_clip, build_adapters(tiny_clip), *patterns, BANK, config, run=RunConfig(after_step=watch))
    assert [step for step, _ in seen] == [1, 2, 3]
    torch.testing.assert_close(seen[-1][1], aligned.sign_embeddings)
    assert not torch.allclose(seen[0][1], frozen) and torch.equal(tiny_clip.encode_texts(TEXTS), frozen)


def test_no_steps_leave_the_frozen_model(tiny_clip, patterns):
    off = AdapterConfig(vision_share=0, text_share=0)
    aligned = align(tiny_clip, build_adapters(tiny_clip, off), *patterns, BANK, AlignmentConfig(steps=0, local=0))
    assert aligned.history == []
    assert torch.equal(aligned.cosines[0], tiny_clip.encode_images(patterns[0]) @ aligned.sign_embeddings.T)
    assert torch.equal(aligned.sign_embeddings, tiny_clip.encode_texts(TEXTS))


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_any_batch_size_trains(tiny_clip, patterns, size):
    _, aligned = train(tiny_clip, patterns, steps=4, batch_size=size)
    assert np.isfinite([value for step in aligned.history for value in step.values()]).all()


# How it is computed


def computed(backbone, patterns, run):
    adapters = build_adapters(backbone, AdapterConfig(), 0)
    config = AlignmentConfig(steps=6, augmentations=2)
    return adapters, align(backbone, adapters, *patterns, BANK, config, run=run)


@pytest.mark.parametrize("at_once", [1, 3, 5])
def test_encoding_in_batches_changes_memory_only(tiny_clip, patterns, at_once):
    """5 divides neither the 12 images nor the 4 signs."""
    whole, pieces = (computed(tiny_clip, patterns, RunConfig(at_once=n)) for n in (256, at_once))
    for one, two in zip(values(*whole), values(*pieces), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)  # Adam divides small gradients by themselves
    torch.testing.assert_close(whole[1].cosines, pieces[1].cosines, rtol=0, atol=1e-5)


def test_activations_too_large_for_the_device_wait_in_main_memory(tiny_clip, patterns):
    one, two = (values(*computed(tiny_clip, patterns, RunConfig(cache_gib=gib))) for gib in (0, 8))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_bf16_steps_end_near_those_in_fp32(tiny_clip, patterns):
    fp32, bf16 = (computed(tiny_clip, patterns, RunConfig(precision=p))[1] for p in ("fp32", "bf16"))
    assert bf16.cosines.dtype == bf16.sign_embeddings.dtype == torch.float32
    assert not torch.equal(fp32.cosines, bf16.cosines)
    torch.testing.assert_close(fp32.cosines, bf16.cosines, rtol=0, atol=0.1)
    for one, two in zip(fp32.history, bf16.history, strict=True):
        assert one["inter-anomaly"] == pytest.approx(two["inter-anomaly"], abs=0.03)


def test_auto_precision_changes_nothing_on_a_cpu(tiny_clip, patterns):
    auto, fp32 = (values(*computed(tiny_clip, patterns, RunConfig(precision=p))) for p in ("auto", "fp32"))
    assert all(torch.equal(a, b) for a, b in zip(auto, fp32, strict=True))
