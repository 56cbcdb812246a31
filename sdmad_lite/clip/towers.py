"""The two towers of any open_clip model: where their transformer layers are, and what their patches say.

Image towers are open_clip's own (`visual`) or timm's (`visual.trunk`); text towers are open_clip's own, inside the
model or as `text`, or those of Hugging Face transformers (`text.transformer`). A convolutional or hierarchical image
tower (ResNet, ConvNeXt, FastViT, Swin) has no list of layers of one width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BackboneError

PATHS = {
    "image": ("visual.transformer.resblocks", "visual.trunk.blocks"),
    "text": (
        "transformer.resblocks",
        "text.transformer.resblocks",
        "text.transformer.encoder.layer",  # BERT, RoBERTa, XLM-RoBERTa
        "text.transformer.block",  # mT5
        "text.transformer.layers",  # M2M-100
    ),
}

Blocks = nn.ModuleList | nn.Sequential


def find_blocks(model: Any, tower: str) -> Blocks | None:
    """Transformer layers of a tower ("image" or "text"), first to last, all of one width; None where it has no list."""
    modules = dict(model.named_modules())
    for path in PATHS[tower]:
        blocks = modules.get(path)
        widths = {block_width(block) for block in blocks} if isinstance(blocks, Blocks) else set()
        if len(widths) == 1 and 0 not in widths:
            return blocks
    return None


def needed_blocks(model: Any, tower: str) -> Blocks:
    """The same, but a BackboneError where it has none."""
    if (blocks := find_blocks(model, tower)) is not None:
        return blocks
    part = model.get_submodule("visual") if tower == "image" else getattr(model, "text", model)
    raise BackboneError(
        f"the {tower} tower ({type(getattr(part, 'trunk', part)).__name__}) has no list of transformer layers to stand "
        "beside; choose a model with transformers in both towers, such as a ViT"
    )


def block_width(block: nn.Module) -> int:
    """Width of the tokens that pass through a transformer layer; 0 where it has no normalisation of tokens.

    It is the size of the outermost one: those further in may be of heads or of the hidden layer.
    """
    norms = {
        name: module
        for name, module in block.named_modules()
        if "norm" in type(module).__name__.lower()
        and not hasattr(module, "running_mean")
        and not hasattr(module, "num_groups")
        and getattr(module, "weight", None) is not None
        and module.weight.ndim == 1
    }
    return len(min(norms.items(), key=lambda item: item[0].count("."))[1].weight) if norms else 0


@contextmanager
def skipped(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block these layers pass on what they get."""
    layers = list(layers)
    for layer in layers:
        layer.forward = lambda x, *args, **kwargs: x  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _class_token(block: nn.Module, args: tuple) -> tuple:
    """A forward pre-hook: tokens ask as the first of them alone, and all are looked at."""
    return (args[0][:, :1], args[0], args[0], *args[3:])


@contextmanager
def last_layer_cut(model: Any) -> Iterator[None]:
    """Inside the block the last layer of open_clip's own image tower computes the class token alone, where no other is
    read. [ours] Embeddings stay as they are, but for rounding.
    """
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    visual = model.visual
    plain = isinstance(visual, VisionTransformer) and visual.attn_pool is None and not visual.output_tokens
    last = visual.transformer.resblocks[-1] if plain and visual.pool_type == "tok" else None
    with ExitStack() as leave:
        if isinstance(last, ResidualAttentionBlock):
            last.ln_1_kv = last.ln_1  # with it the layer takes queries, keys and values apart
            leave.callback(delattr, last, "ln_1_kv")
            leave.enter_context(last.register_forward_pre_hook(_class_token))
        yield


def _reads_its_end(text: Any) -> bool:
    """Whether a text tower is causal and reads the end token, so that nothing behind it matters."""
    from open_clip import CLIP  # takes seconds
    from open_clip.transformer import TextTransformer

    causal = isinstance(text, (CLIP, TextTransformer)) and text.attn_mask is not None
    pooled = getattr(text, "text_pool_type" if isinstance(text, CLIP) else "pool_type", None)
    # a class token at the end, as CoCa has, is read instead of the end of the text
    return causal and pooled == "argmax" and getattr(text, "cls_emb", None) is None


def text_length(model: Any, tokens: Tensor) -> int:
    """How many columns of tokens (S, L) can matter: short signs are several times faster by leaving the others out.

    In a causal tower that reads its end token, those to the end of the longest text; in a tower of Hugging Face, whose
    padding is masked, those that do not only pad; else all.
    """
    from open_clip.hf_model import HFTextEncoder

    text = getattr(model, "text", model)
    if _reads_its_end(text):
        return int(tokens.argmax(-1).max()) + 1  # the end token has the highest number
    if isinstance(text, HFTextEncoder):
        return int((tokens != text.config.pad_token_id).any(0).nonzero().max()) + 1
    return tokens.shape[1]


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """Unit-length embeddings (S, D) of tokens (S, L), with as many columns as `text_length` asks for, or more."""
    from open_clip import CLIP

    text, length = getattr(model, "text", model), tokens.shape[1]
    if not _reads_its_end(text):
        return F.normalize(model.encode_text(tokens), dim=-1)
    shorter = {"positional_embedding": text.positional_embedding[:length]}
    shorter["attn_mask"] = text.attn_mask[:length, :length]
    if isinstance(text, CLIP):
        out = torch.func.functional_call(text, shorter, (None, tokens))
        return out["text_features"] if isinstance(out, dict) else out[1]
    out = torch.func.functional_call(text, shorter, (tokens,))
    return F.normalize(out[0] if isinstance(out, tuple) else out, dim=-1)


def embed_with_patches(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Image embeddings (N, D) and those of patches (N, h, w, D), of any length, in one pass; None where there are none.

    Each patch token of the last layer goes alone through what makes the embedding of an image: normalisation,
    attention pooling where there is one, and projection.
    """
    visual: Any = model.visual
    trunk: Any = getattr(visual, "trunk", None)
    if hasattr(trunk, "num_prefix_tokens") and hasattr(trunk, "patch_embed"):
        tokens, embed = trunk.forward_features(pixels), trunk.patch_embed
        u, tokens = visual.head(trunk.forward_head(tokens)), tokens[:, trunk.num_prefix_tokens :]
        grid = getattr(embed, "dynamic_feat_size", lambda size: embed.grid_size)(pixels.shape[-2:])
        if getattr(trunk, "attn_pool", None) is not None:
            tokens = trunk.attn_pool(tokens.flatten(0, 1)[:, None]).unflatten(0, tokens.shape[:2])
        tokens = visual.head(trunk.head(trunk.fc_norm(tokens)))
    elif hasattr(visual, "output_tokens") and hasattr(visual, "grid_size") and visual.attn_pool is None:
        before, grid = visual.output_tokens, visual.grid_size
        visual.output_tokens = True
        try:
            u, tokens = visual(pixels)
        finally:
            visual.output_tokens = before
        tokens = visual.ln_post(tokens) if visual.final_ln_after_pool else tokens
        tokens = tokens if visual.proj is None else tokens @ visual.proj
    else:
        u = model.encode_image(pixels)
        return u[0] if isinstance(u, tuple) else u, None
    return u, tokens.unflatten(1, tuple(grid)) if tokens.shape[1] == grid[0] * grid[1] else None
