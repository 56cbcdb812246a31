"""Downloads and servers that answer wrongly, on loopback."""

from .world import Case

CASES: list[Case] = []
