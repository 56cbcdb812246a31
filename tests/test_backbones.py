"""Every kind of tower that open_clip has, tiny and with random weights; and where a model's files come from."""

import importlib
import json
import os
import re
import shutil
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models import Eva, SwinTransformer, VisionTransformer, register_model
from torch import nn

from sdmad_lite.adapters import AdapterConfig, build_adapters, installed, split_image_tower
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.backbone import EMBEDDED, load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import BackboneError, BankError
from sdmad_lite.phantoms import CHEST

LENGTH = 48
TEXTS = ["a rib", "blunted costophrenic angle with a meniscus"]


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


# The kinds

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
        more={
            "custom_text": True,
            "multimodal_cfg": {"context_length": LENGTH, "width": 16, "heads": 2, "layers": 1},
        },
        maps=False,
    ),
    "clipa": Kind({**NATIVE, "final_ln_after_pool": True, "pool_type": "avg"}, {**BPE, "no_causal_mask": True}),
    "resnet": Kind(RESNET, **TEXT_ONLY),
    "resnet with bert": Kind(RESNET, OF_HUB, {"model_type": "bert", **BERT}, **TEXT_ONLY),  # as PMC-CLIP has
    "convnext": Kind(timm_tower("test_convnext"), **TEXT_ONLY),
    "efficientnet": Kind(timm_tower("test_efficientnet_ln", "avg"), **TEXT_ONLY),
    "swin": Kind(timm_tower("tiny_swin"), **TEXT_ONLY),
}


def write_tokenizer(folder) -> int:
    """A WordPiece vocabulary of the bank's words and of single letters, as BERT has it; returns its size."""
    words = {word for text in CHEST.bank.texts for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    entries = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted(words | set(letters)),
        *(f"##{x}" for x in letters),
    ]
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


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict[str, str]:
    """Each kind's name for `load_clip`, written when first asked for."""

    class Names(dict):
        def __missing__(self, kind):
            self[kind] = write_model(tmp_path_factory.mktemp("models") / kind, KINDS[kind])
            return self[kind]

    return Names()


@pytest.fixture(scope="module")
def support(phantom_table):
    return phantom_table.rows(draw_support(phantom_table, 2, 0))


def shifted(backbone, **config):
    """Adapters that do something: their last layer is random too."""
    adapters = build_adapters(backbone, AdapterConfig(**config))
    generator = torch.Generator().manual_seed(1)
    for adapter in adapters.values():
        nn.init.normal_(adapter.up.weight, std=0.5, generator=generator)
    return adapters


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_stand_in_the_towers_own_layers(names, kind, support):
    backbone, expected = load_clip(names[kind], device="cpu"), KINDS[kind]
    assert tuple(build_adapters(backbone)) == expected.adapted
    assert backbone.adapted_towers == (("text",) if expected.frozen_image else ("image", "text"))
    pixels, tokens = backbone.prepare(support.images[:3]), backbone.tokenize(TEXTS)
    with torch.no_grad():
        u, v = backbone.image_features(pixels), backbone.text_features(tokens)
        whole = nn.functional.normalize(backbone.model.encode_text(tokens), dim=-1)
        torch.testing.assert_close(v, whole, atol=2e-6, rtol=1e-5)  # what need not be computed does not matter
        with installed(backbone, shifted(backbone, lam=1.0)):
            assert torch.equal(backbone.image_features(pixels), u) and torch.equal(backbone.text_features(tokens), v)
    adapters = shifted(backbone)
    with installed(backbone, adapters):
        below, embed = split_image_tower(backbone)
        u_on, v_on = backbone.image_features(pixels), backbone.text_features(tokens)
        torch.testing.assert_close(embed(below(pixels)), u_on, atol=1e-5, rtol=1e-4)
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
    detector = SDMAD(bank, backbone, alignment=AlignmentConfig(steps=2, views=2)).fit_table(support)
    after = backbone.model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    probabilities = detector.predict_proba(support.images[:3])
    logits = detector.decision_function(support.images[:1])[0]
    for e, logit in zip(detector.explain(support.images[0]), logits, strict=True):
        assert e.logit == pytest.approx(logit, abs=1e-6) and e.image != 0
    detector.save(tmp_path / "d")
    saved = load_file(tmp_path / "d" / "adapters.safetensors")
    parts = {name.split(".")[0] for name in saved}
    assert parts == {*expected.adapted, "text_features", "probe", "probe_bias"}
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
    detector = SDMAD(bank, load_clip(names[kind], device="cpu"), alignment=AlignmentConfig(steps=0)).fit_table(support)
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
        used = [len(set(tokenizer([text], context_length=count + n)[0].tolist())) for n in (-1, 0, 3)]
        assert (tokenizer([text], context_length=count) != 0).all(), "no padding: the count is not too high"
        assert (tokenizer([text], context_length=count + 3) == 0).sum() == 3, "all is there: it is not too low"
        assert used[0] <= used[1] <= used[2]
    with pytest.raises(BankError, match=f"reads {LENGTH}; shorten it"):
        backbone.tokenize(["zxq " * 40])


