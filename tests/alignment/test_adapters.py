"""Shift Adapters: what they add, where they stand, and that they leave no trace."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_clip
from tiny_models import shifted
from torch import nn

from sdmad_lite.alignment import AdapterConfig, ShiftAdapter, build_adapters, installed, split_image_tower
from sdmad_lite.alignment.activations import first_adapted
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.clip.towers import needed_blocks
from sdmad_lite.errors import BackboneError

TEXTS = ["blunted costophrenic angle", "clear lung fields"]
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 4, "patch_size": None}


@pytest.fixture(scope="session")
def images(phantom_table):
    return phantom_table.images[:6]


def encode(backbone, images):
    return backbone.encode_images(images), backbone.encode_texts(TEXTS)


# The formula


def test_the_formula_by_hand():
    """a = act(W2 act(W1 h)), output lam * layer + (1 - lam) * a, with GELU x * Phi(x)."""
    adapter = ShiftAdapter(width=2, bottleneck=1, lam=0.75)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, -1.0]]))
        adapter.down.bias.fill_(0.5)
        adapter.up.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        adapter.up.bias.copy_(torch.tensor([0.0, 0.25]))
        got = adapter(torch.tensor([[2.0, 1.0]]), torch.tensor([[10.0, 20.0]]))

    def gelu(x):
        return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))

    inner = gelu(2.0 - 1.0 + 0.5)
    by_hand = [0.75 * 10 + 0.25 * gelu(2 * inner), 0.75 * 20 + 0.25 * gelu(0.25 - inner)]
    np.testing.assert_allclose(got.numpy(), [by_hand], rtol=1e-6)


def test_a_new_adapter_gives_lam_times_the_layer_exactly():
    adapter = ShiftAdapter(width=3, bottleneck=2, lam=0.9)
    layer_output = torch.tensor([[1.0, -2.0, 3.0]])
    assert torch.equal(adapter(torch.randn(1, 3), layer_output), 0.9 * layer_output)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_in_the_model_the_first_output_of_a_layer_is_lam_times_what_it_was(tiny_clip, images, tower):
    """Only the last layer is adapted, so its input is the frozen one."""
    blocks = needed_blocks(tiny_clip.model, tower)
    shares = {"vision_share": 0.0, "text_share": 0.0}
    shares["vision_share" if tower == "image" else "text_share"] = 1 / len(blocks)
    adapters = build_adapters(tiny_clip, AdapterConfig(lam=0.8, **shares))
    assert list(adapters) == [f"{tower}_{len(blocks) - 1}"]
    outputs = []

    def run():
        handle = blocks[-1].register_forward_hook(lambda block, args, output: outputs.append(output))
        encode(tiny_clip, images)
        handle.remove()

    run()
    with installed(tiny_clip, adapters):
        run()  # this hook comes after the adapter's and sees the mixed output
    assert torch.equal(outputs[1], 0.8 * outputs[0])


def test_lam_1_is_bit_identical_whatever_the_adapters_hold(tiny_clip, images):
    u, v = encode(tiny_clip, images)
    adapters = shifted(tiny_clip, lam=1.0)
    nn.init.constant_(adapters["text_0"].up.weight, float("nan"))
    with installed(tiny_clip, adapters):
        u_on, v_on = encode(tiny_clip, images)
    assert torch.equal(u, u_on) and torch.equal(v, v_on)


def test_both_towers_shift(tiny_clip, images):
    u, v = encode(tiny_clip, images)
    for config, moves_u, moves_v in (({"text_share": 0}, True, False), ({"vision_share": 0}, False, True)):
        with installed(tiny_clip, shifted(tiny_clip, **config)):
            u_on, v_on = encode(tiny_clip, images)
        assert (not torch.equal(u, u_on), not torch.equal(v, v_on)) == (moves_u, moves_v)


# Places


def test_texts_cut_behind_their_end_have_the_same_embedding(tiny_clip):
    """With adapters too; the longest text decides where all are cut."""
    texts = ["a rib", "a much longer sign with many words in it"]
    tokens = tiny_clip.tokenize(texts)
    assert tokens.shape[1] < tiny_clip.tokenizer.context_length
    with torch.no_grad(), installed(tiny_clip, shifted(tiny_clip)):
        whole = F.normalize(tiny_clip.model.encode_text(tiny_clip.tokenizer(texts)), dim=-1)
        torch.testing.assert_close(tiny_clip.text_features(tokens), whole)
        torch.testing.assert_close(tiny_clip.text_features(tokens[:1]), whole[:1])


@pytest.mark.parametrize(
    ("vision", "text", "names"),
    [
        (0.5, 1.0, ["image_1", "image_2", "text_0", "text_1"]),  # 3 image layers: half of 3 rounds to 2
        (1.0, 0.5, ["image_0", "image_1", "image_2", "text_1"]),
        (0.0, 0.0, []),
    ],
)
def test_adapters_stand_beside_the_last_layers(tiny_clip, vision, text, names):
    assert list(build_adapters(tiny_clip, AdapterConfig(vision_share=vision, text_share=text))) == names


def test_widths_come_from_the_model_and_the_bottleneck_from_the_reduction(tiny_clip):
    for adapter in build_adapters(tiny_clip, AdapterConfig(reduction=8)).values():
        assert adapter.down.weight.shape == (4, 32) and adapter.up.weight.shape == (32, 4)


def test_the_start_follows_the_seed_and_leaves_the_global_generator_alone(tiny_clip):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (build_adapters(tiny_clip, seed=s)["text_0"].down.weight for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, b) and not torch.equal(a, c)


# No trace


def test_outside_the_block_the_model_is_what_it_was(tiny_clip, images):
    keys, before = list(tiny_clip.model.state_dict()), encode(tiny_clip, images)
    with installed(tiny_clip, shifted(tiny_clip)):
        pass
    with pytest.raises(KeyboardInterrupt), installed(tiny_clip, shifted(tiny_clip)):
        raise KeyboardInterrupt
    after = encode(tiny_clip, images)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert list(tiny_clip.model.state_dict()) == keys
    assert first_adapted(tiny_clip) is None


def test_new_adapters_receive_gradients_although_they_start_at_zero(tiny_clip, images):
    adapters = build_adapters(tiny_clip)
    pixels, tokens = tiny_clip.prepare(images), tiny_clip.tokenize(TEXTS)
    with installed(tiny_clip, adapters):
        (tiny_clip.image_features(pixels) @ tiny_clip.text_features(tokens).T).sum().backward()
    assert [name for name, adapter in adapters.items() if not adapter.up.weight.grad.abs().sum()] == []


def test_a_deep_copy_uses_its_own_adapters(tiny_clip, images):
    pixels = tiny_clip.prepare(images)
    with torch.no_grad(), installed(tiny_clip, shifted(tiny_clip)):
        before = tiny_clip.model.encode_image(pixels)
        twin = copy.deepcopy(tiny_clip.model)
        same = twin.encode_image(pixels)
        for name, parameter in twin.named_parameters():
            if "shift_adapter.up" in name:
                parameter.zero_()
        changed = twin.encode_image(pixels)
        after = tiny_clip.model.encode_image(pixels)
    assert torch.equal(before, same) and torch.equal(before, after)
    assert not torch.equal(before, changed)


def test_a_second_set_of_adapters_is_refused_and_the_first_stays(tiny_clip, images):
    with installed(tiny_clip, shifted(tiny_clip)):
        before = encode(tiny_clip, images)
        with pytest.raises(BackboneError, match="installed"), installed(tiny_clip, shifted(tiny_clip, seed=2)):
            pass
        # a set that clashes after its first adapter, which must be taken out again
        with (
            pytest.raises(BackboneError, match="installed"),
            installed(tiny_clip, shifted(tiny_clip, seed=2, vision_share=1.0)),
        ):
            pass
        after = encode(tiny_clip, images)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def test_adapters_of_a_deeper_model_are_refused(tiny_clip):
    adapters = nn.ModuleDict({"image_7": ShiftAdapter(32, 8, 0.9)})
    with (
        pytest.raises(BackboneError, match=r"adapter image_7: the image tower of .* has 3 layers"),
        installed(tiny_clip, adapters),
    ):
        pass


# The split image tower


@pytest.mark.parametrize("share", [0.0, 0.34, 0.67, 1.0])
def test_the_split_tower_gives_what_the_whole_tower_gives(tiny_clip, images, share):
    pixels = tiny_clip.prepare(images)
    with torch.no_grad(), installed(tiny_clip, shifted(tiny_clip, vision_share=share)):
        below, embed = split_image_tower(tiny_clip)
        activations = below(pixels)
        parts = torch.cat([embed(activations[:4]), embed(activations[4:])])
        whole = tiny_clip.image_features(pixels)
    torch.testing.assert_close(parts[:, 0], whole, rtol=1e-5, atol=1e-6)
    assert len(needed_blocks(tiny_clip.model, "image")) == 3


def test_the_split_tower_has_the_gradients_of_the_whole_tower(tiny_clip, images):
    pixels, adapters = tiny_clip.prepare(images), shifted(tiny_clip, text_share=0)
    grads = []
    with installed(tiny_clip, adapters):
        below, embed = split_image_tower(tiny_clip)
        with torch.no_grad():
            activations = below(pixels)
        for features in (lambda: embed(activations)[:, 0], lambda: tiny_clip.image_features(pixels)):
            adapters.zero_grad()
            features()[:, 0].sum().backward()
            grads.append(torch.cat([p.grad.flatten() for p in adapters.parameters()]).clone())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def test_the_last_layer_computes_the_class_token_alone(tiny_clip, images):
    pixels, last = tiny_clip.prepare(images), needed_blocks(tiny_clip.model, "image")[-1]
    shapes: list[tuple] = []
    with torch.no_grad(), last.mlp.register_forward_hook(lambda mlp, args, out: shapes.append(tuple(out.shape))):
        u = tiny_clip.image_features(pixels)
        whole = F.normalize(tiny_clip.model.encode_image(pixels), dim=-1)  # outside it is the model as it was
    torch.testing.assert_close(u, whole, rtol=1e-5, atol=1e-6)
    assert shapes == [(len(pixels), 1, 32), (len(pixels), 17, 32)] and not hasattr(last, "ln_1_kv")


# Other towers


def test_a_resnet_stays_frozen_and_says_so(tmp_path):
    backbone = load_clip(write_clip(tmp_path / "resnet", vision=RESNET), pretrained="random", device="cpu")
    assert backbone.adapted_towers == ("text",)
    assert list(build_adapters(backbone)) == ["text_0", "text_1"]
    with pytest.raises(
        BackboneError, match=r"the image tower \(ModifiedResNet\) has no list of transformer layers.*ViT"
    ):
        needed_blocks(backbone.model, "image")
    with pytest.raises(BackboneError, match="heat maps need a plain ViT"):
        backbone.patch_features(torch.zeros(1, 3, 32, 32))


def test_a_text_tower_without_layers_is_refused_by_name(tiny_clip):
    tiny_clip.model.transformer.resblocks = nn.ModuleList()
    assert tiny_clip.adapted_towers == ("image",)
    with pytest.raises(BackboneError, match=r"the text tower \(CLIP\) has no list of transformer layers"):
        build_adapters(tiny_clip)
    assert list(build_adapters(tiny_clip, AdapterConfig(text_share=0))) == ["image_1", "image_2"]
