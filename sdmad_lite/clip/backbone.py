"""CLIP to look with: any open_clip model behind one small class, and the embedded default.

    load_clip()                                   # ships with the package, nothing is downloaded
    load_clip("embedded-2")                       # the default of version 0.1.0, which knows fewer words
    load_clip("ViT-B-32", pretrained="openai")    # any open_clip name and tag
    load_clip("ViT-B-32", pretrained="weights.safetensors")
    load_clip("local-dir:my_clip") or load_clip("hf-hub:org/name")

Preprocessing, tokenizer and widths come from open_clip; nothing of CLIP is written again here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor
from tqdm import tqdm

from ..data import as_images, read_images
from ..errors import BackboneError, BankError, note, noting
from . import embedded_tower as stem  # noqa: F401  registers the embedded model's image tower
from .hub import make_tokenizer, model_folder, tag_file, text_settings, why_not
from .towers import Blocks, embed_with_patches, encode_text, find_blocks, last_layer_cut, text_length

EMBEDDED = Path(__file__).parent / "embedded"
SHIPPED = {"embedded": EMBEDDED, "embedded-2": EMBEDDED.with_name("embedded_2")}
"""What comes with the package, by name: the default, which knows a language of findings, and that of version 0.1.0."""
SHAPES = {"squash": "squash", "pad": "longest", "crop": "shortest"}
"""What becomes of a picture that is not square, and open_clip's name for it."""
CUT = "not square, cut to the middle square (shape='crop')"


