"""Public data sets: what they are, where to get them, and readers for the files as their publishers lay them out.

    from sdmad_datasets import DATASETS, load_dataset
    table = load_dataset("nih_chest14", "/data/nih")

`entry.py` says what is known of a set; `chest.py`, `vindr.py`, `covid.py`, `fundus.py`, `folders.py`, `fastmri.py`,
`medfm.py` and `medmnist.py` read them, `npz.py` any .npz of MedMNIST's form; `page.py` writes docs/results/datasets.md.
Nothing is fetched unless `get_dataset` is called.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from sdmad_lite.data import ImageTable, without_copies
from sdmad_lite.errors import DataError

from . import chest, covid, fastmri, folders, fundus, medfm, medmnist, vindr
from .download import fetch, unpack
from .entry import Box, Dataset, Download, table_of

__all__ = ["DATASETS", "Box", "Dataset", "Download", "boxes", "dataset_named", "fetch", "get_dataset"]
__all__ += ["load_dataset", "options", "unpack"]

DATASETS: dict[str, Dataset] = {
    entry.name: entry
    for module in (chest, vindr, covid, fundus, folders, fastmri, medfm, medmnist)
    for entry in module.SETS
}


def dataset_named(name: str) -> Dataset:
    """What is known of a set, or a DataError that lists all names."""
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name]


def options(name: str) -> dict[str, object]:
    """What `load_dataset` takes for this set apart from name and folder, with the defaults."""
    parameters = list(inspect.signature(dataset_named(name).read).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


def load_dataset(name: str, folder: str | Path, drop_copies: bool | None = None, **choices) -> ImageTable:
    """Read the labels of a public set from its own files; images are opened only when they are used.

    Args:
        name: key of DATASETS.
        folder: where the set lies, laid out as `DATASETS[name].tree` shows.
        drop_copies: as for `load_data`; None looks for no copies, since that opens all images.
        **choices: see `options(name)`. Every set knows `official_split`: False leaves the set's own split out of
            `meta`, and patients are then halved at random by `split_train_test`. Sets with label files know
            `missing`: "skip" loads what is there of a set that was fetched in part.

    Returns:
        The table, with the categories of the set's bank; meta has patient_id, age, sex, view and split (train,
        valid, test) where the set has them. A row of zeros is an image that the set calls normal; images that show
        only findings without a category are left out.

    Raises:
        DataError: a file, column or label is not as published; the message names it, the layout and the source.
    """
    entry, folder = dataset_named(name), Path(folder)
    known = options(name)
    for choice in choices:
        if choice not in known:
            raise DataError(f"{entry.title} has no option {choice}=; it has {', '.join(f'{name}=' for name in known)}")
    if not folder.is_dir():
        raise entry.error(folder, "no such folder")
    try:
        rows = entry.read(entry, folder, **choices)
        table = table_of(entry, folder, rows, choices.get("official_split", True))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error}); check the rights of its folders") from None
    return table if drop_copies is None else without_copies(entry.title, table, drop_copies)[0]


def boxes(name: str, folder: str | Path) -> list[Box]:
    """Where the findings lie, for sets that say so; boxes of images that are not there are left out.

    Raises:
        DataError: the set has no boxes, or its file is not as published.
    """
    entry, folder = dataset_named(name), Path(folder)
    if entry.read_boxes is None:
        raise DataError(f"{entry.title} has no boxes; {', '.join(n for n, e in DATASETS.items() if e.boxes)} have")
    if not folder.is_dir():
        raise entry.error(folder, "no such folder")
    try:
        return list(entry.read_boxes(entry, folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error}); check the rights of its folders") from None


def get_dataset(name: str, folder: str | Path, progress: bool = True, variant: str | int = "224") -> list[Path]:
    """Fetch a set that may be fetched without an account (MedMNIST), whole and with its checksum.

    Args:
        name: key of DATASETS.
        folder: where to; it is made.
        progress: whether a bar is shown.
        variant: which of `DATASETS[name].downloads`: for MedMNIST the side in pixels, 224 by default.

    Returns:
        The files.

    Raises:
        DataError: the set cannot be fetched; the message says where it is and what has to be done there.
        DownloadError: a file could not be fetched whole.
    """
    entry, folder = dataset_named(name), Path(folder)
    if not entry.downloads:
        raise entry.error(name, f"cannot be fetched by program: go to {entry.url} ({entry.access})")
    chosen = [download for download in entry.downloads if download.variant == str(variant)]
    if not chosen:
        raise DataError(f"{entry.title}: no variant {variant!r}; it has {', '.join(entry.variants)}")
    return [fetch(d.url, folder / d.file, f"md5:{d.md5}", progress=progress) for d in chosen]
