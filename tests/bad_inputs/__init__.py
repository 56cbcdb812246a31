"""Bad inputs, each with the message that it gets: one list for the test and for docs/results/bad_input.md.

`world.py` says what a case is and makes the good things that cases spoil; `tables.py`, `images.py`, `banks.py`,
`models.py`, `numbers.py`, `servers.py`, `exports.py`,
`federations.py` `commands.py` and `cases.py` hold the cases.
"""

from . import banks, cases, commands, exports, federations, images, models, numbers, servers, tables
from .world import Case, World, matches

PARTS = (tables, images, banks, models, numbers, servers, exports, federations, commands, cases)
CASES: list[Case] = [case for part in PARTS for case in part.CASES]

__all__ = ["CASES", "Case", "World", "matches"]
