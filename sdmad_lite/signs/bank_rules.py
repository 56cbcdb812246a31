"""Rules of the linter on a bank as a whole: categories, pairs of signs, lengths of lists. [ours]

Each yields remarks on what can be read of a bank, valid or not; `lint` collects them, `wording` judges single texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BankError
from .bank import _key
from .located import Record, Row, Text
from .wording import doubts, names_category, similar

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

FEW, FEW_NORMAL, UNEVEN, SAME_COSINE = 3, 2, 3, 0.97
CONTEXT = 77
"""Tokens that the text tower of CLIP reads, the start and end tokens among them."""
MAX_TEXT, MAX_SIGNS = 1000, 1000
"""Longer texts are only called too long; of more signs no pairs are compared."""


class Remark(NamedTuple):
    """What one rule says; the severity is the rule's own where it is None."""

    rule: str
    line: int
    message: str
    suggestion: str
    sign: str | None = None
    severity: str | None = None


class Entry:
    """One sign as far as it can be read."""

    def __init__(self, record: Record, categories: list[Text]):
        text, named, accept = record.get("text"), record.get("categories"), record.get("accept")
        self.text = text if isinstance(text, Text) else ""
        self.line = record.line_of("text")
        named = [name for name in named if isinstance(name, Text)] if isinstance(named, Row) else []
        self.own = [name.strip() for name in named if name.strip() in categories]
        self.unknown = [name for name in named if name.strip() not in categories]
        self.accept = accept if isinstance(accept, Record) else {}

    def says(self, rule: str, message: str, suggestion: str, severity: str | None = None) -> Remark:
        return Remark(rule, self.line, message, suggestion, self.text, severity)


def short(text: str) -> str:
    """Quoted, and cut where it is long."""
    return repr(str(text) if len(text) <= 60 else f"{text[:57]}...")


def check_categories(names: list[Text]) -> Iterator[Remark]:
    """Empty, "normal", or twice but for case and spaces."""
    seen: dict[str, str] = {}
    for name in names:
        if _key(name) in ("", "normal"):
            yield Remark("category", name.line, f"{short(name)} cannot be a category", "name an anomaly")
        elif _key(name) in seen:
            yield Remark("category", name.line, f"{short(name)} is {short(seen[_key(name)])} again", "remove one")
        seen.setdefault(_key(name), name)


def check_sign(entry: Entry, categories: list[Text], capitals: bool) -> Iterator[Remark]:
    """Words and categories of the sign of an anomaly; `capitals` where most signs begin with one."""
    if not entry.own and not entry.unknown:
        yield entry.says("unknown-category", "names no category", "add one, or remove the sign")
    for name in entry.unknown:
        near = get_close_matches(_key(name), [_key(c) for c in categories], 1, 0.7) if len(name) < 200 else []
        hint = [f"did you mean {str(c)!r}?" for c in categories if [_key(c)] == near] or ["add it to the list"]
        yield entry.says("unknown-category", f"names {short(name)}, which is not in categories", hint[0])
    if len(entry.text) > MAX_TEXT:
        return
    found = list(doubts(entry.text))
    for rule, severity, message, suggestion in found:
        yield entry.says(rule, message, suggestion, severity)
    if entry.text[:1].isupper() and entry.text[1:2].islower() and not capitals:
        yield entry.says("style", "begins with a capital, unlike most signs", "use a small letter unless it is a name")
    negated = any(doubt.rule == "negation" for doubt in found)
    for category in categories:
        named = names_category(entry.text, category)
        if not named or negated:
            continue
        if category in entry.own:
            yield entry.says("own-category", f"names its own category {short(category)}", "describe what is seen")
        else:
            hint = f"describe what is seen, or add {short(category)} to its categories"
            severity = "error" if named == "whole" else "warning"
            yield entry.says("other-category", f"names the category {short(category)}", hint, severity)


def check_length(entry: Entry, backbone: Backbone | None) -> Iterator[Remark]:
    """More tokens than the text tower reads."""
    if limit := limit_passed(entry.text, backbone):
        why = f"has more tokens than the {limit} that the text tower reads"
        yield entry.says("too-long", why, "shorten it to the one finding that is seen")


