"""A sign bank written by a language model [paper: a large language model writes the signs of each category].

    generated = generate_signs(["Effusion", "Nodule"], "chest radiograph", model="llama3.1",
                               base_url="http://localhost:11434/v1")
    generated.bank.save("my_signs.json")

One question for each category and one for the normal signs [ours: a lost answer costs little, and each is kept on
disk]. Categories share signs [paper]: the model may say for which other categories a sign speaks, and signs that two
answers put alike become one with both categories [ours]. What an answer holds is text and stays text: it is
measured, cleaned or left out, and never executed or used as a path. No expert has read the bank: `reviewed` is false.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from tqdm import tqdm

from .. import __version__
from ..errors import GenerationError
from .bank import SignBank, _key, parse_bank
from .lint import Finding, check_bank
from .prompts import Check, Said, category_prompt, merge, normal_prompt, schema
from .wording import similar

MAX_CATEGORIES, MAX_SIGNS = 100, 20


@dataclass(frozen=True)
class Usage:
    """What a run took. Tokens are None where the server tells none; cost is None without prices."""

    requests: int
    cached: int
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    cost: float | None


@dataclass(frozen=True)
class Generated:
    """A bank, what it took, and what was changed in the answers.

    Attributes:
        form: "json_schema", or what the server takes instead: "json_object", "text".
        merged: signs that became one, in words. dropped: signs that were left out, and why.
        findings: what the linter says of the bank.
    """

    bank: SignBank
    usage: Usage
    form: str
    merged: tuple[str, ...]
    dropped: tuple[str, ...]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        bank, usage = self.bank, self.usage
        cost = "" if usage.cost is None else f", cost {usage.cost:.4f}"
        return (
            f"{bank.name}: {len(bank.signs)} signs of {len(bank.categories)} categories, {len(bank.normal_signs)} "
            f"normal ({len(self.merged)} merged, {len(self.dropped)} left out); {usage.requests} requests, "
            f"{usage.cached} answers from the cache, {usage.prompt_tokens} tokens in, {usage.completion_tokens} out, "
            f"{usage.seconds:.1f} s{cost}; answers as {self.form}; reviewed: false, have an expert read it"
        )


def generate_signs(
    categories: Sequence[str] | Mapping[str, str],
    modality: str,
    *,
    model: str,
    base_url: str | None = None,
    api_key: str | None = None,
    name: str = "generated",
    color: bool = False,
    signs_per_category: int = 6,
    normal_signs: int = 6,
    language: str = "English",
    temperature: float = 0.2,
    seed: int | None = 0,
    cache: str | Path | None = "default",
    timeout: float = 120.0,
    retries: int = 2,
    prices: tuple[float, float] | None = None,
    progress: bool = False,
) -> Generated:
    """Ask a language model for a sign bank.

    Args:
        categories: names of the anomalies, at most 100; or names to a description ("DR": "diabetic retinopathy").
        modality: what the images are, such as "frontal chest radiograph".
        model: name of the model on the server.
        base_url: address of any OpenAI-compatible server; OPENAI_BASE_URL or the hosted service when left out.
        api_key: sent to the server alone. Without base_url it may come from OPENAI_API_KEY.
        name, color: of the bank.
        signs_per_category, normal_signs: how many to ask for, 1 to 20.
        language: of the signs. The linter's rules on words are for English and are left out for others.
        temperature, seed: of the sampling, 0 to 2; a server may ignore or refuse them, which the bank records.
        cache: folder of answers; "default" is below the user's cache folder, None keeps nothing.
        timeout: seconds for one answer.
        retries: how often a lost or malformed answer is asked for again, 0 to 10.
        prices: of a million prompt tokens and a million completion tokens, in any currency.
        progress: show a bar.

    Raises:
        GenerationError: an argument is wrong, no server answers, or an answer stays unusable; names which.
        OutputError: the cache cannot be written.
    """
    from .chat import Chat, cache_folder
    from .server import Server

    named = _named(categories)
    _texts(modality=modality, model=model, name=name, language=language)
    _whole("signs_per_category", signs_per_category, 1, MAX_SIGNS)
    _whole("normal_signs", normal_signs, 1, MAX_SIGNS)
    _whole("retries", retries, 0, 10)
    if seed is not None:
        _whole("seed", seed, 0, 2**31 - 1)
    _number("temperature", temperature, 0, 2)
    _number("timeout", timeout, 1e-3, 86_400)
    for price in prices or ():
        _number("prices", price, 0, 1e9)
    folder = None if cache is None else cache_folder() if cache == "default" else Path(cache)
    start = time.monotonic()
    said: list[Said] = []
    dropped: list[str] = []
    with Server(model, base_url, api_key, temperature, seed, timeout) as server:
        chat = Chat(server, retries, folder)
        with tqdm(total=len(named) + 1, desc="signs", disable=not progress, leave=False) as bar:
            for category in named:
                prompt = category_prompt(category, named, modality, signs_per_category, language)
                check = Check(category, list(named), signs_per_category, language)
                said += chat.ask(f"category {category!r}", prompt, schema([c for c in named if c != category]), check)
                dropped += check.dropped
                bar.update()
            check = Check(None, list(named), normal_signs, language)
            prompt = normal_prompt(named, modality, normal_signs, language)
            normal = chat.ask("normal signs", prompt, schema(None), check)
            dropped += check.dropped
            bar.update()
    signs, merged = merge(said, list(named))
    kept_normal = [n for n in normal if not any(similar(n.text, sign.text) for sign in signs)]
    dropped += [f"normal: {n.text!r} is also the sign of an anomaly" for n in normal if n not in kept_normal]
    settings = {"temperature": temperature, "seed": seed}
    bank = parse_bank(
        {
            "name": name,
            "modality": modality,
            "color": color,
            "categories": list(named),
            "signs": [sign._asdict() for sign in signs],
            "normal_signs": [{"text": sign.text} for sign in kept_normal],
            "provenance": {
                "author": "sdmad_lite.generate",
                "kind": "language model",
                "model": model,
                "date": chat.latest,
                "reviewed": False,
                "prompt": category_prompt("{category}", named, modality, signs_per_category, language)
                + "\n\n"
                + normal_prompt(named, modality, normal_signs, language),
                "generation": {
                    "server": server.host,
                    "answer_form": server.form,
                    **{key: value for key, value in settings.items() if key not in server.left_out},
                    "requests": chat.all.requests,
                    "prompt_tokens": chat.all.prompt_tokens,
                    "completion_tokens": chat.all.completion_tokens,
                    "software": f"sdmad_lite {__version__}",
                },
                "note": "Not reviewed by an expert; not for clinical use.",
            },
        },
        source=f"the answers of {server.host}",
    )
    now = chat.now
    cost = prices and ((now.prompt_tokens or 0) * prices[0] + (now.completion_tokens or 0) * prices[1]) / 1e6
    usage = Usage(now.requests, now.cached, now.prompt_tokens, now.completion_tokens, time.monotonic() - start, cost)
    return Generated(bank, usage, server.form, tuple(merged), tuple(dropped), tuple(check_bank(bank)))


def _named(categories: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Names to descriptions, checked before anything is sent."""
    if isinstance(categories, str) or not categories or len(categories) > MAX_CATEGORIES:
        raise GenerationError(f"categories is {str(categories)[:60]!r}: give a list of 1 to {MAX_CATEGORIES} names")
    named = dict(categories) if isinstance(categories, Mapping) else dict.fromkeys(categories, "")
    if len(named) < len(categories):
        raise GenerationError("categories: a name stands twice; remove one")
    seen = set()
    for category, description in named.items():
        if not isinstance(category, str) or _key(category) in ("", "normal") or category != category.strip():
            raise GenerationError(f"categories: {category!r} cannot be a category; name an anomaly")
        if _key(category) in seen:
            raise GenerationError(f"categories: {category!r} stands twice but for case or spaces; remove one")
        seen.add(_key(category))
        for text in (category, description):
            if not isinstance(text, str) or len(text) > 200 or not text.isprintable():
                raise GenerationError(
                    f"categories: {str(text)[:60]!r} is no plain text of up to 200 characters; shorten it"
                )
    return named


def _texts(**arguments: str) -> None:
    for argument, value in arguments.items():
        if not isinstance(value, str) or not value.strip() or len(value) > 200 or not value.isprintable():
            raise GenerationError(f"{argument} is {str(value)[:60]!r}: give a plain text of up to 200 characters")


def _whole(argument: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise GenerationError(f"{argument} is {value!r}: give a whole number from {low} to {high}")


def _number(argument: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not (isfinite(value) and low <= value <= high):
        raise GenerationError(f"{argument} is {value!r}: give a number from {low:g} to {high:g}")
