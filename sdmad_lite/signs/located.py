"""JSON read strictly, each entry with its line: a message can say where a file is wrong.

The standard parser does the reading. Its Python form lets us note where a string, a list or an object began.
Refused, where the standard library is silent: repeated keys (the last one would win), NaN and infinity, numbers
of thousands of digits, nesting that exhausts the stack, and files of more than 5 MB.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from json.decoder import JSONArray, JSONObject, scanstring
from json.scanner import py_make_scanner
from pathlib import Path

MAX_BYTES = 5_000_000


class JSONProblem(ValueError):
    """A text is not the JSON we accept; `line` counts from 1."""

    def __init__(self, message: str, line: int = 1, position: int = 0):
        super().__init__(message)
        self.line, self.position = line, position


class Text(str):
    """A string and its line."""

    line: int


class Row(list):
    """A list and its line."""

    line: int


class Record(dict):
    """An object, its line, and where it began in its text."""

    line: int
    origin: tuple[str, int]

    def line_of(self, key: str) -> int:
        """Line of an entry; of the object itself where the key is missing."""
        if key not in self:
            return self.line
        if hasattr(self[key], "line"):
            return self[key].line
        text, start = self.origin
        found = re.compile(rf"{re.escape(json.dumps(key))}\s*:").search(text, start)  # a number or a truth value
        return self.line + text.count("\n", start, found.start()) if found else self.line


class _Decoder(json.JSONDecoder):
    def __init__(self, text: str, repeated: list[tuple[str, int]]):
        super().__init__(object_pairs_hook=lambda pairs: pairs, parse_constant=_refuse)
        self.breaks = [match.start() for match in re.finditer("\n", text)]
        self.repeated = repeated
        self.parse_string, self.parse_array, self.parse_object = self._string, self._array, self._object
        self.scan_once = py_make_scanner(self)

    def _placed(self, value, position: int):
        value.line = bisect_right(self.breaks, position - 1) + 1
        return value

    def _string(self, text, start, strict):
        value, end = scanstring(text, start, strict)
        return self._placed(Text(value), start), end

    def _array(self, place, scan_once):
        value, end = JSONArray(place, scan_once)
        return self._placed(Row(value), place[1]), end

    def _object(self, place, *arguments):
        pairs, end = JSONObject(place, *arguments)
        record = self._placed(Record(pairs), place[1])
        record.origin = place
        seen: set[str] = set()
        for key, value in pairs:
            if key in seen:
                self.repeated.append((key, getattr(value, "line", record.line)))
            seen.add(key)
        return record, end


def _refuse(constant: str):
    raise ValueError(f"{constant} is no value of JSON")


def decode(text: str, repeated: list[tuple[str, int]] | None = None):
    """Parse a text; objects, lists and strings of the result know their line.

    Args:
        repeated: where given, keys that an object has twice are noted there with their line, and not refused.

    Raises:
        JSONProblem: the text is no strict JSON.
    """
    twice = [] if repeated is None else repeated
    try:
        value = _Decoder(text, twice).decode(text)
    except json.JSONDecodeError as error:
        raise JSONProblem(f"{error.msg} in column {error.colno}", error.lineno, error.pos) from None
    except RecursionError:
        raise JSONProblem("it is nested too deeply") from None
    except ValueError as error:  # NaN, or an integer of thousands of digits
        raise JSONProblem(str(error).split(";")[0]) from None
    if twice and repeated is None:
        raise JSONProblem(f"the key {twice[0][0]!r} stands twice in one object", twice[0][1])
    return value


def decode_mended(text: str, repeated: list[tuple[str, int]]) -> tuple[object, list[tuple[int, str, str]]]:
    """Parse as far as possible: a comma too many or missing is noted and mended.

    Returns:
        The content (None where it cannot be read), and (line, problem, suggestion) of each slip.
    """
    problems: list[tuple[int, str, str]] = []
    for _ in range(20):
        try:
            repeated.clear()
            return decode(text, repeated), problems
        except JSONProblem as error:
            at = error.position
            comma, end = text.rfind(",", 0, at + 1), len(text[:at].rstrip())
            if comma >= 0 and re.compile(r",\s*[]}]").match(text, comma) and not text[comma + 1 : at].strip():
                line = text.count("\n", 0, comma) + 1
                problems.append((line, "a comma stands before a closing bracket", "remove it"))
                text = f"{text[:comma]} {text[comma + 1 :]}"
            elif str(error).startswith("Expecting ',' delimiter") and text[at : at + 1] in ('"', "{", "["):
                problems.append((text.count("\n", 0, end) + 1, "a comma is missing after this entry", "add it"))
                text = f"{text[:end]},{text[end:]}"
            else:
                problems.append((error.line, f"cannot be read: {error}", "correct it here; the rest was not checked"))
                break
    return None, problems


def line_at(data, place: tuple) -> int:
    """Line of the entry that a place of pydantic names, or of the nearest one around it."""
    line = data.line
    for part in place:
        if isinstance(data, Record) and part in data:
            line, data = data.line_of(part), data[part]
        elif isinstance(data, Row) and isinstance(part, int) and part < len(data):
            data = data[part]
            line = getattr(data, "line", line)
        else:
            break
    return line


def read(path: str | Path) -> bytes:
    """The bytes of a file of at most 5 MB. Raises OSError, or JSONProblem where it is larger."""
    with open(path, "rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise JSONProblem(f"it has more than {MAX_BYTES // 1_000_000} MB")
    return data
