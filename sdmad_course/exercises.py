"""Exercises of the course: a stub, a check that no trivial answer passes, a solution that students do not get.

    mine = ...  # your answer                                 a cell with the tag "exercise"
    mine = np.flatnonzero(labels.sum(1) == 0)                 a cell with the tag "solution", not in a student's copy
    check("00.1", mine, labels=labels)                        "correct", or NotYet in one line with a hint

Whatever passes is held against the trivial answers too, so a check that lets one of these through fails in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sdmad_lite.errors import SDMADError

TRIVIAL: tuple = (None, ..., 0, 1, -1, 0.5, 1.0, "", "a", [], [0], (), {}, True, False, np.zeros(3))
"""What a check must refuse: the stub's dots, and what one types to be rid of it."""


class NotYet(SDMADError):
    """An answer is not right yet; in a notebook its message is one line, not a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"not yet: {self}"]


class Exercise(NamedTuple):
    """What is right, and what to think of where an answer is not."""

    right: Callable[..., bool]
    hint: str


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, hint: str) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Register a rule: from an answer, and what the notebook gives with it, to whether it is right."""

    def keep(right: Callable[..., bool]) -> Callable[..., bool]:
        EXERCISES[name] = Exercise(right, hint)
        return right

    return keep


def passes(name: str, answer, **given) -> bool:
    """Whether an answer is right; one of the wrong kind is not."""
    try:
        return answer is not ... and bool(EXERCISES[name].right(answer, **given))
    except Exception:  # whatever an answer of any kind may do to a rule
        return False


def check(name: str, answer, **given) -> None:
    """Say "correct"; `given` is what the rule needs of the notebook.

    Raises:
        NotYet: the answer is not right, with a hint.
    """
    from . import rules  # noqa: F401 - they register themselves

    if name not in EXERCISES:
        raise SDMADError(f"name: no exercise {name!r}; there are {', '.join(sorted(EXERCISES))}")
    if not passes(name, answer, **given):
        said = "replace the dots by your answer" if answer is ... else EXERCISES[name].hint
        raise NotYet(said)
    if let_through := [trivial for trivial in TRIVIAL if passes(name, trivial, **given)]:
        raise SDMADError(f"the check of exercise {name} is too weak: {let_through[0]!r} passes it as well")
    print(f"exercise {name}: correct")


def close(answer, value: float, within: float = 1e-3) -> bool:
    """Whether an answer is a number near a value."""
    return not isinstance(answer, (bool, str)) and np.ndim(answer) == 0 and abs(float(answer) - value) <= within
