"""What is wrong or doubtful in a sign bank, each with its place and a suggestion. [ours]

    for finding in check_bank("my_signs.json"):
        print(finding)

An error is what `load_bank` refuses or what spoils the score of a category; a warning is worth a look; a note is
for information. A bank that `load_bank` refuses is read as far as it goes, and all of its problems are listed.
A sign may carry `"accept": {"rule": "reason"}`: what it breaks knowingly becomes a note that tells the reason.
The rules on words are data, in lint.toml; docs/signs.md says how often they are right.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..errors import BankError
from .bank import PARTS, Sign, SignBank, placed, problems, read_bank, strict_json
from .findings import DATA, RULES, Finding, finding, key, short, structure

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

FORM = {"json", "form", "category", "unknown-category", "no-sign", "duplicate", "accept"}
"""Rules that no sign may accept: the bank would not load, or not mean what it says."""
OF_NORMAL = {"encoding", "spacing", "style"}
"""Rules on words that hold for normal signs too; those may negate."""
FEW, FEW_NORMAL, UNEVEN, SAME_COSINE = 3, 2, 3, 0.97
CONTEXT = 77  # tokens that the text tower of CLIP reads, the start and end tokens among them
MAX_TEXT, MAX_SIGNS = 1000, 1000  # longer texts are only called too long; of more signs no pairs are compared


def check_bank(bank: str | Path | SignBank, backbone: Backbone | None = None) -> list[Finding]:
    """All findings on a bank: on the bank as a whole, then sign by sign, then on its lists.

    Args:
        bank: name of a shipped bank, path of a JSON file (valid or not), or a bank in memory.
        backbone: its tokenizer counts tokens (default: CLIP's, 77 tokens), and its text tower says which signs it
            hardly tells apart.

    Raises:
        BankError: the file is missing, cannot be read, or is larger than 5 MB.
    """
    if isinstance(bank, SignBank):
        return list(_findings(bank.model_dump(mode="json", exclude_none=True), backbone))
    path, content = read_bank(bank)
    try:
        data = strict_json(content)
    except ValueError as error:
        return [replace(finding("json", f"cannot be read ({error})"), file=str(path))]
    return [replace(found, file=str(path)) for found in _findings(data, backbone)]


def _findings(data: Any, backbone: Backbone | None) -> Iterator[Finding]:
    """Findings on what can be read of a bank given as plain data."""
    if not isinstance(data, dict):
        yield finding("form", "the file holds no JSON object (docs/signs.md shows the form of a bank)")
        return
    try:
        SignBank.model_validate(data)
    except ValidationError as error:  # what has no place is said by `structure` below
        yield from (finding("form", message, place) for place, message in problems(error, data) if place)
    named = data.get("categories")
    categories = [name.strip() for name in named if isinstance(name, str)] if isinstance(named, list) else []
    signs, normal = (placed(part, _readable(data.get(part))) for part in PARTS)
    both = signs | normal
    capitals = 2 * sum(sign.text[:1].isupper() for sign in signs.values()) > len(signs)
    found = [
        *structure(categories, signs, normal),
        *chain(*(check_sign(place, sign, categories, capitals) for place, sign in signs.items())),
        *(f for place, sign in normal.items() for f in doubts(sign.text[:MAX_TEXT], place) if f.rule in OF_NORMAL),
        *chain(*(check_length(sign.text, place, backbone) for place, sign in both.items())),
        *check_pairs(signs, normal),
        *(check_text_tower(both, backbone) if backbone else ()),
    ]
    order = {place: number for number, place in enumerate(both)}  # the bank as a whole first, then sign by sign
    for one in sorted(found, key=lambda one: order.get(one.place, -1)):
        reason = (both[one.place].accept or {}).get(one.rule) if one.place in both and one.rule not in FORM else None
        yield one if reason is None else replace(one, severity="note", suggestion=f"accepted: {reason}")
    broken = {(one.place, one.rule) for one in found if one.rule not in FORM}
    for place, rule in ((place, rule) for place, sign in both.items() for rule in sign.accept or ()):
        if (place, rule) not in broken:
            why = "is not broken by this sign, or cannot be accepted" if rule in RULES else "does not exist"
            yield finding("accept", f"accepts the rule {short(rule)}, which {why}", place)
    yield from check_lists(categories, [sign.categories for sign in signs.values()], len(normal))
    origin = data.get("provenance")
    if isinstance(origin, dict) and origin.get("kind") == "language model" and origin.get("reviewed") is False:
        yield finding("unreviewed", "a language model wrote the bank and no expert has read it")


def _readable(rows: object) -> Iterator[tuple[int, Sign]]:
    """Number, from 0, and sign of the entries of a list that are one; the form of the others is told already."""
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        try:
            yield number, Sign.model_validate(row)
        except ValidationError:
            pass


# One sign


def _pattern(words: Sequence[str], regex: str = "", whole: bool = False) -> re.Pattern:
    listed = rf"(?<![\w-])(?:{'|'.join(words)})(?!\w)" if words else ""
    parts = rf"^(?:\W|{listed})*$" if whole else listed, regex
    return re.compile("|".join(part for part in parts if part), re.IGNORECASE)


_TEXTS = [
    (row, _pattern(row.get("words", ()), row.get("regex", ""), row.get("whole", False)), _pattern(row.get("mild", ())))
    for row in DATA["texts"]
]


def doubts(text: str, place: str = "") -> Iterator[Finding]:
    """What the rules on words say of one sign, each rule once."""
    told = set()
    for row, pattern, mild in _TEXTS:
        rule = row["rule"]
        if rule in told or not (found := pattern.search(text)):
            continue
        told.add(rule)
        # what is missing comes after the word that negates, but for "vessel markings absent"
        after = 0 if found[0].lower() == "absent" else found.end()
        milder = "mild" in row and mild.search(text, after)
        yield finding(rule, row["message"].format(found=short(found[0])), place, "warning" if milder else None)


def check_sign(place: str, sign: Sign, categories: Sequence[str], capitals: bool) -> Iterator[Finding]:
    """Words and category names in the sign of an anomaly; `capitals` where most signs begin with one."""
    if len(sign.text) > MAX_TEXT:
        return
    yield from (found := list(doubts(sign.text, place)))
    if sign.text[:1].isupper() and sign.text[1:2].islower() and not capitals:
        yield finding("style", "begins with a capital, unlike most signs", place)
    if any(one.rule == "negation" for one in found):
        return
    for category in categories:
        named = names_category(sign.text, category)
        if named and category in sign.categories:
            yield finding("own-category", f"names its own category {short(category)}", place)
        elif named:
            severity = "error" if named == "whole" else "warning"
            yield finding("other-category", f"names the category {short(category)}", place, severity)


def check_length(text: str, place: str = "", backbone: Backbone | None = None) -> Iterator[Finding]:
    """More tokens than the text tower reads: the given model's, or CLIP's."""
    limit = backbone.tokenizer.context_length if backbone else CONTEXT
    try:
        if backbone:
            backbone.tokenize([text])
        # a piece of CLIP's vocabulary holds at least one byte, so that a short text need not be counted
        elif len(text) > MAX_TEXT or (
            len(text.encode(errors="replace")) + 2 > limit and len(_clip_tokenizer().encode(text)) + 2 > limit
        ):
            raise BankError
    except BankError:
        yield finding("too-long", f"has more tokens than the {limit} that the text tower reads", place)


@lru_cache
def _clip_tokenizer():
    from open_clip.tokenizer import SimpleTokenizer  # late: it is heavy

    return SimpleTokenizer()


# Signs beside each other


def check_pairs(signs: dict[str, Sign], normal: dict[str, Sign]) -> Iterator[Finding]:
    """Signs that say the same in other words; those that are the same are told by `structure`."""
    unique: dict[str, tuple[str, str]] = {}
    for place, sign in (signs | normal).items():
        unique.setdefault(key(sign.text), (place, sign.text[:MAX_TEXT]))
    if len(unique) > MAX_SIGNS:
        yield finding("near-duplicate", f"there are {len(unique)} signs; near-duplicates were not looked for")
        return
    for (place, text), (other_place, other) in combinations(unique.values(), 2):
        if similar(text, other):
            rule = "also-normal" if place in signs and other_place in normal else "near-duplicate"
            yield finding(rule, f"says the same as {place}", other_place, "warning")


def check_text_tower(signs: dict[str, Sign], backbone: Backbone) -> Iterator[Finding]:
    """Pairs that the given model hardly tells apart."""
    fits = [(place, sign.text) for place, sign in signs.items() if not [*check_length(sign.text, "", backbone)]]
    if not 2 <= len(fits) <= MAX_SIGNS:
        return
    vectors = backbone.encode_texts([text for _, text in fits])  # (S, D), unit length
    cosine = (vectors @ vectors.T).tolist()
    for (i, (place, text)), (j, (other_place, other)) in combinations(enumerate(fits), 2):
        if cosine[i][j] > SAME_COSINE and key(text) != key(other):
            yield finding("text-tower", f"has cosine {cosine[i][j]:.3f} with {place}", other_place)


def check_lists(categories: list[str], owners: Sequence[tuple[str, ...]], normal: int) -> Iterator[Finding]:
    """Categories with few signs, with none of their own, or with lists of very different length."""
    if 0 < normal < FEW_NORMAL:
        yield finding("few-signs", f"there is {normal} normal sign")
    lists = {c: own for c in categories if (own := frozenset(s for s, named in enumerate(owners) if c in named))}
    first: dict[frozenset[int], str] = {}
    for category, own in lists.items():
        place = f"category {short(category)}"
        if len(own) < FEW:
            yield finding("few-signs", f"has {len(own)} signs", place)
        if (twin := first.setdefault(own, category)) != category:
            yield finding("same-signs", f"has the very signs of {short(twin)}", place)
        elif all(len({*owners[s]} & {*lists}) > 1 for s in own):
            yield finding("no-own-sign", "shares all of its signs", place)
    longest, shortest = (pick(lists, key=lambda c: len(lists[c]), default="") for pick in (max, min))
    if lists and len(lists[longest]) > UNEVEN * len(lists[shortest]):
        most, least = (f"{short(c)} has {len(lists[c])} signs" for c in (longest, shortest))
        yield finding("uneven", f"{most} and {least}")


# Do two texts say the same? Does one name a category?


def stems(text: str) -> list[str]:
    """Words without plural endings, accents and the ae or oe of British spelling."""
    words = []
    for word in re.findall(r"[^\W_]+", text.casefold()):
        word = unicodedata.normalize("NFKD", word).replace("ae", "e").replace("oe", "e")
        word = re.sub(r"(?:ies|y)$", "i", word)
        words.append(re.sub(r"(?:es|(?<!s)s|e|is)$", "", word) if len(word) > 3 else word)
    return words


_ALIKE = {word: group[0] for group in map(stems, DATA["same"]["synonyms"].split("|")) for word in group}
_OPPOSITE = {frozenset(_ALIKE.get(w, w) for w in stems(pair)) for pair in DATA["same"]["opposites"].split("|")}
_SMALL = set(DATA["same"]["small_words"].split())
_BROAD = set(stems(DATA["categories"]["broad"]))


@lru_cache(4096)
def _content(text: str) -> frozenset[str]:
    return frozenset(_ALIKE.get(stem, stem) for stem in stems(text) if stem not in _SMALL)


def similar(one: str, other: str) -> bool:
    """Whether two signs are the same but for order, number, spelling, a synonym or one small word.

    At least two thirds of the words agree and no words are opposites (left and right, large and small).
    Misspelt words agree by their letters.
    """
    a, b = _content(one), _content(other)
    if not a or not b:
        return key(one) == key(other)
    only_a, only_b = a - b, b - a
    if not a & b or 2 * len(a & b) < max(len(a), len(b)) - 1:  # the quick way out of most pairs
        return False
    if any(frozenset((x, y)) in _OPPOSITE for x in only_a for y in only_b):
        return False
    for x in sorted(only_a):  # a slip of the keyboard
        twin = next((y for y in sorted(only_b) if len(x) > 4 and SequenceMatcher(None, x, y).ratio() >= 0.85), None)
        if twin is not None:
            only_a, only_b = only_a - {x}, only_b - {twin}
    common = len(a) - len(only_a)
    if min(len(a), len(b)) == 1:
        return not only_a and not only_b
    return common / (common + len(only_a) + len(only_b)) >= 2 / 3


def names_category(text: str, category: str) -> str | None:
    """ "whole" where the text holds the category's name, "part" where it holds its main word, else None.

    "Nodule/Mass" is named by either word. A short name in capitals, such as MS, is looked for as written.
    """
    found, part = stems(text), None
    for name in re.split(r"[/;(),]| or | and ", category.replace("_", " ")):
        words = stems(name)
        if words and name.strip().isupper() and len(name.strip()) <= 5:
            if re.search(rf"\b{re.escape(name.strip())}\b", text):
                return "whole"
        elif words and any(found[i : i + len(words)] == words for i in range(len(found))):
            if len(words) > 1 or words[0] not in _BROAD:
                return "whole"
        elif len(words) > 1 and words[-1] in found and words[-1] not in _BROAD:
            part = "part"
    return part
