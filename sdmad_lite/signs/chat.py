"""Questions to a language model on any OpenAI-compatible server (hosted services, vLLM, Ollama, llama.cpp).

The `openai` client speaks the protocol and asks again where a server is busy. What it leaves open stands here: a server
that knows no JSON schema is asked for less, a response is read only up to a size and a time, and an answer is checked,
asked for again with the reason, and kept on disk. The key is sent to the server and shown nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AliasPath, BaseModel, Field, ValidationError

from ..errors import GenerationError, needs
from ..files import write_text
from .bank import strict_json
from .generate import PROMPTS, BadAnswer, Settings

openai, httpx2 = needs("openai", "llm"), needs("httpx2", "llm")  # the client, and what it sends by
FORMS = ("json_schema", "json_object", "text")
MAX_ANSWER, MAX_TOKENS = 1_000_000, 2000  # bytes of a response, tokens of an answer
SPENT = ("requests", "prompt_tokens", "completion_tokens")
T = TypeVar("T")


def _of_choice(*path: str) -> Any:
    return Field(None, validation_alias=AliasPath("choices", 0, *path))


class _Response(BaseModel):
    """What is read of a response; servers leave out much of the rest."""

    content: str | list[dict[str, Any]] | None = _of_choice("message", "content")
    refusal: str | None = _of_choice("message", "refusal")
    finish: str | None = _of_choice("finish_reason")
    prompt_tokens: int | None = Field(None, validation_alias=AliasPath("usage", "prompt_tokens"))
    completion_tokens: int | None = Field(None, validation_alias=AliasPath("usage", "completion_tokens"))


class Answer(BaseModel):
    """A good answer, as it is kept in a file named after the hash of its request."""

    request: dict[str, Any]
    content: str
    form: str = Field(pattern="^(json_schema|json_object|text)$")
    date: date
    spent: dict[str, int]  # names of SPENT; tokens only where the server counts them
    cached: bool = Field(default=False, exclude=True)


class Chat:
    """Questions to one server; `host` is its name and port, `form` what it takes of FORMS, `answers` those used."""

    def __init__(self, settings: Settings, cache: Path | None):
        self.settings, self.cache, self.form = settings, cache, FORMS[0]
        self.answers: list[Answer] = []
        self.host = urlsplit(str(settings.base_url)).netloc
        self.client = openai.OpenAI(
            base_url=str(settings.base_url),
            api_key=settings.api_key or "none",
            timeout=settings.timeout,
            max_retries=settings.retries,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )

    def spent(self, of: Iterable[bool] = (True, False)) -> dict[str, Any]:
        """SPENT for the answers that came from the cache, for those that did not, or for all."""
        total = sum((Counter(answer.spent) for answer in self.answers if answer.cached in of), Counter(requests=0))
        return {name: total.get(name) for name in SPENT} | {"requests": total["requests"]}

    def ask(self, subject: str, prompt: str, schema: dict, check: Callable[[object], T]) -> T:
        """The checked answer to a prompt, from the cache or from the server.

        Args:
            subject: what is asked for, named in messages.
            schema: JSON schema of the answer.
            check: turns the parsed answer into the result, or raises BadAnswer.

        Raises:
            GenerationError: no answer, or none that passes the check.
        """
        chosen = self.settings
        request = {"server": self.host, "prompt": prompt, "schema": schema, "max_tokens": MAX_TOKENS}
        request |= chosen.model_dump(include={"model", "temperature", "seed"})
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        place = self.cache and self.cache / f"{name}.json"
        if place and (answer := _kept(place, request, check)):
            self.form = FORMS[max(FORMS.index(answer.form), FORMS.index(self.form))]
            self.answers.append(answer)
            return check(found_json(answer.content))
        spent: Counter[str] = Counter()
        question, reason, todo = prompt, "", "raise timeout or retries, or take another model"
        for _ in range(chosen.retries + 1):
            try:
                content = self._complete(question, schema, spent)
                value = check(found_json(content))
            except BadAnswer as problem:
                reason = self._clean(problem)
                question = f"{prompt}\n\nYour last answer could not be used: {reason}. Answer again, with JSON only."
            except openai.APIStatusError as error:  # the client has asked again where that may help
                reason = self._clean(error.message)
                if error.status_code < 500 and error.status_code != 429:
                    todo = "check api_key, model and base_url (it often ends in /v1)"
                break
            except openai.APITimeoutError:
                reason = f"it was not whole within {chosen.timeout:g} seconds"
                break
            except openai.APIConnectionError as error:
                reason, todo = f"no answer: {self._clean(error.__cause__ or error)}", PROMPTS["no_server"]
                break
            else:
                answer = Answer(request=request, content=content, form=self.form, date=date.today(), spent=spent)
                self.answers.append(answer)
                if place:
                    write_text(place, answer.model_dump_json(indent=1) + "\n")
                return value
        what = f"{self.host} with the model {chosen.model!r} gave no usable answer ({reason})"
        raise GenerationError(f"{subject}: {what}; {todo}. Nothing was written")

    def _complete(self, question: str, schema: dict, spent: Counter[str]) -> str:
        """The text of one answer; a server that refuses a form is asked for less, and at last without any option."""
        while True:
            options: dict[str, Any] = {
                "model": self.settings.model,
                "messages": [{"role": "user", "content": question}],
            }
            if self.form != "text":
                settings = {"temperature": self.settings.temperature, "seed": self.settings.seed}
                options |= {name: value for name, value in settings.items() if value is not None}
                options |= {"max_tokens": MAX_TOKENS, "response_format": {"type": self.form}}
            if self.form == "json_schema":
                options["response_format"]["json_schema"] = {"name": "signs", "strict": True, "schema": schema}
            try:
                return self._text(self._body(options, spent), spent)
            except openai.APIStatusError as error:
                spent["requests"] += 1
                # some servers break (500) on a form that they do not know
                if error.status_code not in (400, 415, 422, 500, 501) or self.form == "text":
                    raise
                self.form = FORMS[FORMS.index(self.form) + 1]

    def _body(self, options: dict, spent: Counter[str]) -> bytes:
        """The bytes of one response, read only up to a size and a time."""
        body = bytearray()
        with self.client.chat.completions.with_streaming_response.create(**options) as response:
            spent["requests"] += 1 + response.retries_taken
            deadline = time.monotonic() + self.settings.timeout
            try:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise BadAnswer(f"it has more than {MAX_ANSWER // 1000} kB")
                    if time.monotonic() > deadline:
                        raise BadAnswer(f"it was not whole within {self.settings.timeout:g} seconds")
            except httpx2.TransportError as error:
                raise BadAnswer(f"the connection broke ({error})") from None
        return bytes(body)

    def _text(self, body: bytes, spent: Counter[str]) -> str:
        """What the model says in a response."""
        try:
            said = _Response.model_validate_json(body)
        except ValidationError as error:
            raise BadAnswer(f"the response is not of the protocol ({error.errors()[0]['msg']})") from None
        spent.update(said.model_dump(include={*SPENT}, exclude_none=True))
        parts = said.content if isinstance(said.content, list) else [{"text": said.content or ""}]
        text = "".join(str(part.get("text", "")) for part in parts)
        if len(self.settings.api_key) >= 8 and self.settings.api_key in f"{text} {said.refusal}":
            raise BadAnswer("it repeats the key")
        if said.finish == "length":
            raise BadAnswer("it was cut off because it was too long; write fewer and shorter signs")
        if said.refusal or said.finish == "content_filter":
            raise BadAnswer(f"the model declined ({said.refusal or 'content filter'})")
        return text

    def _clean(self, message: object) -> str:
        """A message from outside, fit to be shown: one line, short, without the key."""
        text = str(message)
        for secret in {self.settings.api_key, os.environ.get("OPENAI_API_KEY", "")}:
            text = text.replace(secret, "***") if len(secret) >= 4 else text
        text = " ".join("".join(c if c.isprintable() else " " for c in text[:4000]).split())
        return text if len(text) <= 400 else f"{text[:400]}..."


def _kept(place: Path, request: dict, check: Callable[[object], object]) -> Answer | None:
    """The answer of an earlier run; None where there is none, or one that is damaged: it is asked for again."""
    try:
        answer = Answer.model_validate_json(place.read_bytes())
        check(found_json(answer.content))
    except (OSError, ValueError):
        return None
    return answer.model_copy(update={"cached": True}) if answer.request == request else None


def found_json(content: str) -> object:
    """The JSON object of an answer, alone or in other text, after what the model thought aloud."""
    text = re.sub(r"\A\s*<think>.*?</think>", "", content, flags=re.DOTALL)
    if "{" not in text:
        raise BadAnswer("it holds no JSON object")
    try:
        return strict_json(text[text.index("{") : text.rfind("}") + 1])
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"it is no valid JSON ({error})") from None