# A checkpoint of one's own


def test_a_copy_of_the_embedded_folder_is_the_embedded_model(tmp_path):
    shutil.copytree(EMBEDDED, tmp_path / "mine")
    mine, embedded = load_clip(f"local-dir:{tmp_path / 'mine'}", device="cpu"), load_clip(device="cpu")
    assert mine.fingerprint == embedded.fingerprint
    assert torch.equal(mine.encode_texts(TEXTS), embedded.encode_texts(TEXTS))


def test_a_vocabulary_is_found_by_its_name_in_the_config_too(tmp_path):
    shutil.copytree(EMBEDDED, tmp_path / "mine")
    (tmp_path / "mine" / "bpe.txt.gz").rename(tmp_path / "mine" / "words.gz")
    config = json.loads((EMBEDDED / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": "words.gz"}
    (tmp_path / "mine" / "open_clip_config.json").write_text(json.dumps(config))
    mine = load_clip(f"local-dir:{tmp_path / 'mine'}", device="cpu")
    assert torch.equal(mine.encode_texts(TEXTS), load_clip(device="cpu").encode_texts(TEXTS))


@pytest.fixture
def tiny_name(monkeypatch, tmp_path) -> str:
    """A tiny architecture known to open_clip by name, with a tag whose weights were trained with QuickGELU."""
    config = {"embed_dim": 16, "vision_cfg": NATIVE, "text_cfg": {**BPE, "width": 16, "layers": 1}}
    config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": str(EMBEDDED / "bpe.txt.gz")}
    (tmp_path / "ViT-tiny.json").write_text(json.dumps(config))
    factory = importlib.import_module("open_clip.factory")
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(tmp_path / "ViT-tiny.json")
    pretrained = importlib.import_module("open_clip.pretrained")
    tag = {"hf_hub": "org/tiny/", "quick_gelu": True, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setitem(pretrained._PRETRAINED, "ViT-tiny", {"openai": tag})
    return "ViT-tiny"


def test_a_weights_file_is_loaded_by_its_architecture(tiny_name, tmp_path):
    random = load_clip(tiny_name, "random", "cpu")
    assert random.fingerprint == load_clip(tiny_name, "random", "cpu").fingerprint
    with torch.no_grad():
        random.model.text_projection.mul_(2)
    write_weights(random.model, tmp_path / "w.safetensors")
    torch.save(random.model.state_dict(), tmp_path / "w.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in random.model.state_dict().items()}}, tmp_path / "train.bin")
    for file in ("w.safetensors", "w.pt", "train.bin"):
        loaded = load_clip(tiny_name, str(tmp_path / file), "cpu")
        assert all(torch.equal(v, random.model.state_dict()[k]) for k, v in loaded.model.state_dict().items())


class Malicious:
    """When unpickled, makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("file", ["w.pt", "w.bin", "w.pth", "open_clip_pytorch_model.bin"])
def test_no_code_of_a_checkpoint_is_run(tiny_name, tmp_path, names, file):
    marker = tmp_path / "ran"
    torch.save({"logit_scale": Malicious(marker)}, tmp_path / file)
    if file.startswith("open_clip"):
        shutil.copytree(names["openai"].removeprefix("local-dir:"), tmp_path / "f")
        (tmp_path / "f" / "open_clip_model.safetensors").unlink()
        shutil.move(tmp_path / file, tmp_path / "f" / file)
        call = (f"local-dir:{tmp_path / 'f'}",)
    else:
        call = (tiny_name, str(tmp_path / file))
    with pytest.raises(BackboneError, match="could run code, so it is not read; convert it to safetensors"):
        load_clip(*call, device="cpu")
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(tiny_name, tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "openai.pt")
    with pytest.raises(BackboneError, match="convert it to safetensors"):
        load_clip(tiny_name, str(tmp_path / "openai.pt"), "cpu")


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_no_code_beside_a_text_tower_is_run(names, tmp_path, where):
    shutil.copytree(names["biomedclip"].removeprefix("local-dir:"), tmp_path / "f")
    code = f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Evil: pass\n"
    (tmp_path / "f" / "evil.py").write_text(code)
    settings = json.loads((tmp_path / "f" / where).read_text())
    settings["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    settings |= {"model_type": "evil"} if where == "config.json" else {"tokenizer_class": "Evil"}
    (tmp_path / "f" / where).write_text(json.dumps(settings))
    with pytest.raises(BackboneError, match=r"custom code|cannot be loaded"):
        load_clip(f"local-dir:{tmp_path / 'f'}", device="cpu")
    assert not (tmp_path / "ran").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: cut(f / "open_clip_model.safetensors"), "damaged or not whole.*get the file again"),
        (lambda f: (f / "open_clip_model.safetensors").unlink(), "holds no weights; put open_clip_model.safetensors"),
        (lambda f: (f / "open_clip_config.json").unlink(), r"No such file.*open_clip_config.json"),
        (lambda f: (f / "open_clip_config.json").write_text("{}"), "no model_cfg with a text_cfg"),
        (lambda f: (f / "open_clip_config.json").write_text("{"), "cannot be loaded"),
        (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), "a 'gpt2'; open_clip reads roberta"),
        (lambda f: [(f / x).unlink() for x in ("vocab.txt", "tokenizer_config.json")], "has no vocabulary"),
        (
            lambda f: save_file({"x": torch.zeros(1)}, f / "open_clip_model.safetensors"),
            "another architecture|cannot be",
        ),
    ],
)
def test_a_broken_folder_is_refused_with_what_to_do(names, tmp_path, break_it, message):
    shutil.copytree(names["biomedclip"].removeprefix("local-dir:"), tmp_path / "f")
    break_it(tmp_path / "f")
    with pytest.raises(BackboneError, match=f"(?s){message}"):
        load_clip(f"local-dir:{tmp_path / 'f'}", device="cpu")


def test_weights_of_another_architecture_are_named(names, tiny_name):
    weights = names["openai"].removeprefix("local-dir:") + "/open_clip_model.safetensors"
    with pytest.raises(BackboneError, match=r"weights are of another architecture .*; name the model that they were"):
        load_clip(tiny_name, weights, "cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("ViT-Z-99", "openai"), "unknown model 'ViT-Z-99'"),
        (("s3:bucket/clip",), "unknown model 's3:bucket/clip'"),
        (("ViT-B-32",), "say which weights; give pretrained=... a file, 'random', or a tag .openai"),
        (("ViT-B-32", "weights.pt"), "pretrained='weights.pt' is no file and no tag"),
        (("local-dir:nowhere",), "No such file"),
    ],
)
def test_names_that_mean_nothing_are_refused_at_once(call, message):
    with pytest.raises(BackboneError, match=message):
        load_clip(*call, device="cpu")


def test_a_tokenizer_can_be_given(names, tmp_path):
    """For a model whose own one is on the hub, as SigLIP's is."""
    words = write_tokenizer(tmp_path)
    with pytest.raises(BackboneError, match="tokenizer=FOLDER"):
        load_clip("ViT-B-16-SigLIP", "random", "cpu")
    config = {
        "embed_dim": 32,
        **KINDS["siglip"].more,
        "vision_cfg": KINDS["siglip"].vision,
        "text_cfg": KINDS["siglip"].text,
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    given = load_clip(f"local-dir:{tmp_path}", "random", "cpu", tokenizer=tmp_path)
    assert int(given.tokenize(TEXTS).max()) < words and given.tokenizer.clean_fn("A, b.") == "a b"
    same = load_clip(f"local-dir:{tmp_path}", "random", "cpu", tokenizer=given.tokenizer)
    assert torch.equal(same.encode_texts(TEXTS), given.encode_texts(TEXTS))
    for wrong in (tmp_path / "nowhere", len):
        with pytest.raises(BackboneError, match="give the folder"):
            load_clip(f"local-dir:{tmp_path}", "random", "cpu", tokenizer=wrong)


# The cache of the hub


def put(cache, repo: str, files) -> None:
    """Files as huggingface_hub keeps them: refs/main names the snapshot."""
    folder, commit = cache / f"models--{repo.replace('/', '--')}", "a" * 40
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder / "snapshots" / commit / file.name)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def without_network(monkeypatch):
    """The hub's client does not know that there is no network; nothing listens at the hub's address."""
    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)


@pytest.mark.parametrize("network", ["HF_HUB_OFFLINE", "none", "silent"])
def test_a_cached_model_is_used_offline_and_a_missing_one_refused_quickly(names, cache, request, monkeypatch, network):
    from huggingface_hub import constants

    model = _path(names["biomedclip"])
    put(cache, "org/clip", [model / "open_clip_config.json", model / "open_clip_model.safetensors"])
    listener = socket.create_server(("127.0.0.1", 0))  # accepts, and says nothing
    if network != "HF_HUB_OFFLINE":
        request.getfixturevalue("without_network")
    if network == "silent":
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr("sdmad_lite.hub.TIMEOUT", 0.2)
    start = time.perf_counter()
    why = "HF_HUB_OFFLINE is set" if network == "HF_HUB_OFFLINE" else "the hub did not give them"
    for name in ("hf-hub:org/none", "hf-hub:org/clip"):  # the second lacks the text tower's config, of another repo
        with pytest.raises(BackboneError, match=rf"{name}.*{why}.*{cache}.*load_clip\('embedded'\)"):
            load_clip(name, device="cpu")
    put(cache, "org/text", [model / "config.json", model / "vocab.txt", model / "tokenizer_config.json"])
    cached = load_clip("hf-hub:org/clip", device="cpu")
    assert time.perf_counter() - start < 5
    assert constants.HF_HUB_OFFLINE == (network == "HF_HUB_OFFLINE")  # as the user had it
    assert torch.equal(cached.encode_texts(TEXTS), load_clip(names["biomedclip"], device="cpu").encode_texts(TEXTS))
    listener.close()


def _path(name: str) -> Path:
    return Path(name.removeprefix("local-dir:"))


def test_a_tag_in_the_cache_is_loaded_as_it_was_trained(tiny_name, cache, tmp_path):
    """OpenAI's weights want QuickGELU, which the plain name's config does not say."""
    with pytest.raises(BackboneError, match="its files are not all on this machine"):
        load_clip(tiny_name, "openai", "cpu")
    write_weights(load_clip(tiny_name, "random", "cpu").model, tmp_path / "open_clip_model.safetensors")
    put(cache, "org/tiny", [tmp_path / "open_clip_model.safetensors"])
    backbone = load_clip(tiny_name, "openai", "cpu")
    kinds = {type(m).__name__ for m in backbone.model.modules()}
    assert "QuickGELU" in kinds and "GELU" not in kinds
    assert backbone.model.visual.preprocess_cfg["mean"] == (0.5,) * 3


def test_half_a_checkpoint_in_the_cache_is_called_damaged(names, cache):
    model = _path(names["openai"])
    put(cache, "org/clip", [model / "open_clip_config.json", model / "open_clip_model.safetensors"])
    cut(next(cache.rglob("open_clip_model.safetensors")))
    with pytest.raises(BackboneError, match="damaged or not whole"):
        load_clip("hf-hub:org/clip", device="cpu")


def test_a_local_model_asks_nobody(names, without_network, monkeypatch):
    def answers(address):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("sdmad_lite.hub._answers", answers)
    load_clip(device="cpu")
    load_clip(names["biomedclip"], device="cpu")


def test_a_model_that_needs_another_package_says_which(names, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BackboneError, match="needs the package 'transformers'; install it"):
        load_clip(names["biomedclip"], device="cpu")
