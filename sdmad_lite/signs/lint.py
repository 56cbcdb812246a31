"""What is wrong or doubtful in a sign bank, each with its place and a suggestion. [ours]

A bank that `load_bank` refuses is read as far as it goes. The rules on words are data, in lint.toml; docs/signs.md
lists all rules, and says how often they are right.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..errors import BankError
from .bank import PARTS, Sign, SignBank, placed, problems, read_bank
from .rules import DATA, Finding, key, short, structure

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

FORM = {"form", "category", "unknown-category", "no-sign", "duplicate"}  # no sign may accept what keeps it from loading
OF_NORMAL = {"encoding", "spacing", "style"}  # rules on words of normal signs, too, and of any language
FEW, FEW_NORMAL, SAME_COSINE = 3, 2, 0.97
CONTEXT = 77  # tokens that the text tower of CLIP reads, the start and end tokens among them
MAX_SIGNS = 1000  # of more signs no pairs are compared


def check_bank(bank: str | Path | SignBank, backbone: Backbone | None = None) -> list[Finding]:
    """All findings on a bank: on the bank as a whole, then sign by sign, then on its lists.

    Args:
        bank: name of a shipped bank, path of a JSON file (valid or not), or a bank in memory.
        backbone: counts tokens in the place of CLIP's tokenizer, and says which signs it hardly tells apart.

    Raises:
        BankError: the file is missing, no JSON, or larger than 5 MB.
    """
    if isinstance(bank, SignBank):
        return _findings(bank.model_dump(mode="json", exclude_none=True), backbone)
    path, data = read_bank(bank)
    return [replace(found, file=path) for found in _findings(data, backbone)]


def _findings(data: Any, backbone: Backbone | None) -> list[Finding]:
    """Findings on what can be read of a bank given as plain data."""
    if not isinstance(data, dict):
        return [Finding("form", "the file holds no JSON object (docs/signs.md shows the form of a bank)")]
    found = list[Finding]()
    try:
        SignBank.model_validate(data)
    except ValidationError as error:  # what has no place is said by `structure`
        found += [Finding("form", message, place) for place, message in problems(error) if place]
    named = data.get("categories")
    categories = [name.strip() for name in named if isinstance(name, str)] if isinstance(named, list) else []
    signs, normal = (placed(part, data.get(part)) for part in PARTS)
    both = signs | normal
    long = [place for place, sign in both.items() if too_long(sign.text, backbone)]
    found += [Finding("too-long", "has more tokens than the text tower reads", place) for place in long]
    found += structure(categories, signs, normal)
    for place, sign in both.items():
        found += check_sign(place, sign, categories) if place in signs else doubts(sign.text, place, normal=True)
    found += check_pairs({place: sign.text for place, sign in both.items() if place not in long}, {*normal}, backbone)
    order = {place: number for number, place in enumerate(both)}  # the bank as a whole first, then sign by sign
    found.sort(key=lambda one: order.get(one.place, -1))
    for n, one in enumerate(found):
        if one.place in both and one.rule not in FORM and (why := (both[one.place].accept or {}).get(one.rule)):
            found[n] = replace(one, severity="note", suggestion=f"accepted: {why}")
    found += check_model([sign.text for sign in both.values()], backbone)
    found += check_lists(categories, [sign.categories for sign in signs.values()], len(normal))
    origin = data.get("provenance")
    if isinstance(origin, dict) and origin.get("kind") == "language model" and origin.get("reviewed") is False:
        found.append(Finding("unreviewed", "a language model wrote the bank and no expert has read it"))
    return found


# One sign


def _pattern(words: Sequence[str] = (), regex: str = "") -> re.Pattern:
    return re.compile(regex or rf"(?<![\w-])(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)


_TEXTS = [(row, _pattern(row.get("words", ()), row.get("regex", ""))) for row in DATA["texts"]]
_MILD = _pattern(DATA["mild"])


def doubts(text: str, place: str = "", normal: bool = False, language: str | None = None) -> list[Finding]:
    """What the rules on words say of one sign, each rule once; those of one language, or of all."""
    told: dict[str, Finding] = {}
    text, asked = unicodedata.normalize("NFC", text), re.findall(r"[^\W_]+", (language or "").casefold())
    for row, pattern in _TEXTS:
        spoken = language is None or not {*asked}.isdisjoint(row.get("languages", ["english", "en"]))
        if row["rule"] in told or not (row["rule"] in OF_NORMAL or (spoken and not normal)):
            continue
        if found := pattern.search(text):
            mild = row["rule"] == "negation" and _MILD.search(text, found.end())
            message = row.get("message", DATA["negation"]).format(found=short(found[0]))
            told[row["rule"]] = Finding(row["rule"], message, place, "warning" if mild else "")
    return [*told.values()]


def check_sign(place: str, sign: Sign, categories: Sequence[str]) -> list[Finding]:
    """Doubtful words and category names in the sign of a category."""
    found = doubts(sign.text, place)
    if any(one.rule == "negation" for one in found):  # one fault is enough
        return found
    for category in categories:
        if named := names_category(sign.text, category):
            rule = "own-category" if category in sign.categories else "other-category"
            severity = "warning" if (rule, named) == ("other-category", "part") else ""
            found.append(Finding(rule, f"names the category {short(category)}", place, severity))
    return found


def too_long(text: str, backbone: Backbone | None = None) -> bool:
    """Whether a text has more tokens than the text tower reads: the given model's, or CLIP's."""
    if backbone:
        with suppress(BankError):
            backbone.tokenize([text])
            return False
        return True
    if len(text.encode(errors="replace")) <= CONTEXT - 2:  # a piece of CLIP's vocabulary holds at least one byte
        return False
    import open_clip  # late: it is heavy

    return bool(open_clip.tokenize(text, CONTEXT + 1)[0, CONTEXT])


# Signs beside each other


def check_pairs(texts: dict[str, str], normal: set[str], backbone: Backbone | None) -> Iterator[Finding]:
    """Signs that say the same in other words, or to the given model; `structure` tells those that are the same."""
    unique = {key(text): (place, text) for place, text in reversed(texts.items())}  # the first of those that are same
    if len(unique) > MAX_SIGNS:
        yield Finding("near-duplicate", f"there are {len(unique)} signs; near-duplicates were not looked for")
        return
    vectors = backbone.encode_texts([text for _, text in unique.values()]) if backbone and unique else None  # (S, D)
    cosine = None if vectors is None else (vectors @ vectors.T).tolist()
    for (i, (other_place, other)), (j, (place, text)) in combinations(enumerate(unique.values()), 2):
        if similar(text, other):
            rule = "also-normal" if other_place in normal and place not in normal else "near-duplicate"
            yield Finding(rule, f"says the same as {place}", other_place, "warning")
        if cosine and cosine[i][j] > SAME_COSINE:
            yield Finding("text-tower", f"has cosine {cosine[i][j]:.3f} with {place}", other_place)


def check_lists(categories: list[str], owners: Sequence[tuple[str, ...]], normal: int) -> Iterator[Finding]:
    """Categories with few signs, or with none of their own."""
    if 0 < normal < FEW_NORMAL:
        yield Finding("few-signs", f"there is {normal} normal sign")
    for category in categories:
        own = [{*named} & {*categories} for named in owners if category in named]
        if 0 < len(own) < FEW:
            yield Finding("few-signs", f"has {len(own)} signs", f"category {short(category)}")
        if own and all(len(named) > 1 for named in own):
            yield Finding("no-own-sign", "shares all of its signs", f"category {short(category)}")


# The model


def check_model(texts: Sequence[str], backbone: Backbone | None) -> Iterator[Finding]:
    """Signs that the text tower cannot read (the given model's, or CLIP's), and towers that nothing was loaded into."""
    if strange := unread(texts, backbone and backbone.tokenizer):
        what = f"{len(strange)} of {len(texts)} signs, such as {short(strange[0])}, are in a script or in words"
        yield Finding("unread", f"{what} that the text tower never learnt: its tokenizer only spells them")
    if backbone and backbone.pretrained != "random":
        if towers := untrained(backbone.model):
            where = f"the {' and the '.join(towers)} tower of {backbone.name}"
            yield Finding("untrained", f"{where} holds the weights that it began with: nothing was loaded")


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


def unread(texts: Sequence[str], tokenizer: Any = None) -> list[str]:
    """The texts that a tokenizer (default: CLIP's) only spells, or knows less than half of: no text tower learnt them.

    Measured with vocabularies of English: 0.3 to 0.7 tokens a letter for German, Spanish or Finnish, from 1.05 for
    Cyrillic and Arabic, 1.5 and more for Thai and Chinese. A vocabulary of many languages has one a Chinese character.
    """
    if not (doubtful := {text: n for text in texts if not text.isascii() and (n := sum(map(str.isalnum, text))) > 3}):
        return []
    from open_clip import SimpleTokenizer  # late: it is heavy

    found, tokenizer = [], tokenizer or SimpleTokenizer()
    for text, letters in doubtful.items():
        if isinstance(tokenizer, SimpleTokenizer):
            pieces, unknown = tokenizer.encode(text), None
        else:  # of Hugging Face
            pieces = tokenizer.tokenizer(tokenizer.clean_fn(text), add_special_tokens=False)["input_ids"]
            unknown = tokenizer.tokenizer.unk_token_id
        syllables = len(text.encode()) > 2.2 * letters  # what takes three bytes is more than a letter
        if len(pieces) > (1.3 if syllables else 0.9) * letters or 2 * pieces.count(unknown) > len(pieces):
            found.append(text)
    return found


# Do two texts say the same? Does one name a category?


def stems(text: str) -> list[str]:
    """Words without accents, the ae or oe of British spelling, and endings of plurals and (if long) of adjectives."""
    plain = re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text.casefold()))
    words = []
    for word in re.findall(r"[^\W_]+", plain.replace("ae", "e").replace("oe", "e")):
        word = re.sub(r"(?:ies|y)$", "i", word)
        word = re.sub(r"(?:es|(?<!s)s|e|is)$", "", word) if len(word) > 3 else word
        words.append(re.sub(r"(?:e[nrm]|[aoi])$", "", word) if len(word) > 5 else word)
    return words


_ALIKE = {word: group[0] for group in map(stems, DATA["same"]["synonyms"].split("|")) for word in group}
_OPPOSITE = {frozenset(_ALIKE.get(w, w) for w in stems(pair)) for pair in DATA["same"]["opposites"].split("|")}
_ABROAD = [pair.split() for pair in DATA["same"]["opposites_abroad"].split("|")]
_SMALL = set(stems(DATA["same"]["small_words"]))
_BROAD = set(stems(DATA["categories"]["broad"]))


@lru_cache(4096)
def _content(text: str) -> frozenset[str]:
    return frozenset(_ALIKE.get(stem, stem) for stem in stems(text) if stem not in _SMALL)


def similar(one: str, other: str) -> bool:
    """Whether two signs are the same but for order, number, spelling, a synonym or a small word.

    At least two thirds of their words agree and no words are opposites (left and right, large and small).
    """
    a, b = _content(one), _content(other)
    if not a or not b:
        return key(one) == key(other)
    alike = 3 * len(a & b) >= 2 * len(a | b)
    return alike and not any(_opposed(x, y) or _opposed(y, x) for x in a - b for y in b - a)


def _opposed(x: str, y: str) -> bool:
    return frozenset((x, y)) in _OPPOSITE or any(x.startswith(one) and y.startswith(two) for one, two in _ABROAD)


def names_category(text: str, category: str) -> str | None:
    """ "whole" where the text holds the category's name, "part" where it holds its main word, else None.

    "Nodule/Mass" is named by either word.
    """
    found, part = stems(text), None
    for name in re.split(r"[/;(),]| or | and ", category.replace("_", " ")):
        words = stems(name)
        if not words or (len(words) == 1 and words[0] in _BROAD):
            continue
        if any(found[i : i + len(words)] == words for i in range(len(found))):
            return "whole"
        if words[-1] in found and words[-1] not in _BROAD:
            part = "part"
    return part
