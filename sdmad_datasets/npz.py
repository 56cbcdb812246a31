"""A `.npz` of the form of MedMNIST: train_images, train_labels, and the same of val and test.

Images are uint8, (N, H, W) or (N, H, W, 3). Labels are (N, 1) numbers of classes, or (N, L) in {0, 1}.
Nothing is unpickled, and the size that the arrays declare is checked before they are read.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np

from sdmad_lite.data.names import Names, check_others, find_normal, plain
from sdmad_lite.data.paths import reading
from sdmad_lite.data.table import SPLITS, ImageTable, table_of_classes
from sdmad_lite.errors import DataError

MAX_BYTES = 16 << 30
"""Of all arrays together; ChestMNIST at 224 pixels, the largest of its kind, has 5.6 GB."""


def load_npz(
    path: str | Path,
    categories: Names = None,
    normal: str | None = None,
    names: Names = None,
    others: Names = None,
    max_bytes: int = MAX_BYTES,
) -> ImageTable:
    """Read a `.npz` of MedMNIST form, train rows first; images are views into the arrays.

    Besides `train_`, `val_` and `test_`, plain `images` and `labels` are read. The arguments are as in `load_data`;
    more than `max_bytes` of arrays are refused. `names`, of the classes by number or of the columns, come if left out
    from a JSON file of the same name beside the .npz: a list, or {"0": name, ...}, or either under "labels", with
    "normal" beside it.

    Raises:
        DataError: no such form, damaged, too large, object arrays, other dtypes, unknown or missing names.
    """
    path = Path(path)
    arrays = _read(path, max_bytes)
    splits = [split for split in SPLITS if {f"{split}_images", f"{split}_labels"} & set(arrays)]
    parts = [_part(path, arrays, f"{split}_") for split in splits] or [_part(path, arrays, "")]
    images = [image for x, _ in parts for image in x]
    meta = {"split": tuple(np.repeat(splits, [len(x) for x, _ in parts]).tolist())} if splits else {}
    if categories is not None and not categories:  # nothing is asked of the labels
        return ImageTable(tuple(images), np.zeros((len(images), 0), np.int64), (), meta)
    if len({y.shape[1] for _, y in parts}) > 1:
        raise DataError(f"{path}: the parts have labels of different width; write all in one form")
    values = np.concatenate([y for _, y in parts])
    single = values.shape[1] == 1
    if names is None:
        names, stated = _beside(path)
        normal = stated if normal is None else normal
    y, names = _columns(path, values, names)
    check_others(path, names, others)
    none = find_normal(path, names, normal, None if single else categories)
    if none is None and single and normal != "":
        raise DataError(
            f"{path}: no class is recognised as normal among {', '.join(names)}; say which with normal=, or "
            "normal='' if there is none, which is enough to evaluate"
        )
    if none is not None and (both := (y[:, names.index(none)] == 1) & (y.sum(1) > 1)).any():
        raise DataError(f"{path}: row {int(np.argmax(both))} is {none!r} and shows a finding; correct the labels")
    return table_of_classes(path, images, names, y, none, categories, others, meta)


def _part(path: Path, arrays: dict[str, np.ndarray], prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, (N, L) integers, of one part of the split."""
    for key in (f"{prefix}images", f"{prefix}labels"):
        if key not in arrays:
            has = ", ".join(arrays) or "none"
            raise DataError(f"{path}: has no array {key!r} (it has {has}); write train_images, train_labels, ...")
    x, y = arrays[f"{prefix}images"], arrays[f"{prefix}labels"]
    x = x[..., 0] if x.ndim == 4 and x.shape[3] == 1 else x
    y = y[:, None] if y.ndim == 1 else y
    if x.dtype != np.uint8:
        raise DataError(f"{path}: {prefix}images are {x.dtype}, not uint8; scale them to 0 to 255")
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] != 3) or not x.size:
        raise DataError(f"{path}: {prefix}images have shape {x.shape}, not (N, H, W) or (N, H, W, 3); give 2D images")
    if y.dtype.kind not in "iub" or y.ndim != 2 or not y.size:
        raise DataError(f"{path}: {prefix}labels are {y.dtype} {y.shape}, not integers of shape (N, 1) or (N, L)")
    if len(x) != len(y):
        raise DataError(f"{path}: {prefix}images has {len(x)} rows, {prefix}labels {len(y)}; give a label per image")
    return x, y.astype(np.int64)


def _columns(path: Path, values: np.ndarray, names: Names) -> tuple[np.ndarray, list[str]]:
    """Labels as (N, K) in {0, 1} with the name of each column."""
    width = values.shape[1]
    many = width > 1
    if many and not np.isin(values, (0, 1)).all():
        row = int(np.argmax(~np.isin(values, (0, 1)).all(1)))
        raise DataError(f"{path}: labels of {width} columns must be 0 or 1; row {row} has {values[row].tolist()}")
    if not many and values.min() < 0:
        raise DataError(f"{path}: a class has the number {values.min()}; number them from 0")
    count = width if many else int(values.max()) + 1
    if names is None or (len(names) != count if many else len(names) < count):
        what = f"{count} columns" if many else f"classes up to number {count - 1}"
        given = "none are given" if names is None else f"{len(names)} are given ({', '.join(names)})"
        raise DataError(
            f"{path}: the labels have {what} and need as many names, but {given}; give names= (the normal class among "
            f"them), or write {path.with_suffix('.json').name} with a list of them"
        )
    names = [str(name) for name in names]
    if len(set(map(plain, names))) < len(names):
        raise DataError(f"{path}: two classes have one name among {', '.join(names)}; rename one")
    return (values if many else np.eye(len(names), dtype=np.int64)[values[:, 0]]), names


def _beside(path: Path) -> tuple[list[str] | None, str | None]:
    """Names of classes and of the normal one from the JSON file beside, if there is one."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return None, None
    with reading(beside, "write a list of names", " as JSON"):
        names = json.loads(beside.read_text(encoding="utf-8"))
    normal = names.pop("normal", None) if isinstance(names, dict) else None
    names = names.get("labels", names.get("label", names)) if isinstance(names, dict) else names
    if isinstance(names, dict):
        names.pop("normal", None)
        names = [names.get(str(i)) for i in range(len(names))]
    good = isinstance(names, list) and names and all(isinstance(name, str) and name.strip() for name in names)
    if not good or not isinstance(normal, str | None):
        raise DataError(f'{beside}: is not a list of names nor {{"0": name, "1": name, ...}}; write it as one of them')
    return names, normal


def _read(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of the form, checked before they are read."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; correct the path")
    wanted = ["images", "labels", *(f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels"))]
    with reading(path, "it may be damaged, copy it again", " as .npz"), zipfile.ZipFile(path) as archive:
        there = archive.namelist()
        members = {key: archive.getinfo(f"{key}.npy") for key in wanted if f"{key}.npy" in there}
        if not members:
            has = ", ".join(there[:8]) or "no arrays"
            raise DataError(f"{path}: has {has}; write train_images, train_labels, test_images, test_labels")
        if (total := sum(member.file_size for member in members.values())) > max_bytes:
            raise DataError(
                f"{path}: declares {total:,} bytes of arrays, more than {max_bytes:,}; it may be a zip bomb. Save "
                "images as files, or raise max_bytes of load_npz"
            )
        read = np.lib.format.read_array
        return {key: read(archive.open(member), allow_pickle=False) for key, member in members.items()}
