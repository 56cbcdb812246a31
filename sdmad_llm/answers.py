"""What a language model answers, read as meant or refused by name, never by halves.

Some models think aloud first or show a draft, and some write JSON that is none: what stands last counts, and what the
package json_repair mends has to hold every letter of the answer.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel, Field

from sdmad_lite.data.names import NORMAL
from sdmad_lite.errors import needs
from sdmad_lite.files import once
from sdmad_lite.signs.rules import key, short

PROMPTS = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
ENDS, BEGINS, STOPS = (re.compile("|".join(marks), re.S | re.I | re.M) for marks in PROMPTS["marks"].values())
COMMENTS = re.compile(r"(?<!:)//[^\n]*|/\*.*?\*/|^\s*#[^\n]*", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^\s*(?:```|~~~).*$", re.MULTILINE)
FINAL = re.compile(r"\b(?:final|answer|revis|correct|improv|antwort|endg|répons|respuesta|risposta|resposta|antwoord)")
SIGN = {"text", "sign"}  # what a sign's text stands under
JSON = re.compile(r"""[{\[]\s*["'“{\[/#]|\{\s*\w+\s*:""")  # how a value begins that is meant as JSON
CUT = ("length", "max_tokens", "model_length")  # how servers say that an answer was too long
MAX_CHARACTERS = 50_000  # of an answer after the reasoning


class BadAnswer(ValueError):
    """What is wrong with an answer, in words that the model can act on."""


def _at(*paths: str) -> Any:
    places = (
        AliasPath("choices", 0, *(int(step) if step.isdigit() else step for step in path.split("."))) for path in paths
    )
    return Field(None, validation_alias=AliasChoices(*places))


class Response(BaseModel):
    """What is read of a response of the protocol; servers leave out much of it, or fill it with null."""

    error: Any = None
    choice_error: Any = _at("error")
    told: Any = Field(None, validation_alias=AliasChoices("detail", "message", "msg", "errors", "base_resp"))
    finish: Any = _at("finish_reason")
    refusal: Any = _at("message.refusal")
    content: Any = _at("message.content", "text")
    tool: Any = _at("message.tool_calls.0.function.arguments", "message.function_call.arguments")
    reasoning: Any = _at("message.reasoning_content", "message.reasoning")
    usage: Any = None

    def problem(self) -> str | None:
        """An error under the status of a good answer, in the words of the server."""
        broken = self.finish == "error" and (self.content or "the model stopped with an error")
        error = self.error or self.choice_error or broken or (None if self.content or self.tool else self.told)
        return str((error.get("message") if isinstance(error, dict) else None) or error) if error else None

    def text(self) -> str:
        """What the model says. Raises BadAnswer: nothing, or not all of it."""
        if str(self.finish).lower() in CUT:
            raise BadAnswer("it was cut off because it was too long; write fewer and shorter signs")
        if self.refusal or self.finish == "content_filter":
            raise BadAnswer(f"the model declined ({short(self.refusal or 'a filter held the answer back', 400)})")
        parts = self.content if isinstance(self.content, list) else []
        parts = [part for part in parts if isinstance(part, dict) and part.get("type") not in ("reasoning", "thinking")]
        said = "".join(str(part.get("text", "")) for part in parts)
        said = said or self.content or self.tool or ""
        return _spoken(said if isinstance(said, str) else json.dumps(said), str(self.reasoning or ""))


def _spoken(said: str, thought: str = "") -> str:
    """An answer without what the model thought aloud; a server may take an answer for a thought."""
    *aloud, said = ENDS.split(said)
    thought = "".join(aloud[-1:]) or thought
    said = said if said.strip() else thought if thought.lstrip().startswith("{") else ""
    said = STOPS.split(said)[0]  # the model may go on with a question of its own
    if not said or BEGINS.search(said):
        raise BadAnswer("it holds reasoning and no answer" if said or thought else "it is empty")
    if len(said) > MAX_CHARACTERS:
        raise BadAnswer(f"it is longer than {MAX_CHARACTERS} characters")
    return said


def entries(answer: object, category: str | None, categories: Iterable[str]) -> list | None:
    """The list of signs in the data of an answer, or the last one in a text that is for this category.

    Raises BadAnswer: a text holds none, or several that are not told apart.
    """
    known = {key(name) for name in categories}
    if not isinstance(answer, str):
        return _listed(answer, category, known)
    found, problem, broken, end, alone = None, "it holds no JSON object", False, 0, list[object]()
    for start, stop in _brackets(text := _spoken(answer)):
        if start < end or not JSON.match(text, start):
            continue
        before = text[end:start]
        try:
            value, end = _parsed(text, start, stop)
        except (ValueError, RecursionError) as error:  # what stood before was a draft
            found, broken, end = None, True, max(stop, start)
            problem = f"it is no valid JSON ({error if stop else 'it is cut off'})"
            continue
        # no answer of its own: a bare list inside broken JSON, or beside an object
        listed = _listed(value, category, known)
        if found and listed is not None and not _filled(listed):
            continue  # the form of an answer again
        if isinstance(value, dict) and SIGN.intersection(value):
            alone.append(value)
        if listed is not None and (isinstance(value, dict) or not (broken or found)):
            other, plainly = _headed(before, category, known)
            if other and not plainly and _filled(found or []):
                raise BadAnswer(f"it holds several lists, the last beside the word {other!r}; give one JSON object")
            found = found if plainly else listed
        problem = problem if broken else 'it has no list "signs" of its own category'
    if found is None and (broken or len(alone) < 2):
        raise BadAnswer(problem)
    return alone if found is None else found  # a line for each sign


def _filled(listed: list) -> bool:
    """Whether there is a word in it; a form has dots."""
    return any(key(str(entry(item)[0])) for item in listed)


def _headed(prose: str, category: str | None, known: set[str]) -> tuple[str, bool]:
    """Another category that the words before a list name, "" for none; and whether they are plainly its heading.

    A heading is the last line, that category and two words more: "Edema:", "## Signs of Edema", and the words before do
    not name the own category. A last line such as "Final answer:" says that the list is the one that was asked for.
    """
    *_, last = ["", *filter(None, map(key, FENCE.sub("", prose).splitlines()))]
    prose = last if FINAL.search(last) else prose
    own = {key(category)} if category else {*map(key, NORMAL)}
    first, rest = [], f" {key(prose)} "
    for name in sorted(known | own, key=len, reverse=True):  # the longest first: "pleural effusion" is no "effusion"
        first += [name] * (f" {name} " in rest)
        rest = rest.replace(f" {name} ", " ; ")
    others = [name for name in first if name not in own]
    mine = len(others) < len(first) or (not category and " normal" in rest)
    heading = len(others) == 1 and not mine and f" {others[0]} " in f" {last} "
    return others[0] if others else "", heading and len(last.split()) <= len(others[0].split()) + 2


def _brackets(text: str) -> list[tuple[int, int]]:
    """Start and end of what stands in brackets, from left to right; the end is 0 where none closes it."""
    opened, ends = list[int](), dict[int, int]()
    for bracket in re.finditer(r"[\[\]{}]", text):
        if bracket[0] in "[{":
            opened.append(bracket.start())
            ends[bracket.start()] = 0
        elif opened:
            ends[opened.pop()] = bracket.end()
    return [*ends.items()]


def _letters(text: str) -> list[str]:
    return re.findall(r"\w", text.casefold())


def _parsed(text: str, start: int, stop: int) -> tuple[object, int]:
    """The JSON value that begins there, and its end. One with slips is mended if that keeps every letter, up to `stop`.

    Raises ValueError: it is none, or not whole.
    """
    try:
        return json.JSONDecoder(object_pairs_hook=once, strict=False).raw_decode(text, start)
    except ValueError:
        bare = re.sub("[“”„]", '"', " ".join(COMMENTS.sub("", text[start:stop]).split()))
        value = needs("json_repair", "llm").loads(bare, skip_json_loads=True) if stop else None
        if not stop or _letters(json.dumps(value, ensure_ascii=False)) != _letters(bare):
            raise
        return value, stop


def _listed(value: object, category: str | None, known: set[str]) -> list | None:
    """The list of signs in a value: under "signs", under the category's name, or the only list that there is.

    What says that it is of another category is not.
    """
    if isinstance(value, list):
        if own := [one for one in value if isinstance(one, dict) and not SIGN.intersection(one) and _names(one, known)]:
            found = [listed for one in own if (listed := _listed(one, category, known)) is not None]
            return found[0] if len(found) == 1 else None
        names = all(isinstance(item, str) and key(item) in known for item in value)
        return None if names or not any(isinstance(item, (str, dict)) for item in value) else value
    if not isinstance(value, dict) or any(isinstance(value.get(name), str) for name in SIGN):
        return None
    if (named_there := _names(value, known)) and key(category or "") not in named_there:
        return None
    named = {key(str(name)): item for name, item in value.items()}
    for name in ("signs", key(category or "normal signs")):
        rows = named.get(name)
        if isinstance(rows, dict) and rows and all(str(number).isdecimal() for number in rows):
            rows = [*rows.values()]
        if isinstance(rows, list):
            return rows
    inside = [item for item in value.values() if isinstance(item, (dict, list))]
    return _listed(inside[0], category, known) if len(inside) == 1 else None


def _names(value: dict, known: set[str]) -> set[str]:
    return known & {key(text) for text in value.values() if isinstance(text, str)}


def entry(item: object) -> tuple[Any, list]:
    """Text and further categories of one sign: a string, or an object whose keys leave no doubt."""
    if not isinstance(item, dict):
        return item, []
    named = {key(str(name)): value for name, value in item.items()}
    strings, lists = ([v for v in named.values() if isinstance(v, kind) and v] for kind in (str, list))
    also = named.get("also", lists[0] if len(lists) == 1 else [])
    also = re.split("[,;]", also) if isinstance(also, str) else also if isinstance(also, list) else []
    return named.get("text", named.get("sign", strings[0] if len(strings) == 1 else item)), also
