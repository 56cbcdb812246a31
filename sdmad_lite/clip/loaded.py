"""What a CLIP may lack: words that its tokenizer knows, and towers that weights were loaded into. [ours]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from open_clip import SimpleTokenizer


def unread(texts: Sequence[str], tokenizer: Any = None) -> list[str]:
    """The texts that a tokenizer (default: CLIP's) only spells, or knows less than half of: no text tower learnt them.

    Measured with vocabularies of English: 0.3 to 0.7 tokens a letter for German, Spanish or Finnish, from 1.05 for
    Cyrillic and Arabic, 1.5 and more for Thai and Chinese. A vocabulary of many languages has one a Chinese character.
    """
    found, tokenizer = [], tokenizer or SimpleTokenizer()
    for text in texts:
        letters = sum(character.isalnum() for character in text)
        if letters < 4 or text.isascii():
            continue
        if isinstance(tokenizer, SimpleTokenizer):
            pieces, unknown = tokenizer.encode(text), None
        else:  # of Hugging Face
            pieces = tokenizer.tokenizer(tokenizer.clean_fn(text), add_special_tokens=False)["input_ids"]
            unknown = tokenizer.tokenizer.unk_token_id
        syllables = len(text.encode()) > 2.2 * letters  # what takes three bytes is more than a letter
        if len(pieces) > (1.3 if syllables else 0.9) * letters or 2 * pieces.count(unknown) > len(pieces):
            found.append(text)
    return found


def untrained(model: Any) -> list[str]:
    """The towers ("image", "text") most of whose normalisations are as they begin: nothing was loaded into them.

    Training moves each weight of a normalisation; at the start all of a layer are 1 (or 0), and all biases 0.
    """
    norms = [(name, m) for name, m in model.named_modules() if "Norm" in type(m).__name__ and [*m.parameters()]]
    found = []
    for tower in ("image", "text"):
        own = [m for name, m in norms if name.startswith("visual.") == (tower == "image")]
        fresh = [m for m in own if all(p.numel() > 1 and (p == p.flatten()[0]).all() for p in m.parameters())]
        if 2 * len(fresh) > len(own):
            found.append(tower)
    return found
