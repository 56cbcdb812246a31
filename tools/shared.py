"""What several scripts share: scores of a frozen model, cells and tables of their pages."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdmad_lite.evaluation.intervals import resampled
from sdmad_lite.evaluation.protocols import ranked
from sdmad_lite.selection.sign_selector import sign_scores
from sdmad_lite.show.report import write_json

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


def resumed(path: Path, question: list, measure: Callable[[], dict[str, Any]]) -> dict:
    """A cell from its file where that answers the same question, else measured and written there."""
    key = hashlib.sha256(repr(question).encode()).hexdigest()
    if path.exists() and (cell := json.loads(path.read_text(encoding="utf-8")))["key"] == key:
        return cell
    start = time.monotonic()
    cell = {"key": key} | measure() | {"seconds": round(time.monotonic() - start)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, cell)
    return cell


def by_patient(
    scores: Mapping[str, Sequence[np.ndarray]], labels: np.ndarray, patients: Sequence, resamples: int = 500
) -> dict[str, dict[str, np.ndarray]]:
    """method -> figure -> (R,) its macro figure, mean over draws, of each resample of the patients of a test set.

    scores: of each method those of every draw, (T, C). In a resample the categories that can be ranked count; one
    where none can is left out.
    """
    found: dict[str, dict[str, list[float]]] = {method: {"AUROC": [], "mAP": []} for method in scores}
    y = np.asarray(labels) == 1
    for rows in resampled(patients, resamples):
        columns = [c for c in range(y.shape[1]) if 0 < y[rows, c].sum() < len(rows)]
        for method, draws in scores.items() if columns else ():
            each = np.mean([[ranked(y[rows, c], s[rows, c]) for c in columns] for s in draws], axis=(0, 1))
            for figure, value in zip(found[method], each, strict=True):
                found[method][figure].append(value)
    return {method: {f: np.array(v) for f, v in figures.items()} for method, figures in found.items()}


def ends(values: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of resampled figures."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


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