def as_device(given: str | int | torch.device | None = None) -> torch.device:
    """A device as torch, the command line or a number means it; for None the accelerator, or the CPU without one.

    Raises:
        BackboneError: this machine has it not.
    """
    if given is None:
        return (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or torch.device("cpu")
    try:
        given = given.strip().lower() if isinstance(given, str) else given
        kind = int(given) if isinstance(given, str) and given.isdigit() else given
        device = torch.device("" if isinstance(given, bool) else kind)
        torch.empty(0, device=device).cpu()  # what is not there says so here
    except Exception as error:
        why = (str(error) or type(error).__name__).split(". ")[0]
        raise BackboneError(
            f"device {given!r}: {why}; give cpu, cuda, cuda:1, a number of a GPU, or leave it out"
        ) from None
    return device


class Backbone:
    """A frozen CLIP with its preprocessing and tokenizer.

    `model` is open_clip's, its own weights frozen; `name` and `pretrained` are what `load_clip` was called with, paths
    in them in full; `shape` is "squash", "pad" or "crop", see there.
    """

    def __init__(self, model: Any, tokenizer, name: str, pretrained: str | None, shape: str = "own"):
        if shape not in (*SHAPES, "own"):
            raise BackboneError(f"shape={shape!r} is not known; give {', '.join(SHAPES)} or own")
        self.model: Any = model.eval().requires_grad_(False)  # open_clip has many kinds of models
        self.tokenizer, self.name, self.pretrained = tokenizer, name, pretrained
        config = PreprocessCfg(**self.model.visual.preprocess_cfg)
        config = replace(config, resize_mode=SHAPES.get(shape, config.resize_mode))
        self.preprocess = image_transform_v2(config, is_train=False)
        self.shape = next(name for name, mode in SHAPES.items() if mode == config.resize_mode)

    @cached_property
    def blocks(self) -> dict[str, Blocks]:
        """Transformer layers by tower, searched once; without "image" where that tower has none (a ResNet, ConvNeXt
        or Swin) and stays frozen.
        """
        found = {tower: find_blocks(self.model, tower) for tower in ("image", "text")}
        return {tower: blocks for tower, blocks in found.items() if blocks is not None}

    @property
    def adapted_towers(self) -> tuple[str, ...]:
        """The towers that can take Shift Adapters: ("image", "text"), or ("text",)."""
        return tuple(self.blocks)

    def shaped(self, shape: str) -> Backbone:
        """The same model with another `shape`, see `load_clip`."""
        other = Backbone(self.model, self.tokenizer, self.name, self.pretrained, shape)
        return self if other.shape == self.shape else other

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the start of each weight."""
        return self._hash(4096)[:16]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells it from another model of its name: its weights, and how it prepares pixels."""
        pixels = {name: list(v) if isinstance(v, tuple) else v for name, v in self.model.visual.preprocess_cfg.items()}
        return {"weights": self._hash(None), "preprocessing": pixels}

    def _hash(self, count: int | None) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.flatten()[:count].float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def prepare(self, images: Sequence, color: bool = False, strict: bool = True) -> Tensor:
        """Images (paths, arrays or PIL), read in `color` or grey as `read_images` does, to model input (N, 3, H, W)."""
        pictures = read_images(images, color, strict)
        if self.shape == "crop" and (cut := [i for i, picture in enumerate(pictures) if len(set(picture.size)) > 1]):
            note(CUT, *(str(given) if isinstance(given := images[i], (str, PathLike)) else id(given) for i in cut))
        return torch.stack([self.preprocess(picture) for picture in pictures])

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts to tokens (S, L), of which only the `text_length` is kept that can matter.

        Raises:
            BankError: one is empty or longer than the text tower reads; names it.
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
        tokens = self.tokenizer(list(texts))
        known = getattr(self.model, "vocab_size", None) or self.model.text.vocab_size  # CoCa keeps it in the tower
        if tokens.max() >= known:
            raise BackboneError(
                f"{self.name}: the tokenizer gives token {int(tokens.max())}, but the text tower knows {known}; give "
                "the tokenizer of this model"
            )
        return tokens[:, : text_length(self.model, tokens)].to(self.device)

    def _token_count(self, text: str) -> int:
        tokenizer = self.tokenizer
        if isinstance(tokenizer, open_clip.SimpleTokenizer):
            return len(tokenizer.encode(text)) + 2  # start and end
        three = tokenizer.tokenizer_mode == "clips"  # start, end and class, which open_clip adds by itself
        ids = tokenizer.tokenizer(tokenizer.clean_fn(text), add_special_tokens=not three)["input_ids"]
        return len(ids) + 3 * three

    def image_features(self, pixels: Tensor) -> Tensor:
        """u: unit-length embeddings (N, D) of prepared images, with gradients to whatever trains."""
        with last_layer_cut(self.model):
            return F.normalize(self.model.encode_image(pixels.to(self.device)), dim=-1)

    def text_features(self, tokens: Tensor) -> Tensor:
        """v: unit-length embeddings (S, D) of tokens, with gradients to whatever trains."""
        return encode_text(self.model, tokens)

    def batches(self, images, batch_size: int = 64, color: bool = False, progress: bool = False) -> Iterator[Tensor]:
        """`prepare` of one or many images, a batch at a time."""
        images, _ = as_images(images)
        for i in tqdm(range(0, len(images), batch_size), desc="images", disable=not progress, leave=False):
            yield self.prepare(images[i : i + batch_size], color, strict=i == 0)

    @noting()
    @torch.no_grad()
    def encode_images(self, images, batch_size: int = 64, color: bool = False, progress: bool = False) -> Tensor:
        """u: (N, D) unit-length embeddings of one or many images on the CPU, in batches; read in `color` or grey."""
        parts = self.batches(images, batch_size, color, progress)
        return torch.cat([self.image_features(part).cpu() for part in parts])

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """v: (S, D) unit-length embeddings on the CPU."""
        return self.text_features(self.tokenize(texts)).cpu()

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Unit-length patch embeddings (N, h, w, D) in the space that images and texts share, see `embed_with_patches`.

        The embedded model was pretrained so that they are meaningful; for others this is a common heuristic.
        """
        _, patches = embed_with_patches(self.model, pixels.to(self.device))
        if patches is None:
            raise BackboneError(f"{self.name}: its image tower gives no patch embeddings; heat maps need a plain ViT")
        return F.normalize(patches, dim=-1)

    def views(self, pixels: Tensor, patches: bool = True) -> Tensor:
        """Unit embeddings (N, 1 + P, D): u of each whole image, then of its P patches, row by row.

        P is 0 where no `patches` are asked for, or the image tower gives none.
        """
        if not patches:
            return self.image_features(pixels)[:, None]
        u, found = embed_with_patches(self.model, pixels.to(self.device))
        views = u[:, None] if found is None else torch.cat([u[:, None], found.flatten(1, 2)], 1)
        return F.normalize(views, dim=-1)


def load_clip(
    name: str = "embedded",
    pretrained: str | None = None,
    device: str | int | torch.device | None = None,
    tokenizer=None,
    shape: str | None = None,
) -> Backbone:
    """Load a CLIP model by name.

    What is in the cache of the Hugging Face hub is used from there; the hub is asked only for what is not, if it
    answers and HF_HUB_OFFLINE is not set. Checkpoints are read as tensors alone: one that holds code is refused.

    Args:
        name: "embedded" or "embedded-2", an open_clip model name, or an open_clip "local-dir:" or "hf-hub:" name.
        pretrained: open_clip tag or weights file (.safetensors, or .pt, .bin, .pth of tensors alone); "random" for
            untrained weights. "embedded" and names with a schema bring their own: leave it out, or "random".
        device: where it runs, "cpu", "cuda:1" or the number of a GPU; an accelerator if there is one when left out.
        tokenizer: a folder with the files of a Hugging Face tokenizer, or an open_clip tokenizer; the model's own
            when left out. It is not saved with a detector: give `SDMAD.load` the backbone then.
        shape: what becomes of a picture that is not square: "squash" (the whole of it), "pad" (with black) or "crop"
            (its middle); "own" is the model's way. Left out, that too, but "squash" for a model that would crop.

    Raises:
        BackboneError: unknown name or tag, missing file, weights that do not fit or hold code, or no network.
    """
    device, name, pretrained = as_device(device), str(name), pretrained and str(pretrained)
    kind, _, place = f"local-dir:{SHIPPED[name]}".partition(":") if name in SHIPPED else name.partition(":")
    folder = Path(place) if kind == "local-dir" else None
    whole, trained = kind in ("local-dir", "hf-hub"), pretrained != "random"
    if whole and pretrained and trained:
        raise BackboneError(f"{name}: brings its own weights; leave pretrained={pretrained!r} out")
    tag = {} if whole else _checked_tag(name, pretrained)
    try:
        source = f"local-dir:{folder or model_folder(place, trained)}" if whole else name
        weights = tag_file(tag) or pretrained if trained else None
        text = text_settings(source, folder)
        tokenizer = make_tokenizer(source, text, folder, tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # "random" names the same weights each time
            model = open_clip.create_model(
                source,
                weights,
                load_weights=trained,
                require_pretrained=trained,
                pretrained_text=False,
                force_quick_gelu=tag.get("quick_gelu", False),
                force_preprocess_cfg=tag,
                text_cfg=text,
            )
        model = model.to(device)
    except BackboneError:
        raise
    except Exception as error:
        raise BackboneError(f"{name} (pretrained={pretrained}): {why_not(error)}") from error
    # in full, so that a saved detector finds them from another folder too
    name = f"local-dir:{folder.absolute()}" if folder and name not in SHIPPED else name
    pretrained = str(Path(weights).absolute()) if weights and not tag else pretrained
    backbone = Backbone(model, tokenizer, name, pretrained, shape or "own")
    # a model that cuts pictures by itself is not to do so without a word
    return backbone if shape or backbone.shape != "crop" else backbone.shaped("squash")


def _checked_tag(name: str, pretrained: str | None) -> dict:
    """What open_clip knows of weights by their tag, nothing of a file; refuses names and tags that it has not."""
    known = name.replace("/", "-")
    if known not in open_clip.list_models():
        raise BackboneError(
            f"unknown model {name!r}: use 'embedded', 'embedded-2', a name of open_clip.list_models(), "
            "'local-dir:FOLDER' or 'hf-hub:ORGANISATION/NAME'"
        )
    tag = open_clip.get_pretrained_cfg(known, pretrained) if pretrained else {}
    if tag or pretrained == "random" or (pretrained and Path(pretrained).is_file()):
        return tag
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(known)) or "none"
    wrong = f"pretrained={pretrained!r} is no file and no tag" if pretrained else "say which weights"
    raise BackboneError(f"{name}: {wrong}; give pretrained=... a file, 'random', or a tag ({tags})")
