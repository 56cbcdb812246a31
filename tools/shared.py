"""What several scripts share: scores of a frozen model, cells and tables of their pages."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdmad_lite.evaluation.intervals import mean_interval, paired, resampled, with_interval
from sdmad_lite.evaluation.protocols import evaluate, ranked
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
) -> dict[str, dict[str, list[float]]]:
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
                found[method][figure].append(float(value))
    return found


def over_draws(
    scores: Mapping[str, Sequence[np.ndarray]], labels: np.ndarray, categories: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """method -> figure -> macro figure, multi-label, of each draw's scores (T, C)."""
    found = {}
    for method, draws in scores.items():
        macro = [evaluate(s, labels, categories).multilabel.macro for s in draws]
        found[method] = {"AUROC": [row.auroc for row in macro], "mAP": [row.ap for row in macro]}
    return found


def two_intervals(ours: str, draws: Mapping, patients: Mapping) -> dict[str, Any]:
    """method -> figure -> mean with both intervals, and `ours` minus the method, from `over_draws` and `by_patient`."""
    rows: dict[str, Any] = {}
    for method, of in draws.items():
        rows[method] = {}
        for figure, values in of.items():
            others = np.asarray(patients[method][figure])
            row = spread(values)
            row |= {"draws": list(values), "patients": tuple(with_interval([row["mean"], *others])[1:])}
            if method != ours:
                less = asdict(paired(draws[ours][figure], values))
                apart = np.asarray(patients[ours][figure]) - others
                row["sdmad_minus"] = less | {"patients": tuple(with_interval([less["difference"], *apart])[1:])}
            rows[method][figure] = row
    return rows


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and interval over draws, as `number` prints them."""
    return dict(zip(("mean", "low", "high"), mean_interval(values), strict=True))


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


def with_patients(row: dict) -> str:
    """A mean with its interval over draws and, in round brackets, that over patients."""
    low, high = row["patients"]
    return f"{number(row)} ({low:.3f}, {high:.3f})"


def less(row: dict) -> str:
    """A paired difference with both intervals, bold where both exclude zero."""
    low, high = row["patients"]
    both = row["verdict"] != "no difference shown" and low * row["difference"] > 0 and high * row["difference"] > 0
    text = f"{difference(row).strip('*')} ({low:+.3f}, {high:+.3f})"
    return f"**{text}**" if both else text


def table(first: str, rows: dict[str, list[str]], heads: list[str]) -> list[str]:
    """Lines of a Markdown table: name of a row -> its cells. A head that is a number is one of shots."""
    heads = [f"K = {head}" if head.isdigit() else head for head in heads]
    head = f"| {first} | ".replace("|  |", "| |") + " | ".join(heads) + " |"
    return [head, "|---" * (len(heads) + 1) + "|", *(f"| {name} | {' | '.join(row)} |" for name, row in rows.items())]
