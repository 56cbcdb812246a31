"""One entry for all forms of data: look at what is there and read it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .classes import load_classes, subfolders
from .dicom import with_dicom_meta
from .folder import load_folder
from .npz import load_npz
from .table import ImageTable, check_split


def load_data(
    path: str | Path,
    categories: Sequence[str] | None = None,
    normal: str | None = None,
    names: Sequence[str] | None = None,
) -> ImageTable:
    """Read images and labels in whichever form they stand at `path`.

    A folder with a `labels.csv` (see `load_folder`), a folder with one subfolder per class (`load_classes`), or a
    `.npz` of MedMNIST form (`load_npz`). Images may be DICOM; where the columns patient_id, sex, age or view are
    missing and every file's header states them, they are read from there (`with_dicom_meta`).

    Args:
        path: folder or `.npz` file.
        categories: names that may occur, such as those of a sign bank: which to return, in which order. All that
            are there when left out. Case, `_` and `-` do not count in the names of classes.
        normal: name of the class or column of normal images; recognised among names such as normal, healthy and no
            finding when left out; "" says that there is none.
        names: for a `.npz`, the names of its classes or columns; from the JSON file beside it when left out.

    Returns:
        The table. `has_patients` tells whether a split can keep patients apart.

    Raises:
        DataError: none of these forms, or an error in the data; names the file and what to change.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, also for a name too long or with a zero byte
        raise DataError(f"{path}: no such file or folder; correct the path")
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return load_npz(path, categories, normal, names)
    if names is not None:
        raise DataError(f"{path}: names= is for a .npz; a folder has its names in labels.csv or in its subfolders")
    if not path.is_dir():
        unpack = "unpack it first: sdmad_datasets.unpack(archive, folder)"
        advice = dict.fromkeys((".zip", ".tar", ".gz", ".tgz"), unpack)
        advice[".csv"] = f"give the folder that holds it: {path.parent}"
        found = advice.get(path.suffix.lower(), "give the folder that holds the images")
        raise DataError(f"{path}: is not a folder or a .npz file; {found}")
    if os.path.lexists(path / "labels.csv"):
        table = load_folder(path, categories, normal)
    elif subfolders(path):
        table = load_classes(path, categories, normal)
    else:
        raise DataError(
            f"{path}: has no labels.csv and no subfolder; write a labels.csv, or sort the images into a subfolder "
            "for each class"
        )
    table = with_dicom_meta(table)
    check_split(path, table)
    return table