def check_pairs(signs: list[Entry], normal: list[Entry]) -> Iterator[Remark]:
    """The same sign twice, in the same or in other words."""
    first_of: dict[str, Entry] = {}
    unique, of_normal = [], {id(entry) for entry in normal}
    for entry in signs + normal:
        first = first_of.setdefault(_key(entry.text), entry)
        if first is not entry:
            crossed = id(entry) in of_normal and id(first) not in of_normal
            message = f"is the sign of line {first.line} again"
            yield entry.says("also-normal" if crossed else "duplicate", message, _remedy(first, entry))
        elif 0 < len(entry.text) <= MAX_TEXT:
            unique.append(entry)
    if len(unique) > MAX_SIGNS:
        message = f"there are {len(unique)} signs; near-duplicates were not looked for"
        yield Remark("near-duplicate", 1, message, f"keep at most {MAX_SIGNS}")
        return
    for one, other in combinations(unique, 2):
        if similar(one.text, other.text):
            crossed = id(other) in of_normal and id(one) not in of_normal
            message = f"says the same as {short(one.text)} in line {one.line}"
            yield other.says("also-normal" if crossed else "near-duplicate", message, _remedy(one, other), "warning")


def _remedy(one: Entry, other: Entry) -> str:
    both = ", ".join(dict.fromkeys([*one.own, *other.own]))
    return f"keep one, with the categories {both}" if one.own and other.own else "tell them apart, or keep one"


def check_lists(data: Record, categories: list[Text], signs: list[Entry], normal: list[Entry]) -> Iterator[Remark]:
    """Too few signs, none of its own, lists of very different length."""
    if len(normal) < FEW_NORMAL:
        rule, message = ("few-signs" if normal else "no-sign"), f"there are {len(normal)} normal signs"
        yield Remark(rule, data.line_of("normal_signs"), message, "describe a normal image in 3 to 7 signs")
    sizes: dict[str, int] = {}
    members: dict[frozenset, str] = {}
    for category in dict.fromkeys(categories):
        own = [n for n, entry in enumerate(signs) if category in entry.own]
        name = f"category {short(category)}"
        if not own:
            yield Remark("no-sign", category.line, f"{name} has no sign", "write 3 to 7 signs for it")
            continue
        sizes[category] = len(own)
        if len(own) < FEW:
            yield Remark("few-signs", category.line, f"{name} has {len(own)} signs", f"write at least {FEW}")
        if twin := members.get(frozenset(own)):
            message = f"{name} has the very signs of {short(twin)}"
            yield Remark("same-signs", category.line, message, "add a sign that separates them, or merge them")
        elif all(len(set(signs[n].own)) > 1 for n in own):
            yield Remark("no-own-sign", category.line, f"{name} shares all of its signs", "add a sign of its own")
        members.setdefault(frozenset(own), category)
    if sizes and max(sizes.values()) > UNEVEN * min(sizes.values()):
        most, least = max(sizes, key=sizes.get), min(sizes, key=sizes.get)
        message = f"{short(most)} has {sizes[most]} signs and {short(least)} has {sizes[least]}"
        yield Remark("uneven", data.line_of("categories"), message, "bring the lists to similar length")


def check_text_tower(entries: list[Entry], backbone: Backbone) -> Iterator[Remark]:
    """Pairs that the given model hardly tells apart."""
    fits = [entry for entry in entries if _key(entry.text) and limit_passed(entry.text, backbone) is None]
    if not 2 <= len(fits) <= MAX_SIGNS:
        return
    vectors = backbone.encode_texts([entry.text for entry in fits])  # (S, D), unit length
    cosine = (vectors @ vectors.T).tolist()
    for i, j in combinations(range(len(fits)), 2):
        if cosine[i][j] > SAME_COSINE and _key(fits[i].text) != _key(fits[j].text):
            message = f"has cosine {cosine[i][j]:.3f} with {short(fits[i].text)} in line {fits[i].line}"
            yield fits[j].says("text-tower", message, "use other words, if they mean different things")


def limit_passed(text: str, backbone: Backbone | None) -> int | None:
    """The number of tokens that the text tower reads, where the text has more.

    A piece of CLIP's byte-level vocabulary holds at least one byte, so a short text fits without being counted.
    """
    if backbone is not None:
        try:
            if _key(text):
                backbone.tokenize([text])
        except BankError:
            return backbone.tokenizer.context_length
        return None
    if len(text.encode("utf-8", errors="replace")) + 2 <= CONTEXT:
        return None
    return CONTEXT if len(text) > MAX_TEXT or len(_clip_tokenizer().encode(text)) + 2 > CONTEXT else None


@lru_cache
def _clip_tokenizer():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
