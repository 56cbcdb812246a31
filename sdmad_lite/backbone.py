"""CLIP to look with: any open_clip model behind one small class, and the embedded default.

    load_clip()                                   # ships with the package, nothing is downloaded
    load_clip("ViT-B-32", pretrained="openai")    # any open_clip name and tag
    load_clip("ViT-B-32", pretrained="weights.safetensors")
    load_clip("local-dir:my_clip") or load_clip("hf-hub:org/name")

Preprocessing, tokenizer and widths come from open_clip; nothing of CLIP is written again here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from tqdm import tqdm

from . import stem  # noqa: F401  registers the embedded model's image tower
from .data import read_image
from .errors import BackboneError, BankError

EMBEDDED = Path(__file__).parent / "embedded"


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


class Backbone:
    """A frozen CLIP with its preprocessing and tokenizer.

    Attributes:
        name, pretrained: what `load_clip` was called with.
        model: the open_clip model, its own weights frozen.
    """

    def __init__(self, model: nn.Module, preprocess, tokenizer, name: str, pretrained: str | None):
        self.model = model.eval().requires_grad_(False)
        self.preprocess, self.tokenizer = preprocess, tokenizer
        self.name, self.pretrained = name, pretrained

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the weights, by which a saved detector knows its backbone again."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.flatten()[:4096].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def prepare(self, images: Sequence, color: bool = False) -> Tensor:
        """Images (paths, arrays or PIL), read in `color` or grey, to model input (N, 3, H, W)."""
        return torch.stack([self.preprocess(read_image(image, color)) for image in images])

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts to tokens (S, L).

        Raises:
            BankError: a text is empty or longer than the text tower reads.
        """
        limit = self.tokenizer.context_length
        for text in texts:
            if not text.strip():
                raise BankError("a sign is empty; write what is visible, or remove it")
            length = self._token_count(text)
            if length > limit:
                raise BankError(
                    f"sign {text!r} has {length} tokens, but the text tower of {self.name} reads {limit}; shorten it"
                )
        return self.tokenizer(list(texts)).to(self.device)

    def _token_count(self, text: str) -> int:
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(text)) + 2  # start and end
        return len(self.tokenizer.tokenizer(text)["input_ids"])

    def image_features(self, pixels: Tensor) -> Tensor:
        """u: unit-length embeddings (N, D) of prepared images, with gradients to whatever trains."""
        return F.normalize(self.model.encode_image(pixels.to(self.device)), dim=-1)

    def text_features(self, tokens: Tensor) -> Tensor:
        """v: unit-length embeddings (S, D) of tokens.

        Where the text tower is causal, what follows the end token cannot matter: it is cut off, which makes
        short signs several times faster.
        """
        model = self.model
        if isinstance(model, open_clip.CLIP) and model.attn_mask is not None and model.text_pool_type == "argmax":
            length = int(tokens.argmax(-1).max()) + 1  # the end token has the highest number
            shorter = {
                "positional_embedding": model.positional_embedding[:length],
                "attn_mask": model.attn_mask[:length, :length],
            }
            out = torch.func.functional_call(model, shorter, (None, tokens[:, :length]))
            return out["text_features"] if isinstance(out, dict) else out[1]
        return F.normalize(model.encode_text(tokens), dim=-1)

    @torch.no_grad()
    def encode_images(
        self, images: Sequence, batch_size: int = 64, color: bool = False, progress: bool = False
    ) -> Tensor:
        """u: (N, D) unit-length embeddings on the CPU, in batches; images are read in `color` or grey."""
        if not len(images):
            raise BackboneError("images: the list is empty; give at least one image")
        starts = tqdm(range(0, len(images), batch_size), desc="images", disable=not progress, leave=False)
        parts = [self.image_features(self.prepare(images[i : i + batch_size], color)).cpu() for i in starts]
        return torch.cat(parts)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """v: (S, D) unit-length embeddings on the CPU."""
        return self.text_features(self.tokenize(texts)).cpu()

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Unit-length patch embeddings (N, h, w, D) in the space that images and texts share.

        The last layer's patch tokens go through the projection of the pooled token; the embedded model
        was pretrained so that this is meaningful, for others it is a common heuristic.

        Raises:
            BackboneError: the image tower is no vision transformer of open_clip or timm.
        """
        visual, pixels = self.model.visual, pixels.to(self.device)
        trunk = getattr(visual, "trunk", None)
        if hasattr(trunk, "num_prefix_tokens") and hasattr(trunk, "patch_embed"):
            tokens = visual.head(trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :])
            grid = tuple(n // p for n, p in zip(pixels.shape[-2:], trunk.patch_embed.patch_size, strict=True))
        elif hasattr(visual, "output_tokens") and hasattr(visual, "grid_size") and visual.attn_pool is None:
            before, grid = visual.output_tokens, visual.grid_size
            visual.output_tokens = True
            try:
                _, tokens = visual(pixels)
            finally:
                visual.output_tokens = before
            tokens = tokens if visual.proj is None else tokens @ visual.proj
        else:
            raise BackboneError(f"{self.name}: its image tower gives no patch embeddings; heat maps need a plain ViT")
        return F.normalize(tokens, dim=-1).unflatten(1, grid)


def load_clip(
    name: str = "embedded", pretrained: str | None = None, device: str | torch.device | None = None
) -> Backbone:
    """Load a CLIP model by name.

    Args:
        name: "embedded", an open_clip model name, or an open_clip "local-dir:" or "hf-hub:" name.
        pretrained: open_clip tag or weights file; "random" for untrained weights. "embedded" and names with
            a schema carry their weights, so that only "random" has a meaning for them.
        device: where it runs; an accelerator if there is one when left out.

    Raises:
        BackboneError: unknown name or tag, missing file, weights that do not fit, or no network.
    """
    source, kwargs, tokenizer_kwargs = name, {}, {}
    if name == "embedded":
        source = f"local-dir:{EMBEDDED}"
        tokenizer_kwargs["bpe_path"] = str(EMBEDDED / "bpe.txt.gz")
    elif ":" not in name:
        if name.replace("/", "-") not in open_clip.list_models():
            raise BackboneError(f"unknown model {name!r}: use 'embedded' or a name of open_clip.list_models()")
        if pretrained is None:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            raise BackboneError(f"{name}: say which weights with pretrained=...: a file, 'random', or a tag ({tags})")
    if pretrained == "random":
        kwargs = {"pretrained_text": False, "load_weights": False}
    tag = None if pretrained == "random" or ":" in source else pretrained
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # open_clip warns on the root logger about what we asked for
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # "random" names the same weights each time
            model = open_clip.create_model(source, tag, require_pretrained=pretrained != "random", **kwargs)
        preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        tokenizer = open_clip.get_tokenizer(source, **tokenizer_kwargs)
        model = model.to(device or default_device())
    except ModuleNotFoundError as error:  # Hugging Face towers and tokenizers
        raise BackboneError(
            f"{name}: needs the package {error.name!r}; install it: pip install {error.name}"
        ) from error
    except Exception as error:
        raise BackboneError(
            f"{name} (pretrained={pretrained}): cannot be loaded: {error}. Check the name, file and device; weights "
            "that are not on this machine need the network once. load_clip('embedded') needs nothing"
        ) from error
    finally:
        logging.root.setLevel(level)
    return Backbone(model, preprocess, tokenizer, name, pretrained)
