"""Scores as tables: a row for each image in a file, or, of a few images, a row for each image and category."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..data import walk_images
from ..errors import DataError
from ..explain import CategoryExplanation, explanations
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


def explain_images(
    detector: SDMAD, images: Mapping[str, object], batch_size: int = 32, progress: bool = False
) -> dict[str, list[CategoryExplanation]]:
    """Name -> what `SDMAD.explain` says of the image, from name -> image."""
    names, found = list(images), {}
    for start in tqdm(range(0, len(names), batch_size), desc="images", disable=not progress, leave=False):
        batch = names[start : start + batch_size]
        cosines, activations = detector.features([images[name] for name in batch])
        for name, z, h in zip(batch, cosines, activations, strict=True):
            found[name] = explanations(detector, z, h)
    return found


def explained_rows(found: Mapping[str, list[CategoryExplanation]], maps: Mapping[tuple[str, str], str]) -> list[dict]:
    """Plain values of what `explain_images` gave, a row for each image and category.

    `signs` are the selected ones, first the one that speaks most for the category. Their contributions, `normal_signs`,
    `image_evidence` and `bias` sum to the logit. `map` is the picture that `write_maps` drew, None without one.
    """
    rows = []
    for image, e in ((image, e) for image, of_image in found.items() for e in of_image):
        own = sorted((sign for sign in e.signs if sign.weight > 0), key=lambda sign: -sign.contribution)
        rows.append(
            {
                "image": image,
                "category": e.category,
                "probability": e.probability,
                "threshold": e.threshold,
                "detected": e.probability >= e.threshold,
                "logit": e.logit,
                "signs": [{"text": s.text, "weight": s.weight, "contribution": s.contribution} for s in own],
                "normal_signs": float(sum(sign.contribution for sign in e.signs if sign.normal)),
                "image_evidence": e.image,
                "bias": e.bias,
                "map": maps.get((image, e.category)),
            }
        )
    return rows


def signs_in_a_cell(row: Mapping, most: int | None = None) -> str:
    """The first signs of a row: "round opacity +1.23; small dense spot -0.12"."""
    return "; ".join(f"{sign['text']} {sign['contribution']:+.2f}" for sign in row["signs"][:most])


def explained_csv(rows: Sequence[Mapping]) -> str:
    """Rows as CSV, the signs in one cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "detected": int(row["detected"]), "signs": signs_in_a_cell(row)} for row in rows)
    return stream.getvalue().rstrip("\n")
