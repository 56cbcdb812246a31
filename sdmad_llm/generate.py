"""A sign bank written by a language model [paper: a large language model writes the signs of each category].

One question for each category and one for the normal signs, each answer kept on disk [ours]. The model may say for
which other categories a sign speaks [paper: they share signs], and signs that two answers put alike become one [ours].
What an answer holds is measured, cleaned or left out, and never executed or used as a path.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, ValidationError
from tqdm import tqdm

from sdmad_lite import __version__
from sdmad_lite.errors import GenerationError
from sdmad_lite.files import user_cache
from sdmad_lite.signs.bank import PLAIN, Sign, SignBank, parse_bank, problems
from sdmad_lite.signs.lint import FEW, FEW_NORMAL, check_bank, doubts, names_category, similar, too_long
from sdmad_lite.signs.rules import Finding, key, short, structure

from .answers import PROMPTS, BadAnswer, entries, entry

if TYPE_CHECKING:
    from .chat import Chat

HOSTED = "https://api.openai.com/v1"
MAX_TEXT = 200  # characters of a sign
GRAVE = {"negation", "wordy", "encoding"}  # rules whose warnings leave out a sign of an answer, as errors do
# what stands before an entry of a list, and bold letters or quotes around it
MARKS = re.compile(r"^(?:(?:[-–—•·✓✔✅*]|\(?(?:\d{1,2}|[a-z])[.)]|(?:sign|finding) \d+:) )+", re.IGNORECASE)
ROUND = re.compile(r"""^["'“”«»`*_]+([^"“”«»`*_]+)["'“”«»`*_]+$""")
Short = Annotated[str, Field(max_length=MAX_TEXT), PLAIN]
Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), PLAIN]


class Settings(BaseModel):
    """What is asked for, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, str_strip_whitespace=True)

    categories: dict[Name, Short] = Field(min_length=1, max_length=100)  # names to a description, or to ""
    modality: Name  # what the images are
    model: Name  # on the server
    base_url: HttpUrl
    api_key: str = Field("", pattern=r"^[!-~]*$")
    name: Name = "generated"  # of the bank
    color: bool = False  # whether colour carries meaning in the images
    signs_per_category: int = Field(6, ge=1, le=20)
    normal_signs: int = Field(6, ge=1, le=20)
    language: Name = "English"  # of the signs
    temperature: float = Field(0.2, ge=0, le=2)  # of the sampling; a server may ignore or refuse it
    seed: int | None = Field(0, ge=0, lt=2**31)  # likewise
    timeout: float = Field(120.0, gt=0, le=86_400)  # seconds for one answer
    retries: int = Field(2, ge=0, le=10)  # how often a lost or malformed answer is asked for again


@dataclass(frozen=True)
class Generated:
    """A bank, what it took, and what was changed in the answers."""

    bank: SignBank
    usage: dict[str, int]  # requests, cached answers, and the tokens that the server tells
    merged: tuple[str, ...]  # signs that became one, in words
    dropped: tuple[str, ...]  # signs that were left out, and why
    findings: tuple[Finding, ...]  # what the linter says of the bank

    def __str__(self) -> str:
        took = ", ".join(f"{value} {name}" for name, value in self.usage.items())
        what = f"{len(self.bank.signs)} signs and {len(self.bank.normal_signs)} normal, {len(self.dropped)} left out"
        return f"{self.bank.name}: {what}; {took}; reviewed: false, have an expert read it"


def generate_signs(
    categories: Sequence[str] | Mapping[str, str],
    modality: str,
    *,
    model: str,
    base_url: str | None = None,
    api_key: str | None = None,
    cache: str | Path | None = "default",
    progress: bool = False,
    **settings: Any,
) -> Generated:
    """Ask a language model for a sign bank.

    Args:
        categories: names of the anomalies, or names to a description ("DR": "diabetic retinopathy").
        base_url: address of any OpenAI-compatible server; OPENAI_BASE_URL or the hosted service when left out.
        api_key: sent to the server alone. Without base_url it may come from OPENAI_API_KEY.
        cache: folder of answers; "default" is below the user's cache folder, None keeps nothing.
        settings: further fields of `Settings`, such as name="mine" or signs_per_category=4.

    Raises:
        GenerationError: an argument is wrong, no server answers, or an answer stays unusable; names which.
        OutputError: the cache cannot be written. MissingExtraError: the extra [llm] is not installed.
    """
    from .chat import Chat  # late: openai is an extra

    asked = _settings(categories, api_key, base_url, {"modality": modality, "model": model, **settings})
    home = (user_cache() or Path(tempfile.gettempdir())) / "sdmad_lite" / "answers"
    chat = Chat(asked, home if cache == "default" else Path(cache) if cache else None)
    named, said, dropped = asked.categories, dict[str | None, list[Sign]](), list[str]()
    with chat.client, tqdm([*named, None], desc="signs", disable=not progress, leave=False) as subjects:
        for category in subjects:
            subject = f"category {category!r}" if category else "normal signs"
            count = asked.signs_per_category if category else asked.normal_signs
            prompt = sign_prompt(category, named, asked.modality, count, asked.language)
            check = partial(usable_signs, category=category, categories=named, count=count, language=asked.language)
            said[category], left_out = chat.ask(subject, prompt, [*named], check)
            dropped += [f"{category or 'normal'}: {why}" for why in left_out]
    normal = said.pop(None)
    signs, merged = merge([sign for own in said.values() for sign in own])
    crossed = [sign for sign in normal if any(similar(sign.text, other.text) for other in signs)]
    dropped += [f"normal: {sign.text!r} is also the sign of an anomaly" for sign in crossed]
    bank = _bank(asked, chat, signs, [sign for sign in normal if sign not in crossed])
    return Generated(bank, dict(chat.spent), tuple(merged), tuple(dropped), tuple(check_bank(bank)))


