"""What several scripts share: cells and tables of their pages."""

from __future__ import annotations

import torch


def one_thread() -> None:
    """For processes that each have a core."""
    torch.set_num_threads(1)


def number(row: dict) -> str:
    """A mean with its interval, where there is one."""
    low, high = (row[end] if row[end] is None else min(max(row[end], 0), 1) for end in ("low", "high"))
    return f"{row['mean']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def difference(row: dict) -> str:
    """A paired difference with its interval, bold where that excludes zero."""
    if row["low"] is None:
        return f"{row['difference']:+.3f}"
    text = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    return text if row["verdict"] == "no difference shown" else f"**{text}**"


def table(first: str, rows: dict[str, list[str]], heads: list[str]) -> list[str]:
    """Lines of a Markdown table: name of a row -> its cells. A head that is a number is one of shots."""
    heads = [f"K = {head}" if head.isdigit() else head for head in heads]
    head = f"| {first} | ".replace("|  |", "| |") + " | ".join(heads) + " |"
    return [head, "|---" * (len(heads) + 1) + "|", *(f"| {name} | {' | '.join(row)} |" for name, row in rows.items())]
