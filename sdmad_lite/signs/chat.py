"""Questions to a language model on any OpenAI-compatible server (hosted services, vLLM, Ollama, llama.cpp).

The `openai` client speaks the protocol and asks again where a server is busy. What it leaves open stands here: a server
that knows no JSON schema is asked for less, a response is read only up to a size and a time, and an answer is checked,
asked for again with the reason, and kept on disk. The key is sent to the server and shown nowhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import AliasPath, BaseModel, Field, ValidationError

from ..errors import GenerationError, needs
from ..files import write_text
from .bank import short, strict_json
from .generate import PROMPTS, BadAnswer, Settings

openai, httpx2 = needs("openai", "llm"), needs("httpx2", "llm")  # the client, and what it sends by
Form = Literal["json_schema", "json_object", "text"]
FORMS: tuple[Form, ...] = get_args(Form)
MAX_ANSWER, MAX_TOKENS = 1_000_000, 2000  # bytes of a response, tokens of an answer
T = TypeVar("T")


def _at(first: str, *path: str | int) -> Any:
    return Field(None, validation_alias=AliasPath(first, *path))


class _Response(BaseModel):
    """What is read of a response; servers leave out much of the rest."""

    content: str | None = _at("choices", 0, "message", "content")
    refusal: str | None = _at("choices", 0, "message", "refusal")
    finish: str | None = _at("choices", 0, "finish_reason")
    prompt_tokens: int | None = _at("usage", "prompt_tokens")
    completion_tokens: int | None = _at("usage", "completion_tokens")


class Answer(BaseModel):
    """A good answer, as it is kept in a file named after the hash of its question."""

    content: str
    form: Form
    date: date


class Chat:
    """Questions to one server; `host` is its name and port, `form` what it takes of FORMS, `date` of the last answer.

    `spent` counts the requests, and the tokens that the server tells; `cached` the answers from the cache.
    """

    def __init__(self, settings: Settings, cache: Path | None):
        self.settings, self.cache, self.form, self.date = settings, cache, FORMS[0], date.min
        self.spent, self.cached = Counter[str](), 0
        self.host = f"{settings.base_url.host}:{settings.base_url.port}"
        self.client = openai.OpenAI(
            base_url=str(settings.base_url),
            api_key=settings.api_key or "none",
            timeout=settings.timeout,
            max_retries=settings.retries,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )

    def ask(self, subject: str, prompt: str, categories: list[str], check: Callable[[object], T]) -> T:
        """What `check` makes of the answer to a prompt, from the cache or the server; it refuses one by BadAnswer.

        Raises GenerationError: no answer, or none that passes the check; names `subject`.
        """
        request = self.settings.model_dump(include={"model", "temperature", "seed"})
        request |= {"server": self.host, "prompt": prompt, "categories": categories, "max_tokens": MAX_TOKENS}
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        place = self.cache / f"{name}.json" if self.cache else None
        try:
            answer = Answer.model_validate_json(place.read_bytes() if place else b"")
            value = check(found_json(answer.content))
            self.cached += 1
        except (OSError, ValueError):  # there is none, or a damaged one
            answer, value = self._ask(subject, prompt, categories, check)
            if place:
                write_text(place, answer.model_dump_json(indent=1) + "\n")
        self.form, self.date = answer.form, max(answer.date, self.date)
        return value

    def _ask(self, subject: str, prompt: str, categories: list[str], check: Callable) -> tuple[Answer, Any]:
        """A new answer; one that fails the check is asked for again with the reason."""
        question, reason, todo = prompt, "", PROMPTS["poor"]
        for _ in range(self.settings.retries + 1):
            try:
                content = self._complete(question, categories)
                value = check(found_json(content))
                return Answer(content=content, form=self.form, date=date.today()), value
            except BadAnswer as problem:
                reason = str(problem)
                question = prompt + PROMPTS["again"].format(reason=reason)
            except openai.APIError as error:  # the client has asked again where that may help
                reason = short(self._clean(error.__cause__ or error), 400)
                todo = PROMPTS["no_server" if type(error) is openai.APIConnectionError else "refused"]
                break
        what = f"{self.host} with the model {self.settings.model!r} gave no usable answer ({reason})"
        raise GenerationError(f"{subject}: {what}; {todo}. Nothing was written") from None

    def _complete(self, question: str, categories: list[str]) -> str:
        """The text of one answer; a server that refuses a form is asked for less, and at last without any option."""
        while True:
            kind: dict[str, Any] = {"type": self.form}
            if self.form == "json_schema":
                schema = json.loads(PROMPTS["schema"].replace("CATEGORIES", json.dumps(categories)))
                kind["json_schema"] = {"name": "signs", "strict": True, "schema": schema}
            options = self.settings.model_dump(include={"temperature", "seed"}, exclude_none=True)
            options |= {"max_tokens": MAX_TOKENS, "response_format": kind}
            try:
                return self._said(question, {} if self.form == "text" else options)
            except openai.APIStatusError as error:
                self.spent["requests"] += 1
                # some servers break (500) on a form that they do not know
                if error.status_code not in (400, 415, 422, 500, 501) or self.form == "text":
                    raise
                self.form = FORMS[FORMS.index(self.form) + 1]

    def _said(self, question: str, options: dict) -> str:
        """What the model says in one response, which is read only up to a size and a time."""
        create, body = self.client.chat.completions.with_streaming_response.create, bytearray()
        options |= {"model": self.settings.model, "messages": [{"role": "user", "content": question}]}
        try:
            with create(**options) as response:
                self.spent["requests"] += 1 + response.retries_taken
                deadline = time.monotonic() + self.settings.timeout
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER or time.monotonic() > deadline:
                        raise BadAnswer(f"it was not whole within 1000 kB and {self.settings.timeout:g} seconds")
            said = _Response.model_validate_json(bytes(body))
        except (httpx2.RequestError, ValidationError):
            raise BadAnswer("the response was cut off, or is not of the protocol") from None
        self.spent.update(said.model_dump(include={"prompt_tokens", "completion_tokens"}, exclude_none=True))
        if said.finish == "length":
            raise BadAnswer("it was cut off because it was too long; write fewer and shorter signs")
        if said.refusal:
            raise BadAnswer(f"the model declined ({short(self._clean(said.refusal), 400)})")
        return self._clean(said.content or "")

    def _clean(self, text: object) -> str:
        """A text from outside without the key."""
        key = self.settings.api_key
        return str(text).replace(key, "***") if len(key) >= 4 else str(text)


def found_json(content: str) -> object:
    """The JSON object of an answer, alone or in other text, after what the model thought aloud."""
    text = re.sub(r"\A\s*<think>.*?</think>", "", content, flags=re.DOTALL)
    if "{" not in text:
        raise BadAnswer("it holds no JSON object")
    try:
        return strict_json(text[text.index("{") : text.rfind("}") + 1])
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"it is no valid JSON ({error})") from None
