"""Precision, memory and compiled layers; that they change no result is tested with the training."""

import torch

from sdmad_lite.alignment import build_adapters, installed
from sdmad_lite.clip.towers import needed_blocks
from sdmad_lite.running import compiled, in_batches


def test_batches_give_the_gradient_of_the_whole_and_hold_less():
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, kept = torch.randn(10, 8, generator=torch.Generator().manual_seed(1)), []

    def encode(part):
        return torch.tanh(torch.tanh(part @ weight) @ weight)

    gradients = []
    for at_once in (10, 3):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            out = in_batches(encode, rows, at_once)
        kept.append(sum(sizes))
        gradients.append(torch.autograd.grad(out.square().sum(), weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert kept[1] < kept[0]


def test_layers_are_compiled_inside_the_block_only(tiny_clip):
    adapters = build_adapters(tiny_clip)
    blocks = [*needed_blocks(tiny_clip.model, "image"), *needed_blocks(tiny_clip.model, "text")]
    with installed(tiny_clip, adapters) as adapted, compiled(adapted):
        assert sum(block._compiled_call_impl is not None for block in blocks) == len(adapters) > 0
    assert all(block._compiled_call_impl is None for block in blocks)
