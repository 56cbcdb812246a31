"""Embeddings of images and signs in a file, before and after the adapters, for one's own plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..alignment.adapters import installed
from ..errors import needs
from ..files import new_file

if TYPE_CHECKING:
    from ..clip.backbone import Backbone
    from ..data import ImageTable
    from ..detector import SDMAD
    from ..signs.bank import SignBank


def embeddings(
    images: Sequence, bank: SignBank, backbone: Backbone, detector: SDMAD | None = None, progress: bool = False
) -> dict[str, np.ndarray]:
    """Unit vectors: "image" (N, D) and "sign" (S, D) of the frozen model, and of a detector "image_adapted" (N, D) and
    "sign_adapted" (S, D), after stage 1."""
    found = {"image": backbone.encode_images(images, color=bank.color, progress=progress)}
    found["sign"] = backbone.encode_texts(bank.texts)
    if detector:
        with installed(backbone, detector.adapters_):
            found["image_adapted"] = backbone.encode_images(images, color=bank.color, progress=progress)
        found["sign_adapted"] = detector.sign_embeddings_
    return {name: value.float().numpy() for name, value in found.items()}


def image_names(images: Sequence, folder: str | Path) -> list[str]:
    """A name for each image: its path below the folder of the data, or its row."""
    names = []
    for row, image in enumerate(images):
        inside = isinstance(image, (str, Path)) and Path(image).is_relative_to(folder)
        path = Path(image).relative_to(folder) if inside else image
        names.append(Path(path).as_posix() if isinstance(path, (str, Path)) else f"row {row}")
    return names


def write_embeddings(
    out: Path, arrays: dict[str, np.ndarray], names: list[str], table: ImageTable, bank: SignBank
) -> None:
    """Write what `embeddings` gave of a table's images: arrays (.npz), or a row for each image and sign (.parquet).

    Raises:
        OutputError: the place cannot be written. MissingExtraError: .parquet without pyarrow.
    """
    write = _parquet if out.suffix == ".parquet" else _npz
    with new_file(out) as temporary:
        write(temporary, arrays, names, table, bank)


def _npz(path: Path, arrays: dict[str, np.ndarray], names: list[str], table: ImageTable, bank: SignBank) -> None:
    about: dict[str, Any] = {
        "image_id": np.array(names),
        "labels": table.labels,
        "categories": np.array(table.categories),
        "sign_text": np.array(bank.texts),
        "membership": bank.membership(),
        "membership_rows": np.array(["normal", *bank.categories]),
    }
    with path.open("wb") as stream:  # given a name, numpy would add .npz to it
        np.savez_compressed(stream, **(arrays | about))


def _parquet(path: Path, arrays: dict[str, np.ndarray], names: list[str], table: ImageTable, bank: SignBank) -> None:
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
