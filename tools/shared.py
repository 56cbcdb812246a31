"""What several scripts share: scores of a frozen model, cells and tables of their pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdmad_lite.selection.sign_selector import sign_scores

if TYPE_CHECKING:
    from sdmad_lite.alignment import AlignmentConfig
    from sdmad_lite.clip.backbone import Backbone


@torch.no_grad()
def frozen_scores(clip: Backbone, images: Sequence, color: bool, texts: list[str], look: AlignmentConfig) -> np.ndarray:
    """z (N, S) of the frozen model, which looks at patches as `look` says."""
    views = torch.cat([clip.views(pixels).cpu() for pixels in clip.batches(images, color=color)])
    return sign_scores(views, clip.encode_texts(texts), look.local, look.patches).numpy()


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
