"""What a language model is asked for a sign bank, and what is taken from its answers.

The prompts are part of every generated bank (`provenance.prompt`). An answer is data from outside: it is measured
before it is read, signs that cannot be used are left out with the reason, and the rest is plain text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .bank import _key
from .bank_rules import FEW, FEW_NORMAL, limit_passed, short
from .wording import doubts, encoding, names_category, similar

MAX_TEXT = 200

RULES = """- A sign is one thing that is visible in a single image. No symptom, history, laboratory value, treatment,
  diagnosis, or change over time.
- Say what is there, never what is not there: no "no", "not", "without", "absent".
- 3 to 10 words, in lower case, without "may", "possible" or "often", and without the name of any category."""


class Said(NamedTuple):
    """A sign of an answer, and the categories that it speaks for."""

    text: str
    categories: tuple[str, ...]


def category_prompt(category: str, named: Mapping[str, str], modality: str, count: int, language: str) -> str:
    """The question for one category; all categories are named, so that the model can say which share a sign."""
    listed = "\n".join(f"- {_described(name, named)}" for name in named)
    return f"""You help to write radiological signs for images of this kind: {modality}. The categories are:
{listed}

Write {count} signs of the category {_described(category, named)}, in {language}.
{RULES}
- At least half should speak for this category alone. Where a sign is as typical of another category of the list, name
  that category under "also", spelt as in the list; else leave "also" empty.
Answer with JSON only: {{"signs": [{{"text": "...", "also": ["..."]}}]}}"""


def normal_prompt(named: Mapping[str, str], modality: str, count: int, language: str) -> str:
    """The question for the signs of a normal image."""
    listed = ", ".join(named)
    return f"""You help to write radiological signs for images of this kind: {modality}.
Write {count} signs of a normal image, in {language}. It shows none of: {listed}.
{RULES}
Answer with JSON only: {{"signs": [{{"text": "..."}}]}}"""


def _described(name: str, named: Mapping[str, str]) -> str:
    return f"{name} ({named[name]})" if named.get(name) else name


def schema(others: list[str] | None) -> dict:
    properties: dict = {"text": {"type": "string"}}
    if others is not None:
        item = {"type": "string", "enum": others} if others else {"type": "string"}
        properties["also"] = {"type": "array", "items": item}
    return _object({"signs": {"type": "array", "items": _object(properties)}})


def _object(properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


class Check:
    """Turns the JSON of an answer into signs; those left out stand in `dropped`, with the reason.

    Args:
        category: whose signs were asked for, None for normal signs.
        categories: of the bank.
        count: how many signs were asked for; more are left out, four times as many are refused.
        language: the rules on words are applied to English alone.

    Raises:
        AnswerProblem: when called, where fewer signs can be used than a bank needs.
    """

    def __init__(self, category: str | None, categories: list[str], count: int, language: str):
        self.category, self.categories, self.count = category, categories, count
        self.english = language.strip().casefold() == "english"
        self.dropped: list[str] = []

    def __call__(self, answer: object) -> list[Said]:
        from .server import AnswerProblem

        self.dropped.clear()
        faults: list[str] = []
        entries = answer.get("signs") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise AnswerProblem('it has no list "signs"')
        if len(entries) > 4 * self.count + 10:
            raise AnswerProblem(f"it has {len(entries)} signs, {self.count} were asked for")
        said: list[Said] = []
        for entry in entries:
            sign, fault = self._sign(entry)
            if not fault and any(similar(sign.text, other.text) for other in said):
                fault = "says the same as another sign"
            if not fault and len(said) == self.count:
                fault = f"is more than the {self.count} signs asked for"
            if fault:
                faults.append(f"{sign if isinstance(sign, str) else short(sign.text)} {fault}")
            else:
                said.append(sign)
        self.dropped += [f"{self.category or 'normal'}: {fault}" for fault in faults]
        least = min(FEW if self.category else FEW_NORMAL, self.count)
        if len(said) < least:
            why = "; ".join(faults[:5]) or "write more"
            raise AnswerProblem(f"{len(said)} of {len(entries)} signs can be used, at least {least} are needed: {why}")
        return said

    def _sign(self, entry: object) -> tuple[Said | str, str | None]:
        """The sign of an entry, or how to call it and why it is left out."""
        text = entry.get("text") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            return short(repr(entry)[:80]), "is no sign with a text"
        if len(text) > MAX_TEXT:
            return short(text), f"has {len(text)} characters"
        if fault := next((d.message for d in encoding(text) if d.rule == "encoding"), None):
            return short(text), fault
        text = " ".join(text.split()).rstrip(".;,: ")
        if not _key(text):
            return short(text), "is empty"
        if limit_passed(text, None):
            return short(text), "is too long for the text tower"
        if self.english and self.category:
            grave = (d for d in doubts(text) if d.severity == "error" or d.rule in ("negation", "wordy"))
            if fault := next((d.message for d in grave), None):
                return short(text), fault
            if name := next((c for c in self.categories if names_category(text, c) == "whole"), None):
                return short(text), f"names the category {name!r}"
        own = [self.category] if self.category else []
        also = entry.get("also")
        named = {_key(name) for name in also if isinstance(name, str)} if isinstance(also, list) else set()
        return Said(str(text), tuple(c for c in self.categories if c in own or (own and _key(c) in named))), None


def merge(said: list[Said], categories: list[str]) -> tuple[list[Said], list[str]]:
    """Signs that say the same become one, with the categories of all; the first wording stays.

    Returns:
        The signs, and each union in words.
    """
    signs: list[Said] = []
    unions: list[str] = []
    for sign in said:
        twin = next((n for n, other in enumerate(signs) if similar(sign.text, other.text)), None)
        if twin is None:
            signs.append(sign)
            continue
        both = tuple(c for c in categories if c in sign.categories + signs[twin].categories)
        unions.append(f"{sign.text!r} with {signs[twin].text!r}: {', '.join(both)}")
        signs[twin] = Said(signs[twin].text, both)
    return signs, unions
