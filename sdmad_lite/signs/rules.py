"""The rules for sign banks, as lint.toml has them, and what is said where one is broken."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

DATA = tomllib.loads(Path(__file__).with_name("lint.toml").read_text(encoding="utf-8"))
# rule to its severity, what it catches, and what to do
RULES: dict[str, tuple[str, str, str]] = {rule: tuple(row) for rule, row in DATA["rules"].items()}


@dataclass
class Finding:
    """One remark on a bank."""

    rule: str  # of RULES
    message: str  # what is wrong
    place: str = ""  # such as "sign 3 'blunted angle'", counted from 1; "" for the bank as a whole
    severity: str = ""  # "error", "warning" or "note"; by default the rule's
    suggestion: str = ""  # what to do; by default the rule's
    file: str | None = None  # that holds the bank; None for a bank in memory

    def __post_init__(self):
        self.severity, self.suggestion = self.severity or RULES[self.rule][0], self.suggestion or RULES[self.rule][2]

    def __str__(self) -> str:
        where = f"{self.file or 'sign bank'}: {self.rule}: {self.place}".removesuffix(" ")
        return f"{where} {self.message}; {self.suggestion}"


def key(text: str) -> str:
    """A text without case, hyphens and doubled spaces: what has one key is the same."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def short(text: object, most: int = 60) -> str:
    """Quoted, in one line, and cut where it is long."""
    return repr(whole if len(whole := str(text)) <= most else f"{whole[: most - 3]}...")
