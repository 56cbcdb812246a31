"""One entry for all forms of data: look at what is there and read it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import DataError, noting
from .classes import load_classes, subfolders
from .copies import without_copies
from .dicom import is_dicom
from .folder import load_folder
from .names import NORMAL, Names, plain
from .paths import reading
from .table import PARTS, ImageTable, check_split

TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet")
"""Endings of files that may be a table of labels."""


@noting()
def load_data(
    path: str | Path,
    categories: Names = None,
    normal: str | None = None,
    names: Names = None,
    others: Names = None,
    drop_copies: bool | None = False,
) -> ImageTable:
    """Read a folder with a `labels.csv`, a folder with a subfolder per class, or a `.npz` of MedMNIST form.

    Images may be DICOM; columns patient_id, sex, age and view that are missing come from headers that all state them.

    Args:
        categories: names that may occur, such as those of a sign bank: which to return, in which order; None for all
            that are there; () for images alone, whatever their labels. Case, blanks, `_` and `-` do not count in names.
        normal: name of the class or column of normal images; "" says that there is none; None recognises names such
            as normal, healthy and no finding.
        names: of the classes or columns of a `.npz`; None takes them from the JSON file beside it.
        others: further findings of the data, beside `categories` and those of included banks. Images that show nothing
            else are left out, for they are neither positive nor normal.
        drop_copies: leave out pictures that stand in several parts of the split or with several labels, found by their
            pixels; False refuses them; None does not look, which spares reading all images. See `without_copies`.

    Raises:
        DataError: none of these forms, or an error in the data; names the file and what to change.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, also for a name too long or with a zero byte
        raise DataError(f"{path}: no such file or folder; correct the path")
    if path.suffix.lower() == ".npz" and not path.is_dir():
        from sdmad_datasets.npz import load_npz

        table = load_npz(path, categories, normal, names, others)
    elif names is not None:
        raise DataError(f"{path}: names= is for a .npz; a folder has its names in labels.csv or in its subfolders")
    else:
        table = _read(path, categories, normal, others)
        if all(isinstance(image, Path) and is_dicom(image) for image in table.images):
            from sdmad_dicom import with_dicom_meta

            table = with_dicom_meta(table)
        check_split(path, table)
    return table if drop_copies is None or categories == () else without_copies(path, table, drop_copies)[0]


def _read(path: Path, *given) -> ImageTable:
    ending = path.suffix.lower()
    if not path.is_dir():
        advice = "give the folder that holds " + (f"it: {path.parent}" if ending == ".csv" else "the images")
        if ending in (".zip", ".tar", ".gz", ".tgz"):
            advice = "unpack it first: sdmad_datasets.unpack(archive, folder)"
        if ending in TABLES[1:]:
            advice = "save the table as labels.csv, and give the folder that holds it"
        raise DataError(f"{path}: is not a folder or a .npz file; {advice}")
    path = _inside(path, given[1])
    if os.path.lexists(path / "labels.csv"):
        return load_folder(path, *given)
    with reading(path, "change its permissions"):
        names = [(file.name, {*map(str.lower, file.suffixes)}) for file in path.iterdir()]
        tables = sorted(name for name, endings in names if endings & {*TABLES, ".npz"})
    advice = f"; it holds {tables[0]}: {_meaning(tables[0])}" if tables else ""
    try:
        if not subfolders(path):
            how = "write a labels.csv, or sort the images into a subfolder for each class"
            raise DataError(f"{path}: has no labels.csv and no subfolder; {how}")
        return load_classes(path, *given)
    except DataError as error:
        raise DataError(f"{error}{advice}") from None


def _meaning(table: str) -> str:
    """What to do with a table that is no labels.csv: that of a public set, or one's own."""
    from sdmad_datasets import DATASETS

    if table.lower().endswith(".npz"):
        return "give the file itself"
    for name, entry in DATASETS.items() if plain(Path(table).stem) not in PARTS else ():  # anybody has a train.csv
        if re.search(rf"(?m)^\s*{re.escape(table)}(\s|,|$)", entry.tree):
            return f"a public set is read with load_dataset('{name}', folder)"
    return "a table of labels is called labels.csv, with a column image"


def _inside(path: Path, normal: str | None) -> Path:
    """The folder itself, or the only one in it if the data begin there, as archives unpack."""
    only = [] if os.path.lexists(path / "labels.csv") else subfolders(path)
    begin = {*PARTS, *map(plain, [normal] if normal else NORMAL)}
    if len(only) != 1 or plain(only[0].name) in begin:
        return path
    inner = _inside(only[0], normal)
    begins = os.path.lexists(inner / "labels.csv") or begin & {plain(one.name) for one in subfolders(inner)}
    return inner if begins else path
