"""What passes by inside the image tower: below the first Shift Adapter nothing ever changes.

`split_image_tower` cuts the tower there, so that what lies below is computed once for all steps of stage 1;
`record_activations` reads the activations at the cut while images are encoded, for the image evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip.towers import skipped
from .adapters import NAME

if TYPE_CHECKING:
    from ..clip.backbone import Backbone


def first_adapted(backbone: Backbone) -> int | None:
    """Number of the first image layer with an adapter installed."""
    return next((i for i, block in enumerate(backbone.blocks.get("image", ())) if hasattr(block, NAME)), None)


class _Captured(Exception):
    """Stops a forward pass once the wanted activation is known."""


def split_image_tower(
    backbone: Backbone, patches: bool = False
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Split the image tower where the first adapter stands, so that what lies below is computed once.

    Returns two functions: `below`, from pixels (N, 3, H, W) to activations, and `embed`, from those to
    `Backbone.views` (N, 1 + P, D), with P patches if these are asked for. Without image adapters `below` gives that.
    """
    start = first_adapted(backbone)
    if start is None:
        return lambda pixels: backbone.views(pixels, patches), lambda views: views
    blocks = backbone.blocks["image"]
    first = blocks[start]

    def below(pixels: Tensor) -> Tensor:
        entered: list[Tensor] = []

        def stop(block, args):
            entered.append(args[0])
            raise _Captured

        with first.register_forward_pre_hook(stop), suppress(_Captured):
            backbone.model.encode_image(pixels.to(backbone.device))
        return entered[0]

    def embed(activations: Tensor) -> Tensor:
        # what stands below the first adapter sees one blank image, whatever the batch: its output is replaced
        blank = activations.new_zeros(1, 3, *backbone.model.visual.image_size)
        replaced = first.register_forward_pre_hook(lambda block, args: (activations, *args[1:]))
        with replaced, skipped(blocks[:start]):
            return backbone.views(blank, patches)

    return below, embed


def pool_tokens(tokens: Tensor) -> Tensor:
    """Tokens (..., P, width) to h (..., 3 width): mean, maximum and deviation over normalised tokens.

    [ours] The maximum keeps a small finding that the mean drowns, the deviation keeps texture.
    """
    tokens = F.layer_norm(tokens.float(), tokens.shape[-1:])
    mean = tokens.mean(-2, keepdim=True)
    spread = (tokens - mean).square().mean(-2).sqrt()  # twice as fast as std
    return torch.cat([mean.squeeze(-2), tokens.amax(-2), spread], -1)


@contextmanager
def record_activations(backbone: Backbone) -> Iterator[list[Tensor]]:
    """Inside the block every encoded batch leaves its h (n, d), on the model's device, in the list.

    It is `pool_tokens` from what enters the first layer with an adapter. Without one the list stays empty: h is u then.
    """
    start, out = first_adapted(backbone), []
    with ExitStack() as stack:
        if start is not None:
            block = backbone.blocks["image"][start]
            stack.enter_context(block.register_forward_pre_hook(lambda _, args: out.append(pool_tokens(args[0]))))
        yield out
