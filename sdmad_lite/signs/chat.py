"""Questions to a language model whose answers are checked, asked for again with the reason, and kept.

`Chat.ask` is for one question: the answer comes from the cache, or from the server within a bounded number of tries.
A cache entry is a JSON file named after the hash of model, server, prompt and settings; a damaged one is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TypeVar

from ..errors import GenerationError, OutputError
from ..files import write_text
from .located import JSONProblem, decode, read
from .server import FORMS, MAX_TOKENS, AnswerProblem, Lost, Server, Tally, count

PAUSE = 0.5  # seconds before the second try, doubled for each further one
T = TypeVar("T")


def cache_folder() -> Path:
    """Where answers are kept: below XDG_CACHE_HOME, LOCALAPPDATA or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache") / "sdmad_lite" / "answers"


@dataclass
class Chat:
    """Questions to one server.

    Attributes:
        retries: how often a lost or malformed answer is asked for again.
        cache: folder of earlier answers, or None.
        now: requests and tokens of this run.
        all: requests and tokens of the answers used, earlier runs included.
        latest: date of the newest answer.
    """

    server: Server
    retries: int
    cache: Path | None
    now: Tally = field(default_factory=Tally)
    all: Tally = field(default_factory=Tally)
    latest: date = date.min

    def __post_init__(self):
        if self.cache is not None:
            try:
                self.cache.mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError) as error:
                raise OutputError(f"cache {self.cache}: cannot be made ({error}); give another, or None") from None

    def ask(self, subject: str, prompt: str, schema: dict, check: Callable[[object], T]) -> T:
        """The checked answer to a prompt.

        Args:
            subject: what is asked for, named in messages.
            schema: JSON schema of the answer.
            check: turns the parsed answer into the result, or raises AnswerProblem.

        Raises:
            GenerationError: no usable answer after `retries` more tries, or a refusal that asking again cannot mend.
            OutputError: the cache cannot be written.
        """
        entry, request = self._place(prompt, schema)
        kept = self._kept(entry, request, check) if entry else None
        if kept is not None:
            return kept[0]
        spent, told, reason = Tally(), "", ""
        for attempt in range(self.retries + 1):
            try:
                content = self._complete(prompt + told, schema, spent)
                value = check(found_json(content))
            except AnswerProblem as problem:
                reason = self.server.clean(problem, 400)
                told = f"\n\nYour last answer could not be used: {reason}. Answer again, with JSON only."
            except Lost as lost:
                reason = self.server.clean(lost)
                if attempt < self.retries:
                    time.sleep(PAUSE * 2**attempt * random.uniform(0.75, 1) if lost.wait is None else lost.wait)
            except GenerationError as error:
                raise GenerationError(f"{subject}: {error}") from None
            else:
                self._used(spent, date.today())
                if entry:
                    self._keep(entry, request, content, spent)
                return value
        raise GenerationError(
            f"{subject}: {self.server.host} with the model {self.server.model!r} gave no usable answer in "
            f"{self.retries + 1} tries (the last: {reason}); raise timeout or retries, or take another model. "
            "Nothing was written"
        )

    def _complete(self, prompt: str, schema: dict, spent: Tally) -> str:
        one = Tally()
        try:
            return self.server.complete(prompt, schema, one)
        finally:
            spent.add(one)
            self.now.add(one)

    def _used(self, spent: Tally, when: date) -> None:
        self.all.add(spent)
        self.latest = max(self.latest, when)

    def _place(self, prompt: str, schema: dict) -> tuple[Path | None, dict]:
        server = self.server
        request = {"server": server.host, "model": server.model, "prompt": prompt, "schema": schema}
        request |= {"temperature": server.temperature, "seed": server.seed, "max_tokens": MAX_TOKENS}
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return self.cache and self.cache / f"{name}.json", request

    def _keep(self, entry: Path, request: dict, content: str, spent: Tally) -> None:
        numbers = [spent.requests, spent.prompt_tokens, spent.completion_tokens]
        how = {"form": self.server.form, "left_out": sorted(self.server.left_out), "date": date.today().isoformat()}
        write_text(
            entry, json.dumps({"request": request, "content": content, "spent": numbers, **how}, indent=1) + "\n"
        )

    def _kept(self, entry: Path, request: dict, check: Callable[[object], T]) -> tuple[T] | None:
        """The answer of an earlier run; None where there is none that can be used."""
        try:
            kept = decode(read(entry).decode("utf-8"))
            if kept["request"] != request:
                return None
            value, when, form = check(found_json(kept["content"])), date.fromisoformat(kept["date"]), kept["form"]
            requests, *tokens = map(count, kept["spent"])
            spent, left_out, step = Tally(requests or 0, 0, *tokens), set(kept["left_out"]), FORMS.index(form)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None  # missing or damaged: it is asked for again, and replaced
        self.now.add(Tally(cached=1))
        self._used(spent, when)
        self.server.form = FORMS[max(step, FORMS.index(self.server.form))]
        self.server.left_out |= left_out
        return (value,)


def found_json(content: str) -> object:
    """The JSON object of an answer: all of it, or what stands in a code fence or between the outer braces.

    Raises:
        AnswerProblem: there is none.
    """
    text = re.sub(r"\A\s*<think>.*?</think>", "", content, flags=re.DOTALL).strip()
    fences = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)[:5]
    outer = text[text.find("{") : text.rfind("}") + 1] if "{" in text else ""
    problem = "it holds no JSON object"
    for candidate in (text, *fences, outer):
        try:
            if isinstance(value := decode(candidate), dict):
                return value
        except JSONProblem as error:
            problem = f"it is no valid JSON ({error})" if "{" in candidate else problem
    raise AnswerProblem(problem)
