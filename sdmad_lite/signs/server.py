"""An OpenAI-compatible server: one prompt in, the text of one answer out, within limits of size and time.

The `openai` client speaks the protocol (hosted services, vLLM, Ollama, llama.cpp). Here is what it leaves open:
settings that a server refuses are left out, a response is read only up to a size and a time, and every failure is
either worth another try (`Lost`) or told to the user by name. The key is sent to the server and shown nowhere.
"""

from __future__ import annotations

import os
import re
import time
import unicodedata
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx2
import openai

from ..errors import GenerationError
from .located import JSONProblem, decode

FORMS = ("json_schema", "json_object", "text")
HOSTED = "https://api.openai.com/v1"
MAX_ANSWER = 1_000_000  # bytes
MAX_TOKENS = 2000  # of one answer
MAX_WAIT = 30.0  # seconds, whatever Retry-After says

NO_SERVER = (
    "start a local one: `ollama serve` and `ollama pull MODEL` (base_url http://localhost:11434/v1), "
    "`llama-server -m MODEL.gguf --port 8080` (http://localhost:8080/v1), "
    "or `vllm serve MODEL` (http://localhost:8000/v1). The shipped banks need no server: see shipped_banks()"
)


class AnswerProblem(ValueError):
    """What is wrong with an answer, in words that the model can act on."""


