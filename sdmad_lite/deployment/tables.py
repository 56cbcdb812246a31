"""Scores and embeddings in a table of whichever form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import needs
from ..files import is_main, new_file, write_text
from .scoring import ScoringConfig, about, listed, score_archive, score_table

if TYPE_CHECKING:
    from ..clip.backbone import Backbone
    from ..data import ImageTable
    from ..detector import SDMAD
    from ..signs.bank import SignBank

TABLES = (".parquet", ".csv", ".jsonl")
"""Endings that `write_scores` knows."""


def csv_text(rows: Sequence[Mapping]) -> str:
    """Rows as CSV, the keys of the first one as its head.

    A text that a spreadsheet would run as a formula, since it begins with = + - @ or a control, gets a ' before it.
    """
    head, stream = list(rows[0]), io.StringIO()
    lines = [head, *([row.get(name) for name in head] for row in rows)]
    csv.writer(stream, lineterminator="\n").writerows([_harmless(cell) for cell in line] for line in lines)
    return stream.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", "\\r")  # it would end the line
    return f"'{text}" if cell[:1] in tuple("=+-@\t\r\n＝＋－＠") else text


def write_scores(
    detector: SDMAD, source, out, *, batch_size=None, workers=None, progress=False, resume=True, **options
):
    """Write a row for each image: .parquet by `score_archive`; .csv and .jsonl by `score_table`, all rows in memory.

    Beside the latter lies `<out>.about.json`, with what `_about.json` says in the folder of a .parquet.
    For the arguments and errors see those two. Returns how many images there were, and how many could not be read.
    """
    ending, config = Path(out).suffix.lower(), ScoringConfig(batch_size, workers, progress=progress)
    if ending == ".parquet":
        done = score_archive(detector, source, out, resume=resume, config=config, **options)
        return done.images, done.errors
    if not is_main():
        return 0, 0
    with new_file(out) as temporary:  # before the work, so that a bad place is told at once
        rows = score_table(detector, source, config=replace(config, workers=workers or 0), **options)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text(lines if ending == ".jsonl" else csv_text(rows), encoding="utf-8", newline="\n")
    write_text(f"{out}.about.json", json.dumps(about(detector), indent=1, ensure_ascii=False) + "\n")
    return len(rows), sum(row["error"] is not None for row in rows)


def write_embeddings(
    out: str | Path, table: ImageTable, bank: SignBank, backbone: Backbone, detector: SDMAD | None, *, root, progress
) -> dict[str, np.ndarray]:
    """Write unit vectors of N images and S signs by the frozen model, and by a detector after stage 1.

    Args:
        out: .npz of arrays, or .parquet with a row for each image and sign. root: as in `score_archive`.

    Returns:
        "image" (N, D) and "sign" (S, D); with a detector also "image_adapted" (N, D) and "sign_adapted" (S, D).

    Raises:
        OutputError: the place cannot be written. MissingExtraError: .parquet without pyarrow.
    """
    parquet = needs("pyarrow.parquet", "archive") if Path(out).suffix == ".parquet" else None
    names, rows = [name for name, _ in listed(table, root)], ["normal", *bank.categories]
    found = {"image": backbone.encode_images(table.images, color=bank.color, progress=progress)}
    found["sign"] = backbone.encode_texts(bank.texts)
    if detector:
        with detector.installed():
            found["image_adapted"] = backbone.encode_images(table.images, color=bank.color, progress=progress)
        found["sign_adapted"] = detector.sign_embeddings_
    arrays: dict[str, Any] = {name: value.float().numpy() for name, value in found.items()}
    with new_file(out) as temporary:
        if parquet:
            columns: dict[str, list] = {"kind": ["image"] * len(names) + ["sign"] * len(bank.texts)}
            owned = (table.labels, table.categories), (bank.membership().T, rows)
            columns["id"] = [*names, *bank.texts]
            columns["categories"] = [
                [n for n, y in zip(of, row, strict=True) if y] for shown, of in owned for row in shown
            ]
            for name, end in (("frozen", ""), ("adapted", "_adapted"))[: len(arrays) // 2]:
                columns[name] = [*arrays[f"image{end}"], *arrays[f"sign{end}"]]
            parquet.write_table(needs("pyarrow", "archive").table(columns), temporary)
        else:
            about: dict[str, Any] = {"image_id": names, "labels": table.labels, "categories": table.categories}
            about |= {"sign_text": bank.texts, "membership": bank.membership(), "membership_rows": rows}
            with temporary.open("wb") as stream:  # given a name, numpy would add .npz to it
                np.savez_compressed(stream, **about, **arrays)
    return arrays
