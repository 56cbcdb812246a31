"""Where the files of a CLIP come from: a folder, the cache of the Hugging Face hub, or the hub itself.

A folder ("local-dir:") may hold, beside open_clip's config and weights, a shortened vocabulary `bpe.txt.gz` (the
embedded model does) and the `config.json` of a Hugging Face text tower, so that nothing of it lies elsewhere. No code
that comes with a model is ever run.
"""

from __future__ import annotations

import pickle
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
from open_clip.hf_configs import arch_dict
from open_clip.tokenizer import HFTokenizer

from ..errors import BackboneError

VOCABULARY = "bpe.txt.gz"
TIMEOUT = 5
"""Seconds that the hub has to answer before a model is looked for in the cache alone."""


def folder_of(source: str) -> Path | None:
    """The folder of a "local-dir:" name."""
    return Path(source.removeprefix("local-dir:")) if source.startswith("local-dir:") else None


def needs_hub(source: str, weights: str | None, own_tokenizer: bool) -> bool:
    """Whether loading asks for files of the hub, in its cache or over the network.

    Args:
        source: open_clip's name of the model.
        weights: a tag or a file, None where `source` says it.
        own_tokenizer: whether the caller gives one.
    """
    if source.startswith("hf-hub:") or (weights is not None and not Path(weights).is_file()):
        return True
    text, folder = open_clip.get_model_config(source).get("text_cfg", {}), folder_of(source)
    tower = text.get("hf_model_name") and not (folder and (folder / "config.json").is_file())
    return bool(tower or (text.get("hf_tokenizer_name") and not folder and not own_tokenizer))


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Inside the block the hub is asked if it answers, else its cache alone serves, without minutes of retries.

    With HF_HUB_OFFLINE=1 nothing is asked.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # an answer, though not the one asked for
    except OSError:
        return False
    return True


def why_not(error: Exception, name: str, pretrained: str | None) -> str:
    """What to tell whose model could not be loaded: what is wrong, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    from safetensors import SafetensorError

    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    said = " ".join(str(cause) for cause in causes)
    if any(isinstance(cause, pickle.UnpicklingError) for cause in causes) or "TorchScript" in said:
        return (
            "its checkpoint holds more than tensors and could run code, so it is not read; convert it to safetensors "
            "where you trust it, see docs/backbones.md"
        )
    if "loading state_dict" in said or "pos_embed" in said:
        lines = str(error).split("\n\t")
        return f"the weights are of another architecture ({lines[-1][:200]}); name the model that they were trained as"
    if isinstance(error, (SafetensorError, EOFError)) or "PytorchStreamReader" in said:
        return f"its checkpoint is damaged or not whole ({error or 'empty'}); get the file again"
    offline = any(isinstance(cause, (LocalEntryNotFoundError, OfflineModeIsEnabled)) for cause in causes)
    if offline or ("Required pretrained weights" in said and name.startswith("hf-hub:")):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub did not give them"
        return (
            f"its files are not all on this machine, and {why}. Load it once where there is a network and copy the "
            f"cache {constants.HF_HUB_CACHE} (a tokenizer alone can be given as tokenizer=FOLDER), or use "
            "load_clip('embedded'), which needs nothing"
        )
    if "Required pretrained weights" in said:
        return "the folder holds no weights; put open_clip_model.safetensors there, or load it with pretrained='random'"
    return f"cannot be loaded: {error}. Check the name, file and device. load_clip('embedded') needs nothing"


def text_settings(source: str) -> dict:
    """The config of the text tower, with what a folder holds in place of names of the hub.

    Raises:
        BackboneError: its Hugging Face tower is none that open_clip reads, or wants code of its own.
    """
    config, folder = open_clip.get_model_config(source), folder_of(source)
    if not isinstance(config, dict) or not isinstance(config.get("text_cfg"), dict):
        raise BackboneError(f"{source}: its open_clip_config.json has no model_cfg with a text_cfg")
    text = dict(config["text_cfg"])
    words = dict(text.get("tokenizer_kwargs") or {})
    if text.get("hf_tokenizer_name"):
        words["trust_remote_code"] = False
    elif folder and "bpe_path" in words:
        words["bpe_path"] = str(folder / words["bpe_path"])
    elif folder and (folder / VOCABULARY).is_file():
        words["bpe_path"] = str(folder / VOCABULARY)
    text["tokenizer_kwargs"] = words
    if text.get("hf_model_name"):
        if folder and (folder / "config.json").is_file():
            text["hf_model_name"] = str(folder)
        text["hf_model_pretrained"] = False  # the weights are those of the CLIP
        _check_architecture(source, text["hf_model_name"])
    return text


def _check_architecture(source: str, name: str) -> None:
    from transformers import AutoConfig

    kind = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
    if kind not in arch_dict:
        raise BackboneError(f"{source}: its text tower is a {kind!r}; open_clip reads {', '.join(arch_dict)}")


def make_tokenizer(source: str, text: dict, given=None):
    """The tokenizer of a model, or the `given` one: an open_clip tokenizer or a folder of a Hugging Face tokenizer.

    Raises:
        BackboneError: it is neither, or it knows no words.
    """
    if given is None:
        tokenizer = open_clip.get_tokenizer(source, **text["tokenizer_kwargs"])
    elif isinstance(given, (open_clip.SimpleTokenizer, HFTokenizer)):
        tokenizer = given
    elif isinstance(given, (str, Path)) and Path(given).is_dir():
        words = {k: v for k, v in text["tokenizer_kwargs"].items() if k != "bpe_path"} | {"trust_remote_code": False}
        length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
        tokenizer = HFTokenizer(str(given), length, tokenizer_mode=text.get("tokenizer_mode"), **words)
    else:
        raise BackboneError(f"tokenizer={given}: give the folder of a Hugging Face tokenizer, or one of open_clip's")
    if isinstance(tokenizer, HFTokenizer):  # transformers makes one of nothing, which reads every word as unknown
        words = tokenizer.tokenizer
        if not set(words.get_vocab()) - set(words.all_special_tokens):
            raise BackboneError(f"{given or source}: its tokenizer has no vocabulary; put tokenizer.json beside it")
    return tokenizer
