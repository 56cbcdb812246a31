"""Results as lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..evaluation.protocols import Interval, figure_text

if TYPE_CHECKING:
    from ..detector import SDMAD


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def signs_by_category(detector: SDMAD, positives: Mapping[str, int]) -> str:
    """The signs that each category trusts, with their weights, and how many were dropped."""
    lines = []
    thresholds = dict(zip(detector.bank.categories, detector.thresholds_, strict=True))
    for category, signs in detector.selected_signs().items():
        lines.append(f"\n{category} ({positives[category]} positives, threshold {thresholds[category]:.3f})")
        lines += [f"  {sign.weight:6.3f}  {sign.text}" for sign in signs if sign.kept]
        if dropped := sum(not sign.kept for sign in signs):
            lines.append(f"  {dropped} dropped")
    return "\n".join(lines)


def scores_by_protocol(result: Interval) -> str:
    """AUROC and AP of each category in each protocol, with intervals, and the macro figures of the decisions."""
    rows = [["protocol", "category", "AUROC", "AP", "positives", "negatives"]]
    for protocol in result.mean.protocols():
        for name, row in result.rows(protocol):
            cells = [figure_text(*(getattr(end, figure) for end in row)) for figure in ("auroc", "ap")]
            rows.append([protocol, name, *cells, str(row[0].positives), str(getattr(row[0], "negatives", ""))])
    macro = [(name, [getattr(end, name) for end in result.macro()]) for name in ("f1", "exact_match", "ranking_loss")]
    more = ", ".join(f"{name.replace('_', ' ')} {figure_text(*ends)}" for name, ends in macro)
    return f"{aligned(rows)}\n\nmultilabel, macro: {more}"