def _settings(categories, api_key: str | None, base_url: str | None, more: dict) -> Settings:
    """The arguments, checked before anything is sent."""
    if isinstance(categories, Sequence) and not isinstance(categories, str):
        categories = dict.fromkeys(categories, "")
    # a key of the environment goes only where the environment, or the default, says
    key = api_key or ("" if base_url else os.environ.get("OPENAI_API_KEY", ""))
    url = base_url or os.environ.get("OPENAI_BASE_URL") or HOSTED
    if url == HOSTED and not key:
        raise GenerationError(PROMPTS["no_key"] + PROMPTS["no_server"])
    try:
        asked = Settings(categories=categories, api_key=key, base_url=url, **more)  # type: ignore[arg-type]
        for found in structure([*asked.categories], {}, {}):
            if found.rule == "category":
                raise GenerationError(f"categories: {found.place} {found.message}; {found.suggestion}")
        return asked
    except ValidationError as error:  # never with the input: it may be a key
        place, message = next(problems(error))
        raise GenerationError(f"{place.partition('.')[0]}: {message}") from None


def sign_prompt(
    category: str | None, named: Mapping[str, str], modality: str, count: int, language: str = "English"
) -> str:
    """The question for the signs of one category, or of a normal image (None); it tells what each category means."""
    described = {name: f"{name} ({what})" if what else name for name, what in named.items()}
    listed = "\n".join(f"- {name}" for name in described.values()) if category else ", ".join(named)
    asked = {"category": described.get(category or "", category), "modality": modality, "listed": listed}
    text = PROMPTS["category" if category else "normal"]
    return text.format(count=count, language=language, rules=PROMPTS["rules"], **asked)


def usable_signs(
    answer: object, category: str | None, categories: Iterable[str], count: int, language: str = "English"
) -> tuple[list[Sign], list[str]]:
    """What can be used of an answer, text or data, for a category or for normal (None): signs, and why others are not.

    More signs than `count` are left out. Raises BadAnswer: fewer can be used than a bank needs; says why.
    """
    listed = entries(answer, category, categories)
    if listed is None or len(listed) > 4 * count + 10:
        raise BadAnswer(f'it has no list "signs" of {count} signs')
    signs, left_out = list[Sign](), list[str]()
    for text, also in map(entry, listed):
        if isinstance(text, str):
            text = MARKS.sub("", " ".join(text.split())).rstrip(".;,: ")
            text = ROUND.sub(r"\1", text)
        fault = _fault(text, category, categories, language)
        if not fault and any(similar(text, other.text) for other in signs):
            fault = "says the same as another sign"
        if fault or len(signs) == count:
            left_out.append(f"{short(text)} {fault or f'is more than the {count} signs asked for'}")
            continue
        named = {key(str(name)) for name in also}
        own = tuple(name for name in categories if category and (name == category or key(name) in named))
        signs.append(Sign(text=text, categories=own))
    if len(signs) < (least := min(FEW if category else FEW_NORMAL, count)):
        why = "; ".join(left_out[:5]) or "write more"
        raise BadAnswer(f"{len(signs)} of {len(listed)} signs can be used, at least {least} are needed: {why}")
    return signs, left_out


def _fault(text: object, category: str | None, categories: Iterable[str], language: str) -> str | None:
    """Why a sign of an answer is left out; rules on words hold for the signs of a category, in their language."""
    if not isinstance(text, str) or not key(text) or len(text) > MAX_TEXT:
        return f"is no text of 1 to {MAX_TEXT} characters"
    if named := [name for name in categories if category and names_category(text, name) == "whole"]:
        return f"names the category {named[0]!r}"
    found = doubts(text, normal=category is None, language=language)
    fault = next((one.message for one in found if one.severity == "error" or one.rule in GRAVE), None)
    return fault or ("has too many tokens" if too_long(text) else None)


def merge(said: Iterable[Sign]) -> tuple[list[Sign], list[str]]:
    """Signs that say the same become one in its first wording, with the categories of all; and each union in words."""
    signs, unions = dict[str, Sign](), list[str]()
    for sign in said:
        text = next((text for text in signs if similar(sign.text, text)), sign.text)
        if text in signs:
            unions.append(f"{sign.text!r} with {text!r}")
            sign = Sign(text=text, categories=(*dict.fromkeys(signs[text].categories + sign.categories),))
        signs[text] = sign
    return [*signs.values()], unions


def _bank(asked: Settings, chat: Chat, signs: list[Sign], normal: list[Sign]) -> SignBank:
    """The bank, with all that is needed to ask again."""
    counts: dict[str | None, int] = {"{category}": asked.signs_per_category, None: asked.normal_signs}
    prompts = [sign_prompt(c, asked.categories, asked.modality, n, asked.language) for c, n in counts.items()]
    how = {"server": chat.host, "answer_form": chat.form, "software": f"sdmad_lite {__version__}"}
    if chat.form != "text":  # which is asked for without settings
        how |= asked.model_dump(include={"temperature", "seed"})
    told = {"model": asked.model, "date": chat.date, "prompt": "\n\n".join(prompts), "generation": how}
    about = asked.model_dump(include={"name", "modality", "color"}) | {"categories": [*asked.categories]}
    about |= {"signs": signs, "normal_signs": normal, "provenance": PROMPTS["provenance"] | told}
    return parse_bank(about, f"the answers of {chat.host}")
