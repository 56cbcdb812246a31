"""The scores of images that are named on a command line, in a table of whichever form."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import walk_images
from ..errors import DataError
from ..files import is_main, new_file, write_text
from .scoring import about, score_archive, score_table

if TYPE_CHECKING:
    from ..detector import SDMAD

TABLES = (".parquet", ".csv", ".jsonl")
"""Endings that `write_scores` knows."""


def image_files(given: Sequence[str | Path]) -> list[Path]:
    """The files that are named, and those in the folders that are named.

    Raises:
        DataError: a folder holds no image.
    """
    found: list[Path] = []
    for path in map(Path, given):
        inside = list(walk_images(path)) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: holds no image; name files, or a folder that holds some")
        found += inside
    return found


def write_scores(
    detector: SDMAD,
    source,
    out: str | Path,
    *,
    root: str | Path | None = None,
    explain: bool = False,
    progress: bool = True,
    **archive,
) -> tuple[int, int]:
    """Write a row for each image: .parquet by `score_archive`; .csv and .jsonl by `score_table`, all rows in memory.

    Beside the latter lies `<out>.about.json`, with what `_about.json` says in the folder of a .parquet.

    Args:
        source, root, explain, progress: as in `score_archive`. archive: its other arguments, for .parquet alone.

    Returns:
        How many images there were, and how many of them could not be read.

    Raises:
        OutputError: the place cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() == ".parquet":
        done = score_archive(detector, source, out, root=root, explain=explain, progress=progress, **archive)
        return done.images, done.errors
    if not is_main():
        return 0, 0
    rows = score_table(detector, source, root=root, explain=explain, progress=progress)
    with new_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        if out.suffix.lower() == ".csv":
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(f"{out}.about.json", json.dumps(about(detector), indent=1, ensure_ascii=False) + "\n")
    return len(rows), sum(row["error"] is not None for row in rows)
