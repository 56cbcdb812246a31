"""Embeddings of images and signs in a file, before and after the adapters, for one's own plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import needs
from ..files import new_file
from .scoring import listed

if TYPE_CHECKING:
    from ..clip.backbone import Backbone
    from ..data import ImageTable
    from ..detector import SDMAD
    from ..signs.bank import SignBank


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
    owners = _named(table.labels, table.categories), _named(bank.membership().T, rows)
    with new_file(out) as temporary:
        if parquet:
            columns: dict[str, list] = {"kind": ["image"] * len(names) + ["sign"] * len(bank.texts)}
            columns |= {"id": names + bank.texts, "categories": owners[0] + owners[1]}
            for name, end in (("frozen", ""), ("adapted", "_adapted"))[: len(arrays) // 2]:
                columns[name] = [*arrays[f"image{end}"], *arrays[f"sign{end}"]]
            parquet.write_table(needs("pyarrow", "archive").table(columns), temporary)
        else:
            about: dict[str, Any] = {"image_id": names, "labels": table.labels, "categories": table.categories}
            about |= {"sign_text": bank.texts, "membership": bank.membership(), "membership_rows": rows}
            with temporary.open("wb") as stream:  # given a name, numpy would add .npz to it
                np.savez_compressed(stream, **about, **arrays)
    return arrays


def _named(matrix: np.ndarray, names) -> list[list[str]]:
    """Of each row the names of the columns that are not 0."""
    return [[name for name, value in zip(names, row, strict=True) if value] for row in matrix]
