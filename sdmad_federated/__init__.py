"""Companion of the module: several hospitals fit one detector together, and their images stay with them.

`fit_together` for sites of one process (`federation`, `site`, `sums`); `serve` and `join` of `flower` over a network,
`sdmad federate` at a shell. It may use every room; the module knows it only as a command.
"""

from .federation import SENT, Site, average, fit_together, in_turn
from .flower import join, serve

__all__ = ["SENT", "Site", "average", "fit_together", "in_turn", "join", "serve"]
