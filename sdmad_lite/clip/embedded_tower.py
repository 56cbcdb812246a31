"""The image tower of the embedded CLIP: timm's vision transformer behind a small convolutional stem.

Importing this module registers it in timm as `vit_stem_128`, so that open_clip finds it in a config.
[ours] A stem instead of one large patch projection, after Xiao et al. 2021 (arXiv 2106.14881): in the
same time it learnt more of the small and textured signs.
"""

from __future__ import annotations

from typing import Any

from timm.layers import PatchEmbed
from timm.models import VisionTransformer, register_model
from torch import Tensor, nn


def _conv(inside: int, outside: int) -> nn.Sequential:
    """Half the height and width."""
    convolution = nn.Conv2d(inside, outside, 3, 2, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


class ConvStem(PatchEmbed):
    """Pixels (N, 3, H, W) to tokens (N, H/16 * W/16, D) in four steps of stride two."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        steps = [_conv(3, 24), _conv(24, 48), _conv(48, 96), _conv(96, 192)]
        last: Any = self.proj  # a convolution, which the steps replace
        self.proj: Any = nn.Sequential(*steps, nn.Conv2d(192, last.out_channels, 1))


class StemTransformer(VisionTransformer):
    """[ours] An image is what the class token says plus the mean of what the patches say.

    The class token alone forgot what no sign of pretraining asked for, such as how bright the lungs are.
    """

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Tokens (N, 1 + P, D) to (N, D)."""
        return x[:, 0] + x[:, 1:].mean(1)


@register_model
def vit_stem_128(
    pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs
) -> StemTransformer:
    """128 x 128 pixels, 8 x 8 tokens of width 192, 6 layers; timm's own arguments for weights have no use here."""
    model = StemTransformer(
        img_size=128, patch_size=16, embed_dim=192, depth=6, num_heads=3, embed_layer=ConvStem, **kwargs
    )
    model.default_cfg = {}  # type: ignore[assignment]  # what timm asks of every model
    return model