class Lost(Exception):
    """An answer did not arrive whole; asking again may help, after `wait` seconds where the server says so."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


@dataclass
class Tally:
    """What answers took: requests, answers from the cache, and tokens, where the server tells them."""

    requests: int = 0
    cached: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def add(self, other: Tally) -> None:
        self.requests += other.requests
        self.cached += other.cached
        for name in ("prompt_tokens", "completion_tokens"):
            if (more := getattr(other, name)) is not None:
                setattr(self, name, (getattr(self, name) or 0) + more)


@dataclass
class Server:
    """A server, a model and the settings it takes; use it in a `with` block.

    Attributes:
        timeout: seconds for one answer.
        form: what holds an answer in form, a step down from "json_schema" where the server refused.
        left_out: settings that the server refused.
        host: host and port.

    Raises:
        GenerationError: from every method, where asking again cannot help.
    """

    model: str
    base_url: str | None
    api_key: str | None
    temperature: float
    seed: int | None
    timeout: float
    form: str = FORMS[0]
    left_out: set[str] = field(default_factory=set)
    _breaks: int = field(default=0, init=False)

    def __enter__(self) -> Server:
        given = self.base_url or os.environ.get("OPENAI_BASE_URL")
        try:
            address = urlsplit(given or HOSTED)
            host, port = address.hostname, address.port
        except ValueError:
            host = None
        if not host or address.scheme not in ("http", "https") or "@" in address.netloc or address.query:
            raise GenerationError(
                "base_url: it is no address of a server; give http:// or https://, host and path, "
                "such as http://localhost:11434/v1, and the key in api_key"
            )
        self.host = f"{host}:{port}" if port else host
        # a key from the environment goes only where the environment, or the default, says
        self._secret = self.api_key or ("" if self.base_url else os.environ.get("OPENAI_API_KEY", ""))
        if not self._secret and not given:
            raise GenerationError(
                f"{self.host}: a key is needed; set OPENAI_API_KEY, or give the base_url of another server: {NO_SERVER}"
            )
        self._http = openai.DefaultHttpxClient(follow_redirects=False, event_hooks={"response": [self._bound]})
        self._client = openai.OpenAI(
            base_url=given or HOSTED,
            api_key=self._secret or "none",
            timeout=self.timeout,
            max_retries=0,
            http_client=self._http,
            default_headers={"Accept-Encoding": "identity"},
        )
        return self

    def __exit__(self, *_) -> None:
        self._http.close()

    def complete(self, prompt: str, schema: dict, tally: Tally) -> str:
        """The text of one answer; requests and tokens are added to `tally`.

        Raises:
            Lost: no whole answer arrived.
            AnswerProblem: the answer is empty, cut off or a refusal of the model.
        """
        while True:  # at most once for each form and setting that can be left out
            self._deadline = time.monotonic() + self.timeout
            tally.add(Tally(requests=1))
            try:
                response = self._client.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=[{"role": "user", "content": prompt}],
                    stream=False,
                    **self._settings(schema),
                )
                return self._content(response.content, tally)
            except openai.APIStatusError as error:
                if not self._give_way(error):
                    raise self._refusal(error) from None
            except openai.APIConnectionError as error:
                raise self._failure(error) from None
            except (UnicodeEncodeError, httpx2.InvalidURL) as error:
                raise GenerationError(f"{self.host}: cannot be asked ({self.clean(error)}); correct it") from None

    def _settings(self, schema: dict) -> dict:
        limit = "max_completion_tokens" if "max_tokens" in self.left_out else "max_tokens"
        settings = {"temperature": self.temperature, "seed": self.seed, limit: MAX_TOKENS}
        settings = {k: v for k, v in settings.items() if v is not None and k not in self.left_out}
        if self.form == "json_schema":
            form = {"name": "signs", "strict": True, "schema": schema}
            settings["response_format"] = {"type": "json_schema", "json_schema": form}
        elif self.form == "json_object":
            settings["response_format"] = {"type": "json_object"}
        return settings

    def _give_way(self, error: openai.APIStatusError) -> bool:
        """Leave out what the server refuses: a setting that it names, else the form of the answer."""
        if error.status_code not in (400, 415, 422, 501):
            return False
        message = str(error.message).lower()
        for name in ("max_tokens", "temperature", "seed", "max_completion_tokens"):
            if name in message and name not in self.left_out:
                self.left_out.add(name)
                return True
        if self.form == FORMS[-1]:
            return False
        self.form = FORMS[FORMS.index(self.form) + 1]
        return True

    def _broken(self, status: int) -> None:
        """Some servers break (500) on a form of the answer that they do not know: the second time, ask for text."""
        self._breaks = self._breaks + 1 if status == 500 else 0
        if self._breaks == 2:
            self.form = FORMS[-1]

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        status, says = error.status_code, self.clean(re.sub(r"^Error code: \d+ - ", "", str(error.message)))
        self._broken(status)
        if status in (408, 409, 425, 429) or status >= 500:
            return Lost(f"status {status}: {says}", _retry_after(error.response.headers.get("retry-after")))
        todo = {
            401: "give a valid api_key",
            403: "give an api_key that may use this model",
            404: "check model and base_url (it often ends in /v1)",
        }.get(status, "check model and base_url")
        if 300 <= status < 400:
            todo = "give the address that it points to as base_url"
        return GenerationError(f"{self.host} refuses (status {status}: {says}); {todo}")

    def _failure(self, error: openai.APIConnectionError) -> Exception:
        cause = error.__cause__
        if isinstance(cause, Lost):
            return cause
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol):
            return GenerationError(f"no server answers at {self.host} ({self.clean(cause)}); {NO_SERVER}")
        if isinstance(error, openai.APITimeoutError):
            return Lost(f"no answer within {self.timeout:g} seconds")
        if isinstance(cause, UnicodeError | httpx2.LocalProtocolError):
            return GenerationError(
                f"{self.host}: the key or the address holds characters that cannot be sent; correct it"
            )
        return Lost(f"the connection broke ({self.clean(cause or error)})")

    def _bound(self, response: httpx2.Response) -> None:
        """Hook on each response: its body is read only so far, and never unpacked."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Lost("the answer is compressed, which was not asked for")
        response.stream = _Bounded(response.stream, self._deadline, self.timeout)

    def _content(self, body: bytes, tally: Tally) -> str:
        try:
            data = decode(body.decode("utf-8"))
            choice = data["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            content, refusal = message.get("content"), message.get("refusal")
        except (JSONProblem, UnicodeDecodeError, LookupError, TypeError, AttributeError) as error:
            raise Lost(f"the response is not of the protocol ({type(error).__name__}: {error})") from None
        if isinstance(content, list):  # in parts
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "".join(part for part in parts if isinstance(part, str))
        self._breaks = 0
        if isinstance(usage := data.get("usage"), dict):
            tally.add(Tally(0, 0, count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))))
        if len(self._secret) >= 8 and self._secret in f"{content} {refusal}":
            raise Lost("the answer repeats the key")
        if finish == "length":
            raise AnswerProblem("it was cut off because it was too long; write fewer and shorter signs")
        if refusal or finish == "content_filter":
            raise AnswerProblem(f"the model declined ({refusal or 'content filter'})")
        if not isinstance(content, str) or not content.strip():
            raise AnswerProblem("it was empty")
        return str(content)

    def clean(self, message: object, most: int = 200) -> str:
        """A message from outside, fit to be shown: one line, short, without the key."""
        text = str(message)
        for secret in {self._secret, os.environ.get("OPENAI_API_KEY", "")}:
            text = text.replace(secret, "***") if len(secret) >= 4 else text
        text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text[: 10 * most])
        text = " ".join(text.split())
        return text if len(text) <= most else f"{text[:most]}..."


class _Bounded(httpx2.SyncByteStream):
    def __init__(self, stream, deadline: float, timeout: float):
        self.stream, self.deadline, self.timeout = stream, deadline, timeout

    def __iter__(self):
        size = 0
        for chunk in self.stream:
            size += len(chunk)
            if size > MAX_ANSWER:
                raise Lost(f"the answer has more than {MAX_ANSWER // 1000} kB")
            if time.monotonic() > self.deadline:
                raise Lost(f"no whole answer within {self.timeout:g} seconds")
            yield chunk

    def close(self):
        self.stream.close()


def count(value: object) -> int | None:
    """A number of tokens or requests, where it is a possible one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, at most 30; None where it says nothing."""
    try:
        seconds = float(value or "nan")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_WAIT) if seconds == seconds else None
