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


def embeddings(
    table: ImageTable, bank: SignBank, backbone: Backbone, detector: SDMAD | None = None, progress: bool = False
) -> dict[str, np.ndarray]:
    """Unit vectors of N images and S signs by the frozen model, and by a detector after stage 1.

    Returns:
        "image" (N, D) and "sign" (S, D); with a detector also "image_adapted" (N, D) and "sign_adapted" (S, D).
    """
    found = {"image": backbone.encode_images(table.images, color=bank.color, progress=progress)}
    found["sign"] = backbone.encode_texts(bank.texts)
    if detector:
        with detector.installed():
            found["image_adapted"] = backbone.encode_images(table.images, color=bank.color, progress=progress)
        found["sign_adapted"] = detector.sign_embeddings_
    return {name: value.float().numpy() for name, value in found.items()}


def write_embeddings(
    out: str | Path, arrays: dict[str, np.ndarray], table: ImageTable, bank: SignBank, root: str | Path | None = None
) -> None:
    """Write what `embeddings` gave: arrays (.npz), or a row for each image and sign (.parquet).

    Args:
        root: images are named by their path relative to this folder.

    Raises:
        OutputError: the place cannot be written. MissingExtraError: .parquet without pyarrow.
    """
    names = [name for name, _ in listed(table, root)]
    with new_file(out) as temporary:
        if Path(out).suffix == ".parquet":
            _write_parquet(temporary, arrays, names, table, bank)
        else:
            about: dict[str, Any] = {"image_id": np.array(names), "labels": table.labels}
            about |= {"categories": np.array(table.categories), "sign_text": np.array(bank.texts)}
            about |= {"membership": bank.membership(), "membership_rows": np.array(["normal", *bank.categories])}
            with temporary.open("wb") as stream:  # given a name, numpy would add .npz to it
                np.savez_compressed(stream, **(arrays | about))


def _write_parquet(path: Path, arrays: dict[str, np.ndarray], names: list[str], table: ImageTable, bank: SignBank):
    pyarrow, parquet = needs("pyarrow", "archive"), needs("pyarrow.parquet", "archive")
    shown = [[c for c, y in zip(table.categories, row, strict=True) if y] for row in table.labels]
    owners = [list(sign.categories) for sign in bank.signs] + [["normal"]] * len(bank.normal_signs)
    columns = {
        "kind": ["image"] * len(names) + ["sign"] * len(bank.texts),
        "id": names + bank.texts,
        "categories": shown + owners,
        "frozen": [*arrays["image"], *arrays["sign"]],
    }
    if "image_adapted" in arrays:
        columns["adapted"] = [*arrays["image_adapted"], *arrays["sign_adapted"]]
    parquet.write_table(pyarrow.table(columns), path)
