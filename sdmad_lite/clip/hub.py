"""Where the files of a CLIP come from: a folder, the cache of the Hugging Face hub, or the hub itself.

A folder ("local-dir:") may hold, beside open_clip's config and weights, a shortened vocabulary `bpe.txt.gz` (the
embedded model does) and the `config.json` of a Hugging Face text tower, so that nothing of it lies elsewhere. All that
open_clip and transformers are given lies on this machine, so that they ask nobody. No code that comes with a model is
ever run.
"""

from __future__ import annotations

from pathlib import Path

import open_clip
from huggingface_hub import constants
from open_clip.hf_configs import arch_dict
from open_clip.tokenizer import HFTokenizer
from safetensors import SafetensorError

from ..errors import BackboneError
from ..files import NotHereError, first_here, from_hub

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def model_folder(repository: str, with_weights: bool) -> Path:
    """The folder of the cache that holds a model's config and weights, of one revision."""
    folder = from_hub(repository, "open_clip_config.json").parent
    return from_hub(repository, *WEIGHTS, revision=folder.name).parent if with_weights else folder


def tag_file(tag: dict) -> str | None:
    """The file of weights that open_clip knows by a tag; None where it lies outside the hub."""
    repository, _, name = tag.get("hf_hub", "").rpartition("/")
    names = (str(Path(name).with_suffix(".safetensors")), name) if name else WEIGHTS
    return str(from_hub(repository, *names)) if repository else None


def why_not(error: Exception) -> str:
    """What to tell whose model could not be loaded: what is wrong, and what to do."""
    if isinstance(error, ModuleNotFoundError):  # of Hugging Face towers and tokenizers
        return f"needs the package {error.name!r}; install it with: pip install 'sdmad_lite[hf]'"
    if isinstance(error, NotHereError):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub did not give them"
        return (
            f"its files are not all on this machine, and {why}. Load it once where there is a network and copy the "
            f"cache {constants.HF_HUB_CACHE} (in Python a tokenizer alone can be given as tokenizer=FOLDER), or use "
            "load_clip('embedded'), which needs nothing"
        )
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    said = " ".join(f"{type(cause).__name__}: {cause}" for cause in causes)
    if "UnpicklingError" in said or "TorchScript" in said:
        return (
            "its checkpoint holds more than tensors and could run code, so it is not read; convert it to safetensors "
            "where you trust it, see docs/backbones.md"
        )
    if "loading state_dict" in said or "pos_embed" in said:
        last = str(error).split("\n\t")[-1]
        return f"the weights are of another architecture ({last[:200]}); name the model that they were trained as"
    if isinstance(error, (SafetensorError, EOFError)) or "PytorchStreamReader" in said:
        return f"its checkpoint is damaged or not whole ({error or 'empty'}); get the file again"
    if "Required pretrained weights" in said:
        return "the folder holds no weights; put open_clip_model.safetensors there, or load it with pretrained='random'"
    return f"cannot be loaded: {error}. Check the name, file and device. load_clip('embedded') needs nothing"


def text_settings(source: str, folder: Path | None) -> dict:
    """The config of the text tower, with what lies on this machine in place of names of the hub.

    `source` is open_clip's name of the model, `folder` that of a user's own one.

    Raises:
        BackboneError: its Hugging Face tower is none that open_clip reads, or wants code of its own.
    """
    config = open_clip.get_model_config(source)
    if not isinstance(config, dict) or not isinstance(config.get("text_cfg"), dict):
        raise BackboneError(f"{source}: its open_clip_config.json has no model_cfg with a text_cfg")
    text = dict(config["text_cfg"])
    words = dict(text.get("tokenizer_kwargs") or {})
    if folder and (vocabulary := folder / words.get("bpe_path", "bpe.txt.gz")).is_file():
        words["bpe_path"] = str(vocabulary)
    if name := text.get("hf_model_name"):
        from transformers import AutoConfig

        own = folder and (folder / "config.json").is_file()
        place = str(folder if own else from_hub(name, "config.json").parent)
        kind = AutoConfig.from_pretrained(place, trust_remote_code=False).model_type
        if kind not in arch_dict:
            raise BackboneError(f"{source}: its text tower is a {kind!r}; open_clip reads {', '.join(arch_dict)}")
        text |= {"hf_model_name": place, "hf_model_pretrained": False}  # the weights are those of the CLIP
    return text | {"tokenizer_kwargs": words}


def make_tokenizer(source: str, text: dict, folder: Path | None, given=None):
    """The tokenizer of a model, or the `given` one: an open_clip tokenizer or a folder of a Hugging Face tokenizer.

    Raises:
        BackboneError: it is neither, or it knows no words.
    """
    if isinstance(given, (open_clip.SimpleTokenizer, HFTokenizer)):
        return given
    if given is not None and not (isinstance(given, (str, Path)) and Path(given).is_dir()):
        raise BackboneError(f"tokenizer={given}: give the folder of a Hugging Face tokenizer, or one of open_clip's")
    if given is None and not text.get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(source, **text["tokenizer_kwargs"])
    place = str(given or folder or text["hf_tokenizer_name"])
    words = {name: value for name, value in text["tokenizer_kwargs"].items() if name != "bpe_path"}
    words |= {"tokenizer_mode": text.get("tokenizer_mode"), "trust_remote_code": False}
    length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)

    def load(here: bool) -> HFTokenizer:
        tokenizer = HFTokenizer(place, length, local_files_only=here, **words)
        # transformers makes one of nothing, which reads every word as unknown
        if not set(tokenizer.tokenizer.get_vocab()) - set(tokenizer.tokenizer.all_special_tokens):
            raise BackboneError(f"{place}: its tokenizer has no vocabulary; put tokenizer.json beside it")
        return tokenizer

    return load(True) if given or folder else first_here(load)
