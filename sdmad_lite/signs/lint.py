"""What is wrong or doubtful in a sign bank, each with its line and a suggestion. [ours]

    for finding in check_bank("my_signs.json"):
        print(finding)

An error is what `load_bank` refuses or what spoils the score of a category; a warning is worth a look; a note is
for information. A file that `load_bank` refuses is read as far as it goes, and all of its problems are listed.
A sign may carry `"accept": {"rule": "reason"}`: what it breaks knowingly becomes a note that tells the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from .bank import SignBank, read_bank
from .bank_rules import (
    MAX_TEXT,
    Entry,
    Remark,
    check_categories,
    check_length,
    check_lists,
    check_pairs,
    check_sign,
    check_text_tower,
    short,
)
from .located import Record, Row, Text, decode_mended, line_at
from .wording import encoding

if TYPE_CHECKING:
    from ..clip.backbone import Backbone

RULES = {
    "json": ("error", "the file is no strict JSON: a comma too many or missing, a repeated key, NaN, not UTF-8"),
    "form": ("error", "an entry is missing, unknown or of the wrong type"),
    "category": ("error", "a category is empty, called normal, or twice in the list but for case or spaces"),
    "unknown-category": ("error", "a sign names no category, or one that is not in the list"),
    "no-sign": ("error", "a category has no sign, or the bank no normal sign"),
    "duplicate": ("error", "a sign stands twice but for case, spaces or hyphens"),
    "near-duplicate": (
        "warning",
        "two signs say the same but for order, spelling, a synonym or a small word",
    ),
    "also-normal": (
        "error",
        "a sign stands among the normal signs, too (a warning where it is only similar)",
    ),
    "negation": ("error", 'a sign says what is not there, "no effusion" (a warning where normal anatomy is missing)'),
    "not-visible": ("error", "a symptom, history, a laboratory value or treatment"),
    "other-category": (
        "error",
        "a sign names a category not its own (a warning for the main word alone)",
    ),
    "own-category": ("note", "a sign names its own category and so adds little to the name"),
    "too-long": ("error", "more tokens than the text tower reads (CLIP: 77)"),
    "wordy": ("warning", "more than 15 words"),
    "vague": ("warning", 'fits almost any image: "abnormal finding", "opacity" alone'),
    "hedge": ("warning", '"may show", "possible", "often"'),
    "joined": ("warning", "several findings in one sign"),
    "change-over-time": ("warning", "needs an earlier image"),
    "encoding": ("warning", "control characters, a wrong character set, markup, code or an address"),
    "spacing": ("warning", "spaces at an end or several in a row"),
    "style": ("note", "a capital, a full stop or capitals where the other signs have none"),
    "no-own-sign": ("warning", "all signs of a category are shared"),
    "same-signs": ("warning", "two categories have the very same signs: no score can tell them apart"),
    "few-signs": ("warning", "fewer than 3 signs of a category, or fewer than 2 normal signs"),
    "uneven": ("warning", "the longest list of a category is more than 3 times the shortest"),
    "text-tower": ("note", "the text tower given hardly tells two signs apart (cosine above 0.97)"),
    "accept": ("warning", "an accepted rule is unknown, or the sign does not break it"),
    "unreviewed": ("note", "a language model wrote the bank and no expert has read it"),
}
"""Rule to its severity and what it catches."""
FORM = {"json", "form", "category", "unknown-category", "no-sign", "duplicate", "accept"}
"""Rules that no sign may accept: the bank would not load, or not mean what it says."""


@dataclass(frozen=True)
class Finding:
    """One remark of the linter; `line` counts from 1 and is None for a bank that is no file."""

    line: int | None
    sign: str | None
    rule: str
    message: str
    suggestion: str
    severity: str
    file: str | None = None

    def __str__(self) -> str:
        place = f"{self.file or 'sign bank'}:" + (f"{self.line}:" if self.line else "")
        sign = f"{short(self.sign)} " if self.sign is not None else ""
        return f"{place} {self.rule}: {sign}{self.message}; {self.suggestion}"


def check_bank(bank: str | Path | SignBank, backbone: Backbone | None = None) -> list[Finding]:
    """All findings on a bank, in the order of the file.

    Args:
        bank: name of a shipped bank, path of a JSON file (valid or not), or a bank in memory.
        backbone: its tokenizer counts tokens (default: CLIP's, 77 tokens), and its text tower says which signs it
            hardly tells apart.

    Raises:
        BankError: the file is missing, cannot be read, or is larger than 5 MB.
    """
    if isinstance(bank, SignBank):
        remarks, file = _remarks(bank.model_dump_json(indent=2, exclude_none=True), backbone), None
        remarks = [r._replace(message=re.sub(r" in line \d+$", "", r.message)) for r in remarks]
    else:
        path, data = read_bank(bank)
        remarks, file = [], str(path)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            remarks.append(Remark("json", line, f"byte {error.start} is not UTF-8", "save the file as UTF-8"))
            text = data.decode("utf-8", errors="replace")
        remarks += _remarks(text, backbone)
    return [
        Finding(r.line if file else None, r.sign, r.rule, r.message, r.suggestion, r.severity or RULES[r.rule][0], file)
        for r in sorted(remarks, key=lambda r: r.line)
    ]


def _remarks(text: str, backbone: Backbone | None) -> list[Remark]:
    repeated: list[tuple[str, int]] = []
    data, slips = decode_mended(text, repeated)
    found = [Remark("json", *slip) for slip in slips]
    found += [
        Remark("json", line, f"the key {short(key)} stands twice in one object", "keep one") for key, line in repeated
    ]
    if isinstance(data, Record):
        form, beyond = _form(data)
        found += form + list(_content(data, backbone))
        if beyond and all((r.severity or RULES[r.rule][0]) != "error" for r in found):
            found.append(Remark("form", data.line, beyond, "correct it"))
    elif not found or data is not None:
        found.append(Remark("form", 1, "the file holds no JSON object", "see docs/signs.md for the form of a bank"))
    return found


def _form(data: Record) -> tuple[list[Remark], str]:
    """Remarks on missing, unknown and wrong entries; what the bank's own check says beyond them."""
    found, beyond = [], []
    try:
        SignBank.model_validate(data)
    except ValidationError as error:
        for item in error.errors():
            message, name = item["msg"].removeprefix("Value error, "), short(".".join(map(str, item["loc"])))
            if not item["loc"]:
                beyond.append(message)
                continue
            says, todo = f"{name}: {message}", "correct it"
            if item["type"] == "extra_forbidden":
                says, todo = f"unknown key {name}", "correct its spelling or remove it"
            elif item["type"] == "missing":
                says, todo = f"{name} is missing", "add it"
            found.append(Remark("form", line_at(data, item["loc"]), says, todo))
    return found, "; ".join(beyond)


def _content(data: Record, backbone: Backbone | None) -> Iterator[Remark]:
    """Remarks on what can be read of the lists."""
    listed = data.get("categories")
    categories = [name for name in listed if isinstance(name, Text)] if isinstance(listed, Row) else []
    if listed == []:
        yield Remark("category", data.line_of("categories"), "categories is empty", "name at least one anomaly")
    yield from check_categories(categories)
    signs, normal = ([Entry(r, categories) for r in _records(data.get(key))] for key in ("signs", "normal_signs"))
    capitals = 2 * sum(entry.text[:1].isupper() for entry in signs) > len(signs)
    of_sign: dict[int, list[Remark]] = {id(entry): [] for entry in signs + normal}
    for entry in signs:
        of_sign[id(entry)] += check_sign(entry, categories, capitals)
    for entry in normal:
        of_sign[id(entry)] += [entry.says(d.rule, d.message, d.suggestion) for d in encoding(entry.text[:MAX_TEXT])]
        if entry.own or entry.unknown:
            of_sign[id(entry)].append(entry.says("form", "is normal and names categories", "leave them out"))
    for entry in signs + normal:
        of_sign[id(entry)] += check_length(entry, backbone)
    by_place = {(entry.line, entry.text): id(entry) for entry in signs + normal}
    together = list(check_pairs(signs, normal))
    together += check_text_tower(signs + normal, backbone) if backbone is not None else []
    for remark in together:
        place = by_place.get((remark.line, remark.sign))
        of_sign.setdefault(place, []).append(remark)
    yield from of_sign.pop(None, [])
    for entry in signs + normal:
        yield from _accepted(entry, of_sign[id(entry)])
    yield from check_lists(data, categories, signs, normal)
    origin = data.get("provenance")
    if isinstance(origin, Record) and origin.get("kind") == "language model" and origin.get("reviewed") is False:
        message = "a language model wrote the bank and no expert has read it"
        yield Remark("unreviewed", origin.line_of("reviewed"), message, "have it read before you report results")


def _accepted(entry: Entry, remarks: list[Remark]) -> Iterator[Remark]:
    """The remarks on one sign; those that it accepts become notes, and acceptances without effect are told."""
    broken = {remark.rule for remark in remarks} - FORM
    for remark in remarks:
        if remark.rule in broken and remark.rule in entry.accept:
            reason = f"accepted: {entry.accept[remark.rule]}"
            yield remark._replace(severity="note", suggestion=reason)
        else:
            yield remark
    for rule in entry.accept:
        if rule not in broken:
            why = "is not broken by this sign, or cannot be accepted" if rule in RULES else "does not exist"
            yield entry.says("accept", f"accepts the rule {short(rule)}, which {why}", "remove it")


def _records(rows: object) -> list[Record]:
    return [row for row in rows if isinstance(row, Record)] if isinstance(rows, Row) else []
