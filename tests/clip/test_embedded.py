"""The CLIP that ships with the package: small, offline, reads any text, and knows the signs it was taught."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sdmad_lite.alignment import build_adapters
from sdmad_lite.clip.backbone import EMBEDDED, SHIPPED, as_device, load_clip
from sdmad_lite.errors import BankError
from sdmad_lite.signs.bank import load_bank, shipped_banks
from sdmad_phantoms import MODALITIES, sample_phantoms

SEED = 990_017
"""Of phantoms that pretraining never saw: it counts up from another number."""


@cache
def drawn(name: str, categories: tuple[str, ...] | None = None, images_per_patient: int = 2):
    """150 phantoms of a modality, drawn once for all models."""
    return list(sample_phantoms(150, SEED, categories, images_per_patient=images_per_patient, modality=name))


@pytest.fixture(scope="module")
def clip():
    """Loaded while the network is closed, see conftest."""
    return load_clip(device="cpu")


def test_it_is_small(clip):
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 12e6
    assert 1e6 < sum(p.numel() for p in clip.model.parameters()) < 6e6
    assert sum(p.numel() for p in build_adapters(clip).parameters()) < 0.1 * sum(
        p.numel() for p in clip.model.parameters()
    )


def test_its_name_loads_the_same_weights(clip):
    assert load_clip("embedded", device="cpu").fingerprint == clip.fingerprint


@pytest.mark.parametrize(
    "text",
    [
        "épanchement pleural",
        "胸水",
        "нет",
        "ø 3–5 mm, T2-weighted",
        "99 %",
        "🫁 lung",
        "a" * 30,
        "\u200b x",
        "<html>&amp;",
        "İ",
    ],
)
def test_any_text_is_read(clip, text):
    v = clip.encode_texts([text, "clear lung fields"])
    assert torch.isfinite(v).all() and v.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert not torch.allclose(v[0], v[1])


def test_blank_and_overlong_texts_are_refused(clip):
    with pytest.raises(BankError, match="empty"):
        clip.encode_texts(["clear lung fields", "  "])
    with pytest.raises(BankError, match=r"sign 'opacity opacity.*reads 48"):
        clip.encode_texts(["opacity " * 60])


@pytest.mark.parametrize("name", shipped_banks())
def test_the_signs_of_every_shipped_bank_fit(clip, name):
    assert 2 < clip.tokenize(load_bank(name).texts).shape[1] <= clip.tokenizer.context_length


def test_images_of_any_size_are_read(clip):
    images = [np.full(shape, 90, np.uint8) for shape in ((128, 128), (40, 300), (512, 200))]
    u = clip.encode_images(images)
    assert u.shape[0] == 3 and u.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_an_image_is_its_class_token_plus_the_mean_of_its_patches(clip):
    """Before the projection, which is the same for both; patches alone are what `patch_features` gives."""
    pixels = clip.prepare([p.image for p in sample_phantoms(2, SEED)])
    visual = clip.model.visual
    with torch.no_grad():
        tokens = visual.trunk.forward_features(pixels)
        image, patches = visual.head(tokens[:, 0] + tokens[:, 1:].mean(1)), visual.head(tokens[:, 1:])
        np.testing.assert_allclose(visual(pixels), image, rtol=1e-4, atol=1e-5)
        expected = torch.nn.functional.normalize(patches, dim=-1).unflatten(1, (8, 8))
        np.testing.assert_allclose(clip.patch_features(pixels), expected, rtol=1e-4, atol=1e-5)


def test_the_model_of_version_0_1_0_is_there_by_name_and_understands_fewer_words(clip):
    """On signs that neither was pretrained on, of all modalities, the same phantoms for both."""
    older, found = load_clip("embedded-2", device="cpu"), {}
    assert older.name == "embedded-2" and older.fingerprint != clip.fingerprint
    for kind in MODALITIES.values():
        phantoms = drawn(kind.name)
        signs = [sign for sign in kind.bank.signs if sign not in kind.seen_signs]
        truth = np.array([[sign.id in p.signs for sign in signs] for p in phantoms])
        for model in (clip, older):
            u = model.encode_images([p.image for p in phantoms], color=kind.bank.color)
            cosines = (u @ model.encode_texts([s.text for s in signs]).T).numpy()
            rows = [roc_auc_score(t, z) for t, z in zip(truth.T, cosines.T, strict=True) if t.sum() >= 4]
            found.setdefault(model.name, []).extend(rows)
    assert np.mean(found["embedded"]) > np.mean(found["embedded-2"]) + 0.03


def sign_auroc(clip, kind) -> dict[str, float]:
    """AUROC of the cosine of image and sign text, for the pretraining signs of a modality on 150 phantoms."""
    phantoms = drawn(kind.name, tuple(kind.seen), 1)
    u = clip.encode_images([p.image for p in phantoms], color=kind.bank.color)
    cosines = (u @ clip.encode_texts([s.text for s in kind.seen_signs]).T).numpy()
    truth = np.array([[sign.id in p.signs for sign in kind.seen_signs] for p in phantoms])
    scored = [s for s in range(truth.shape[1]) if truth[:, s].sum() >= 4]
    assert len(scored) >= 0.8 * truth.shape[1]
    return {kind.seen_signs[s].id: roc_auc_score(truth[:, s], cosines[:, s]) for s in scored}


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("kind", MODALITIES.values(), ids=MODALITIES)
def test_it_knows_the_signs_of_its_pretraining(name, kind):
    """A floor, not the result. Guessing gives 0.5."""
    auroc = sign_auroc(load_clip(name, device="cpu"), kind)
    assert np.mean(list(auroc.values())) > 0.93, auroc


def test_the_same_architecture_with_random_weights_knows_nothing(clip):
    untrained = load_clip("embedded", pretrained="random", device="cpu")
    assert untrained.fingerprint != clip.fingerprint
    assert untrained.fingerprint == load_clip("embedded", pretrained="random", device="cpu").fingerprint
    assert abs(np.mean(list(sign_auroc(untrained, MODALITIES["brain"]).values())) - 0.5) < 0.15


def test_a_device_is_taken_in_any_case():
    assert as_device(" CPU ").type == as_device("cpu:0").type == "cpu"
