"""Questions to a language model on any OpenAI-compatible server (hosted services, vLLM, Ollama, llama.cpp).

The `openai` client speaks the protocol and asks again where a server is busy. Here a server that knows no JSON schema
is asked for less, a response is read only up to a size and a time, and an answer is checked, asked for again with the
reason, and kept on disk. The key is sent to the server and shown nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sdmad_lite.errors import GenerationError, needs
from sdmad_lite.files import write_text
from sdmad_lite.signs.rules import short

from .answers import CUT, PROMPTS, BadAnswer, Response
from .generate import Settings

openai, httpx2 = needs("openai", "llm"), needs("httpx2", "llm")  # the client, and what it sends by
Form = Literal["json_schema", "json_object", "text"]
FORMS: tuple[Form, ...] = get_args(Form)
# servers on this machine, which are never asked through a proxy
LOCAL = re.compile(r"(?:.+\.)?localhost\.?|127\.[\d.]+|0\.0\.0\.0|\[(?:::1?|::ffff:7f[\da-f]{2}:[\da-f]+)\]")
MAX_ANSWER, MAX_TOKENS = 1_000_000, 2000  # bytes of a response, tokens of an answer
T = TypeVar("T")


class Answer(BaseModel):
    """A good answer, as it is kept in a file named after the hash of its question."""

    content: str
    form: Form
    date: date


class Chat:
    """Questions to one server; `host` is its name and port, `form` what it takes of FORMS, `date` of the last answer.

    `spent` counts requests, answers from the cache, and the tokens that the server tells.
    """

    def __init__(self, settings: Settings, cache: Path | None):
        self.settings, self.cache, self.form, self.date = settings, cache, FORMS[0], date.min
        self.spent, self.tokens = Counter(requests=0, cached=0), MAX_TOKENS
        self.host = f"{settings.base_url.host}:{settings.base_url.port}"
        self.client = openai.OpenAI(
            base_url=str(settings.base_url),
            api_key=settings.api_key or "none",
            timeout=settings.timeout,
            max_retries=settings.retries,
            http_client=_http(settings.base_url.host or ""),
        )

    def ask(self, subject: str, prompt: str, categories: list[str], check: Callable[[str], T]) -> T:
        """What `check` makes of the answer to a prompt, from the cache or the server; it refuses one by BadAnswer.

        Raises GenerationError: no answer, or none that passes the check; names `subject`.
        """
        request = self.settings.model_dump(include={"model", "temperature", "seed"})
        request |= {"server": self.host, "prompt": prompt, "categories": categories, "max_tokens": MAX_TOKENS}
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        place = self.cache / f"{name}.json" if self.cache else None
        try:
            answer = Answer.model_validate_json(place.read_bytes() if place else b"")
            value = check(answer.content)
            self.spent["cached"] += 1
        except (OSError, ValueError):  # there is none, or a damaged one
            answer, value = self._ask(subject, prompt, categories, check)
            if place:
                write_text(place, answer.model_dump_json(indent=1) + "\n")
        self.form, self.date = answer.form, max(answer.date, self.date)
        return value

    def _ask(self, subject: str, prompt: str, categories: list[str], check: Callable) -> tuple[Answer, Any]:
        """A new answer; one that fails the check is asked for again with the reason, a form that is refused is not."""
        question, tries = prompt, 0
        while tries <= self.settings.retries:
            try:
                content = self._said(question, categories)
                return Answer(content=content, form=self.form, date=date.today()), check(content)
            except BadAnswer as problem:
                reason, todo, tries = str(problem), "poor", tries + 1
                question = prompt + PROMPTS["again"].format(reason=reason)
            except openai.APIError as error:  # the client has asked again where that may help
                # some servers break (500) on a form that they do not know
                if self.form != "text" and getattr(error, "status_code", 0) in (400, 415, 422, 500, 501):
                    self.form = FORMS[FORMS.index(self.form) + 1]
                    continue
                reason, todo = short(self._clean(error.__cause__ or error), 400), "refused"
                if _named("proxy") and not LOCAL.fullmatch(self.settings.base_url.host or ""):
                    reason += f", with {_named('set')} set"
                if type(error) is openai.APIConnectionError:
                    todo = "no_server"
                elif re.search(PROMPTS["overflow"], reason, re.IGNORECASE):
                    todo = "too_long"
                break
        what = f"{self.host} with the model {self.settings.model!r} gave no usable answer ({reason})"
        raise GenerationError(f"{subject}: {what}; {PROMPTS[todo]}. Nothing was written") from None

    def _said(self, question: str, categories: list[str]) -> str:
        """What the model says in one response, which is read only up to a size and a time."""
        create, body = self.client.chat.completions.with_streaming_response.create, bytearray()
        asked: dict[str, Any] = {"model": self.settings.model, "messages": [{"role": "user", "content": question}]}
        if self.form != "text":  # then without any option: servers differ in what they know
            asked |= self.settings.model_dump(include={"temperature", "seed"}, exclude_none=True)
            asked |= {"max_tokens": self.tokens, "response_format": {"type": self.form}}
        if self.form == "json_schema":
            schema = json.loads(PROMPTS["schema"].replace("CATEGORIES", json.dumps(categories)))
            asked["response_format"]["json_schema"] = {"name": "signs", "strict": True, "schema": schema}
        self.spent["requests"] += 1
        try:
            with create(**asked) as response:
                self.spent["requests"] += response.retries_taken
                deadline = time.monotonic() + self.settings.timeout
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER or time.monotonic() > deadline:
                        raise BadAnswer(f"it was not whole within 1000 kB and {self.settings.timeout:g} seconds")
            said = Response.model_validate_json(bytes(body))
        except (httpx2.RequestError, ValidationError):
            raise BadAnswer("the response was cut off, or is not of the protocol") from None
        for name in ("prompt_tokens", "completion_tokens"):
            with suppress(TypeError):  # what a server tells of itself is no number
                self.spent[name] += said.usage.get(name, 0) if isinstance(said.usage, dict) else 0
        if problem := said.problem():
            raise openai.APIError(problem, response.http_request, body=None)
        if str(said.finish).lower() in CUT:  # reasoning may have taken them
            self.tokens *= 4
        return self._clean(said.text())

    def _clean(self, text: object) -> str:
        """A text from outside without the key."""
        key = self.settings.api_key
        return str(text).replace(key, "***") if len(key) >= 4 else str(text)


def _named(kind: str) -> str:
    """The variables of the environment of a kind that are set: "proxy", "set", "socks" or "certificates"."""
    return ", ".join(
        name for name, value in os.environ.items() if value and name.upper() in PROMPTS["environment"][kind]
    )


def _http(host: str) -> Any:
    """What the requests are sent by."""
    try:
        return openai.DefaultHttpxClient(follow_redirects=False, trust_env=not LOCAL.fullmatch(host))
    except Exception as error:  # of many kinds: the client reads proxies and certificates from the environment
        kind = "socks" if isinstance(error, ImportError) else "certificates" if isinstance(error, OSError) else "proxy"
        raise GenerationError(f"{host}: {_named(kind)} {PROMPTS[kind]}") from None
