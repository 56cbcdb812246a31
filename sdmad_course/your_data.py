"""The assignment: any folder to a table, its signs, and how many shots it has; `14_your_data` uses these."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sdmad_datasets import DATASETS, load_dataset
from sdmad_lite.data import ImageTable, load_data, read_image, split_train_test
from sdmad_lite.errors import DataError, needs, warn
from sdmad_lite.evaluation.experiment import eligible
from sdmad_lite.files import write_text
from sdmad_lite.signs.bank import SignBank, load_bank


def your_table(data: str | Path | ImageTable, signs: str | Path | SignBank) -> tuple[SignBank, ImageTable]:
    """The bank and the images of those of its categories that are there.

    Args:
        data: a folder with labels.csv, a folder for each class, a .npz, or what `load_data` made of them; a public set
            as published where `signs` is the name of its bank.
        signs: the name of a bank, a path, or a bank.

    Raises:
        DataError: the data are in none of these forms, or show no category of the bank.
    """
    bank = signs if isinstance(signs, SignBank) else load_bank(signs)
    table = data if isinstance(data, ImageTable) else _read(Path(data), bank)
    there = [c for c in bank.categories if c in table.categories and table.labels[:, table.categories.index(c)].any()]
    if not there:
        raise DataError(
            f"{table.categories} are the classes of the data, {bank.categories} those of the signs: none fit"
        )
    if absent := [c for c in bank.categories if c not in there]:
        warn(f"not in the data, left out: {', '.join(absent)}")
    return bank.restricted(there), table.restricted(there)


def _read(path: Path, bank: SignBank) -> ImageTable:
    """What `load_data` reads; else the public set that the bank was written for, as its publisher lays it out."""
    names: list[list[str] | None] = [None]
    if path.suffix.lower() == ".npz":  # class 0 is normal and the others those of the bank, or a column for each
        names += [["normal", *bank.categories], list(bank.categories)]
    said = []
    for given in names:
        try:
            return load_data(path, bank.categories, names=given, drop_copies=True)
        except DataError as error:
            said.append(str(error))
    if bank.name in DATASETS and path.is_dir():
        return load_dataset(bank.name, path, drop_copies=True)
    raise DataError(said[-1])


def halves(table: ImageTable, seed: int = 0, most: int = 600) -> tuple[ImageTable, ImageTable]:
    """Train and test images, by patient where there are any; of many images a random `most` in each half.

    A part `val` of the split stays unused, and so does an image that no half has.
    """
    rng = np.random.default_rng(seed)
    train, test = (
        part if len(part) <= most else part.rows(np.sort(rng.choice(len(part), most, replace=False)))
        for part in split_train_test(table, seed)
    )
    return train, test


def task_there(train: ImageTable, test: ImageTable, most: int = 8) -> tuple[list[str], dict[str, str], int]:
    """What can be learnt and scored: categories, why others are left out, and shots.

    A category needs four positive images in each half. Shots leave as many positive patients of the rarest category,
    and as many normal ones, to look at as they take: at least 1, `most` at most.

    Raises:
        DataError: no category is left, or fewer than two normal patients.
    """
    left_out = eligible(train, test, 2, least=4)
    if not (kept := [c for c in train.categories if c not in left_out]):
        raise DataError(f"no category has enough images: {'; '.join(f'{c}: {why}' for c, why in left_out.items())}")
    train = train.restricted(kept)
    columns = np.column_stack([train.labels, train.labels.sum(1) == 0])
    patients = [len(np.unique(train.patients()[has == 1])) for has in columns.T]
    if patients[-1] < 2:
        raise DataError(f"{patients[-1]} patients with a normal image in the training half; at least two are needed")
    return kept, left_out, min(most, min(patients) // 2)


def write_forms(table: ImageTable, rows: Sequence[int], folder: Path, color: bool = False) -> dict[str, Path]:
    """The same images as three people would have them: form -> where it lies. Needs pydicom.

    A folder for each class and a .npz hold images with one category or none; DICOM files stand beside a labels.csv.
    """
    shutil.rmtree(folder, ignore_errors=True)
    alone = [i for i in rows if table.labels[i].sum() <= 1]
    number = {i: 1 + int(table.labels[i].argmax()) if table.labels[i].any() else 0 for i in rows}
    names, pictures = ["normal", *table.categories], {i: read_image(table.images[i], color, strict=False) for i in rows}
    for i in alone:
        (folder / "classes" / names[number[i]]).mkdir(parents=True, exist_ok=True)
        pictures[i].save(folder / "classes" / names[number[i]] / f"{i}.png")
    arrays = {}
    for start, part in enumerate(("train", "test")):
        arrays[f"{part}_images"] = np.stack([np.asarray(pictures[i].resize((64, 64))) for i in alone[start::2]])
        arrays[f"{part}_labels"] = np.array([[number[i]] for i in alone[start::2]])
    np.savez_compressed(folder / "packed.npz", **arrays)  # type: ignore[arg-type]
    (folder / "dicom").mkdir()
    lines = [["image", *table.categories]]
    for i in rows:
        _save_dicom(folder / "dicom" / f"{i}.dcm", pictures[i], str(table.patients()[i]))
        lines.append([f"{i}.dcm", *map(str, table.labels[i])])
    write_text(folder / "dicom" / "labels.csv", "\n".join(map(",".join, lines)) + "\n")
    return {form: folder / form for form in ("classes", "packed.npz", "dicom")}


def _save_dicom(path: Path, picture: Image.Image, patient: str) -> None:
    """A grey picture as a scanner writes it: 12 bits, and a window that makes 8 of them."""
    needs("pydicom", "dicom")
    import pydicom

    grey, scan, uid = np.asarray(picture.convert("L")).astype(np.uint16), pydicom.Dataset(), pydicom.uid
    values = {"PatientID": patient, "Modality": "OT", "PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1}
    values |= {"Rows": grey.shape[0], "Columns": grey.shape[1], "PixelRepresentation": 0, "BitsAllocated": 16}
    values |= {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
    for name, value in values.items():
        setattr(scan, name, value)
    scan.SOPClassUID, scan.SOPInstanceUID = uid.SecondaryCaptureImageStorage, uid.generate_uid(entropy_srcs=[str(path)])
    scan.PixelData = (grey * 16).tobytes()
    scan.file_meta = pydicom.dataset.FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    scan.save_as(path, enforce_file_format=True)
