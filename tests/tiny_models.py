"""Tiny models of every kind of tower that open_clip has, with random weights, in open_clip's local form."""

import json
import re
import shutil
from dataclasses import dataclass, field

import torch
from safetensors.torch import save_file
from timm.models import Eva, SwinTransformer, VisionTransformer, register_model

from sdmad_lite.alignment import AdapterConfig, build_adapters
from sdmad_lite.clip.backbone import EMBEDDED, load_clip
from sdmad_phantoms import CHEST

LENGTH = 48


@register_model
def tiny_eva(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    model = Eva(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, use_rot_pos_emb=True, swiglu_mlp=True, **kwargs
    )
    model.default_cfg = {}
    return model


@register_model
def tiny_siglip(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    kwargs |= {"class_token": False, "global_pool": "map"}
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, **kwargs)
    model.default_cfg = {}
    return model


@register_model
def tiny_swin(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    model = SwinTransformer(
        img_size=32, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4, **kwargs
    )
    model.default_cfg = {"pool_size": (4, 4)}
    return model


NATIVE = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 4, "patch_size": None}
BPE = {"vocab_size": 4514, "context_length": LENGTH, "width": 32, "heads": 2, "layers": 2}
OF_HUB = {"hf_model_name": "org/text", "hf_tokenizer_name": "org/text", "context_length": LENGTH}
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}
SEQ = {"d_model": 32, "max_position_embeddings": 80}
MT5 = {**SEQ, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2}
M2M = {**SEQ, **{f"{side}_{of}": n for side in ("encoder", "decoder") for of, n in (("layers", 2), ("ffn_dim", 64))}}
M2M |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
ADAPTERS = ["text_0", "text_1"]
SIGLIP = {
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "vocab_size": 2000,
    "hf_tokenizer_name": "any",
}


def timm_tower(name: str, pool: str = "", proj: str | None = "linear", size: int = 32) -> dict:
    return {"image_size": size, "timm_model_name": name, "timm_pool": pool, "timm_proj": proj}


@dataclass
class Kind:
    """A pair of towers: configs of open_clip and of transformers, what is adapted, and whether patches are embedded."""

    vision: dict = field(default_factory=lambda: NATIVE)
    text: dict = field(default_factory=lambda: BPE)
    tower: dict | None = None
    more: dict = field(default_factory=dict)
    adapted: tuple = ("image_1", "image_2", *ADAPTERS)
    maps: bool = True

    @property
    def frozen_image(self) -> bool:
        return self.adapted == tuple(ADAPTERS)


TEXT_ONLY = {"adapted": tuple(ADAPTERS), "maps": False}
KINDS = {
    "openai": Kind(more={"quick_gelu": True}),
    "biomedclip": Kind(  # timm's vision transformer, Hugging Face's BERT, a tokenizer of its own
        timm_tower("test_vit"),
        {**OF_HUB, "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"},
        {"model_type": "bert", **BERT},
        adapted=("image_3", "image_4", "image_5", *ADAPTERS),
    ),
    "roberta": Kind(text=OF_HUB, tower={"model_type": "roberta", "pad_token_id": 0, **BERT}),
    "xlm-roberta": Kind(text=OF_HUB, tower={"model_type": "xlm-roberta", "pad_token_id": 0, **BERT}),
    "mt5": Kind(text=OF_HUB, tower={"model_type": "mt5", **MT5}),
    "nllb": Kind(
        text={**OF_HUB, "hf_pooler_type": "cls_pooler"}, tower={"model_type": "m2m_100", "pad_token_id": 0, **M2M}
    ),
    "siglip": Kind(
        timm_tower("tiny_siglip", "map", "none"),
        {**BPE, **SIGLIP, "tokenizer_kwargs": {"clean": "canonicalize"}},
        more={"custom_text": True, "init_logit_bias": -10},
    ),
    "eva": Kind(timm_tower("tiny_eva", "token", None), more={"custom_text": True}),
    "coca": Kind(
        {**NATIVE, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        {**BPE, "context_length": LENGTH - 1, "embed_cls": True, "output_tokens": True},
        more={"custom_text": True, "multimodal_cfg": {"context_length": LENGTH, "width": 16, "heads": 2, "layers": 1}},
        maps=False,
    ),
    "clipa": Kind({**NATIVE, "final_ln_after_pool": True, "pool_type": "avg"}, {**BPE, "no_causal_mask": True}),
    "resnet": Kind(RESNET, **TEXT_ONLY),
    "resnet with bert": Kind(RESNET, OF_HUB, {"model_type": "bert", **BERT}, **TEXT_ONLY),  # as PMC-CLIP has
    "convnext": Kind(timm_tower("test_convnext"), **TEXT_ONLY),
    "efficientnet": Kind(timm_tower("test_efficientnet_ln", "avg"), **TEXT_ONLY),
    "swin": Kind(timm_tower("tiny_swin"), **TEXT_ONLY),
}


def shifted(backbone, seed=1, **config):
    """Adapters that do something: their last layer is random too."""
    adapters = build_adapters(backbone, AdapterConfig(**config), seed)
    generator = torch.Generator().manual_seed(seed)
    for adapter in adapters.values():
        torch.nn.init.normal_(adapter.up.weight, std=0.5, generator=generator)
    return adapters


def write_tokenizer(folder) -> int:
    """A WordPiece vocabulary of the bank's words and of single letters, as BERT has it; returns its size."""
    words = {word for text in CHEST.bank.texts for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
    entries = [*special, *sorted(words | set(letters)), *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(entries), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(entries)


def write_model(folder, kind: Kind) -> str:
    """A model in open_clip's local form, with everything that it needs in its folder."""
    folder.mkdir(parents=True)
    text = dict(kind.text)
    if text.get("hf_tokenizer_name"):
        size = write_tokenizer(folder)
        if kind.tower:
            config = {"vocab_size": size, "pad_token_id": 0, **kind.tower}
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    else:
        shutil.copy(EMBEDDED / "bpe.txt.gz", folder)
    config = {"model_cfg": {"embed_dim": 32, "vision_cfg": kind.vision, "text_cfg": text, **kind.more}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    write_weights(load_clip(f"local-dir:{folder}", "random", "cpu").model, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def write_weights(model, path):
    save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, path)


class Models(dict):
    """Each kind's name for `load_clip`, written under a folder when first asked for."""

    def __init__(self, folder):
        self.folder = folder

    def __missing__(self, kind: str) -> str:
        self[kind] = write_model(self.folder / kind, KINDS[kind])
        return self[kind]
