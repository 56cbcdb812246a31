"""Panels: move something and see what it does. A case, a function, a line.

    case = BoardCase(scores, labels, categories, thresholds)     # computed beforehand
    figure, text = protocol_board(case, "Effusion", "detection", 0.4)  # anywhere
    board_panel(case)                                            # in a notebook, with a kernel

A figure is a pure function of the case and the values; `base.Panel` only passes values on. What `widgets` says of
pictures and texts holds here too.
"""

from .base import Drawn, Panel
from .board import BoardCase, board_panel, protocol_board
from .broken import BreakCase, break_it, break_panel, broken
from .embedding import EmbeddingCase, embedding_explorer, embedding_panel
from .explorer import ExplorerCase, explorer_panel, sign_explorer
from .shots import GRID, MACRO, SCORES, GridCase, grid_panel, load_grid, shots_and_strength

__all__ = [
    "GRID",
    "MACRO",
    "SCORES",
    "BoardCase",
    "BreakCase",
    "Drawn",
    "EmbeddingCase",
    "ExplorerCase",
    "GridCase",
    "Panel",
    "board_panel",
    "break_it",
    "break_panel",
    "broken",
    "embedding_explorer",
    "embedding_panel",
    "explorer_panel",
    "grid_panel",
    "load_grid",
    "protocol_board",
    "shots_and_strength",
    "sign_explorer",
]
