"""Shift Adapters: small bottlenecks beside the transformer layers of both towers of a frozen CLIP.

[paper] Beside layer i stands `a_i = act(W2 act(W1 h_i))`, and the layer's output becomes
`lam * layer_i(h_i) + (1 - lam) * a_i`.
[ours] W2 starts at zero, so the first output is exactly `lam * layer_i(h_i)`; GELU keeps a gradient
there, where ReLU would have none. With `lam = 1` the model is bit for bit the frozen one.

    adapters = build_adapters(backbone, AdapterConfig())
    with installed(backbone, adapters):
        backbone.encode_images(images)  # as the adapters shift it
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip.towers import block_width, needed_blocks
from ..errors import BackboneError
from ..settings import AtLeastOne, Settings, Share

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

NAME = "shift_adapter"


@dataclass(frozen=True)
class AdapterConfig(Settings):
    """Where adapters stand and how strong they are (values are our choice, from trials on phantoms)."""

    lam: Share = 0.7  # [paper] lambda, the share of the frozen layer's output; 1 switches the adapters off
    reduction: AtLeastOne = 4  # the bottleneck is the tower's width divided by this
    vision_share: Share = 0.5  # share of the image tower's layers that get adapters, counted from the last; 0 for none
    text_share: Share = 1.0  # the same for the text tower


NO_ADAPTERS = AdapterConfig(lam=1.0, vision_share=0.0, text_share=0.0)
"""No layer gets an adapter: the model stays frozen."""


class ShiftAdapter(nn.Module):
    """a = act(W2 act(W1 h)) on tokens h (..., width)."""

    def __init__(self, width: int, bottleneck: int, lam: float):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.lam = lam
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor, layer_output: Tensor) -> Tensor:
        """Mix the layer's output with the adapter's; both (..., width)."""
        if self.lam == 1:
            return layer_output
        shift = F.gelu(self.up(F.gelu(self.down(h.to(self.down.weight.dtype)))))
        # in place, which saves writing two tensors of all tokens
        return (self.lam * layer_output).add_(shift.to(layer_output.dtype).mul_(1 - self.lam))


def _mix(block: nn.Module, args: tuple, kwargs: dict, output):
    """Forward hook; a module-level function, so that a deep copy of the model uses its own adapters."""
    h = args[0] if args else kwargs.get("hidden_states", kwargs.get("x"))
    adapter = getattr(block, NAME)
    if isinstance(output, tuple):  # Hugging Face layers return a tuple
        return (adapter(h, output[0]), *output[1:])
    return adapter(h, output)


def build_adapters(backbone: Backbone, config: AdapterConfig | None = None, seed: int = 0) -> nn.ModuleDict:
    """Make new adapters for the last layers of both towers; they have no effect until `installed`.

    An image tower without transformer layers (a ResNet, see `Backbone.adapted_towers`) stays frozen and gets none
    [ours]: then u is computed once, and the signs alone move towards the images.

    Args:
        seed: of the adapters' random start.

    Returns:
        The adapters by tower and layer: "image_3", "text_0", ...

    Raises:
        BackboneError: the text tower has no transformer layers.
    """
    config = config or AdapterConfig()
    adapters = nn.ModuleDict()
    image = backbone.blocks.get("image", ())
    text = needed_blocks(backbone.model, "text") if config.text_share else ()
    towers = (("image", image, config.vision_share), ("text", text, config.text_share))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for tower, blocks, share in towers:
            for i in range(len(blocks) - round(share * len(blocks)), len(blocks)):
                width = block_width(blocks[i])
                adapter = ShiftAdapter(width, max(1, width // config.reduction), config.lam)
                adapters[f"{tower}_{i}"] = adapter.to(backbone.device)
    return adapters


@contextmanager
def installed(backbone: Backbone, adapters: nn.ModuleDict) -> Iterator[list[nn.Module]]:
    """Inside the block the adapters stand in the model, in the layers given; outside it is the frozen one, bit for bit.

    Raises:
        BackboneError: other adapters are installed already, or these do not fit the model.
    """
    adapted: list[nn.Module] = []
    with ExitStack() as leave:
        for name, adapter in adapters.items():
            tower, number = name.split("_")
            blocks = backbone.blocks.get(tower, ())
            if int(number) >= len(blocks):
                raise BackboneError(f"adapter {name}: the {tower} tower of {backbone.name} has {len(blocks)} layers")
            block = blocks[int(number)]
            if hasattr(block, NAME):
                raise BackboneError("other adapters are installed in this model; leave their block first")
            setattr(block, NAME, adapter)
            leave.callback(delattr, block, NAME)
            leave.enter_context(block.register_forward_hook(_mix, with_kwargs=True))
            adapted.append(block)
        yield adapted
