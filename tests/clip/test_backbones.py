"""Adapters and detectors on every kind of tower that open_clip has, tiny and with random weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import KINDS, LENGTH, Models, shifted
from torch import nn

from sdmad_lite.alignment import AlignmentConfig, build_adapters, installed, split_image_tower
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import BackboneError, BankError

TEXTS = ["a rib", "blunted costophrenic angle with a meniscus"]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def support(phantom_table):
    return phantom_table.rows(draw_support(phantom_table, 2, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_stand_in_the_towers_own_layers(names, kind, support):
    backbone, expected = load_clip(names[kind], device="cpu"), KINDS[kind]
    assert tuple(build_adapters(backbone)) == expected.adapted
    assert backbone.adapted_towers == (("text",) if expected.frozen_image else ("image", "text"))
    pixels, tokens = backbone.prepare(support.images[:3]), backbone.tokenize(TEXTS)
    with torch.no_grad():
        u, v = backbone.image_features(pixels), backbone.text_features(tokens)
        whole = nn.functional.normalize(backbone.model.encode_text(backbone.tokenizer(TEXTS)), dim=-1)
        torch.testing.assert_close(v, whole, atol=2e-6, rtol=1e-5)  # what need not be computed does not matter
        with installed(backbone, shifted(backbone, lam=1.0)):
            assert torch.equal(backbone.image_features(pixels), u) and torch.equal(backbone.text_features(tokens), v)
    adapters = shifted(backbone)
    with installed(backbone, adapters):
        below, embed = split_image_tower(backbone)
        u_on, v_on = backbone.image_features(pixels), backbone.text_features(tokens)
        torch.testing.assert_close(embed(below(pixels))[:, 0], u_on, atol=1e-5, rtol=1e-4)
        (u_on[:, 0].sum() + v_on[:, 0].sum()).backward()
    assert (not torch.allclose(u_on, u, atol=1e-4)) != expected.frozen_image
    assert not torch.allclose(v_on, v, atol=1e-4)
    assert [n for n, p in adapters.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert [n for n, p in backbone.model.named_parameters() if p.grad is not None or p.requires_grad] == []
    assert torch.equal(backbone.image_features(pixels), u)  # nothing is left behind


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_is_fitted_saved_and_loaded(names, kind, bank, support, tmp_path):
    backbone, expected = load_clip(names[kind], device="cpu"), KINDS[kind]
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    detector = SDMAD(bank, backbone=backbone, alignment=AlignmentConfig(steps=2, augmentations=2)).fit_table(support)
    after = backbone.model.state_dict()
    assert list(before) == list(after)
    for name, value in before.items():  # bit for bit: a weight of CoCa that nothing sets may be NaN
        assert value.numpy().tobytes() == after[name].numpy().tobytes()
    probabilities = detector.predict_proba(support.images[:3])
    logits = detector.decision_function(support.images[:1])[0]
    for e, logit in zip(detector.explain(support.images[0]), logits, strict=True):
        assert e.logit == pytest.approx(logit, abs=1e-6) and e.image != 0
    detector.save(tmp_path / "d")
    saved = load_file(tmp_path / "d" / "adapters.safetensors")
    parts = {name.split(".")[0] for name in saved}
    assert parts == {*expected.adapted, "text_features", "reference", "probe", "probe_bias"}
    again = SDMAD.load(tmp_path / "d", device="cpu")
    np.testing.assert_array_equal(again.predict_proba(support.images[:3]), probabilities)
    if expected.maps:
        maps = detector.sign_maps(support.images[0])
        assert maps.ndim == 3 and len(maps) == len(bank.texts) and np.abs(maps).max() <= 1 + 1e-5
    else:
        with pytest.raises(BackboneError, match="heat maps need a plain ViT"):
            detector.sign_maps(support.images[0])


@pytest.mark.parametrize("kind", ["resnet", "biomedclip"])
def test_the_training_free_mode_runs_too(names, kind, bank, support):
    detector = SDMAD.training_free(bank, backbone=load_clip(names[kind], device="cpu")).fit_table(support)
    assert not list(detector.adapters_) and detector.predict_proba(support.images[:2]).shape == (2, 3)


# Tokens


@pytest.mark.parametrize(
    ("kind", "mode"), [("openai", None), ("biomedclip", None), ("siglip", None), ("biomedclip", "clips")]
)
def test_tokens_are_counted_as_the_tokenizer_counts_them(names, kind, mode):
    backbone = load_clip(names[kind], device="cpu")
    tokenizer = backbone.tokenizer
    if mode:
        tokenizer.tokenizer_mode = mode
        tokenizer.tokenizer.add_special_tokens({"bos_token": "[MASK]", "eos_token": "[SEP]"})
    for text in ("a rib", "opacity, in the (left)  lower zone!", "zxq " * 5):
        count = backbone._token_count(text)
        assert (tokenizer([text], context_length=count) != 0).all(), "no padding: the count is not too high"
        assert (tokenizer([text], context_length=count + 3) == 0).sum() == 3, "all is there: it is not too low"
    with pytest.raises(BankError, match=f"reads {LENGTH}; shorten it"):
        backbone.tokenize(["zxq " * 40])
