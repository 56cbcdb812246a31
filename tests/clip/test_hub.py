"""Where a model's files come from: folders, checkpoints that hold code, the hub's cache, and no network."""

import importlib
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import BPE, KINDS, NATIVE, Models, write_tokenizer, write_weights
from torch import nn

from sdmad_lite.clip.backbone import EMBEDDED, load_clip
from sdmad_lite.errors import BackboneError

TEXTS = ["a rib", "blunted costophrenic angle with a meniscus"]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


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
        monkeypatch.setattr("sdmad_lite.files.HUB_SECONDS", 0.2)
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


def test_only_what_the_cache_lacks_is_asked_for(names, cache, monkeypatch):
    """The hub gives the weights as .bin alone; after that nothing is asked."""
    model, asked = _path(names["openai"]), []
    put(cache, "org/clip", [model / "open_clip_config.json", model / "bpe.txt.gz"])
    state = load_clip(names["openai"], device="cpu").model.state_dict()
    real = huggingface_hub.hf_hub_download

    def download(repository, name, revision=None, local_files_only=False):
        if not local_files_only:
            asked.append(name)
            if name.endswith(".bin"):
                torch.save(state, next(cache.glob("*/snapshots/*")) / name)
        return real(repository, name, revision=revision, local_files_only=True)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("sdmad_lite.files._answers", lambda hub: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for _ in range(2):
        loaded = load_clip("hf-hub:org/clip", device="cpu").model.state_dict()
        assert all(torch.equal(loaded[name], state[name]) for name in state)
        assert asked == ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


@pytest.mark.parametrize("device", [0, "0", "cuda:99", "gpu", True, -1])
def test_a_device_that_is_not_there_is_refused_by_name(device):
    with pytest.raises(BackboneError, match=f"device {device!r}: .*give cpu"):
        load_clip(device="99" if device in (0, "0") and torch.accelerator.is_available() else device)


def test_a_backbone_is_known_by_all_its_weights_and_its_pixels(names, tmp_path):
    shutil.copytree(_path(names["openai"]), tmp_path / "f")
    name, config = f"local-dir:{tmp_path / 'f'}", json.loads((tmp_path / "f" / "open_clip_config.json").read_text())
    model = load_clip(name, device="cpu")
    before, config["preprocess_cfg"] = model.identity, {"interpolation": "bilinear"}
    model.model.token_embedding.weight[-1, -1] += 1  # beyond the start that the fingerprint hashes
    write_weights(model.model, tmp_path / "f" / "open_clip_model.safetensors")
    (tmp_path / "f" / "open_clip_config.json").write_text(json.dumps(config))
    after = load_clip(name, device="cpu").identity
    assert all(before[what] != after[what] for what in ("weights", "preprocessing"))


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
    def answers(hub):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("sdmad_lite.files._answers", answers)
    load_clip(device="cpu")
    load_clip(names["biomedclip"], device="cpu")


def test_a_model_that_needs_another_package_says_which(names, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BackboneError, match=r"needs the package 'transformers'; install it with: .*hf"):
        load_clip(names["biomedclip"], device="cpu")
