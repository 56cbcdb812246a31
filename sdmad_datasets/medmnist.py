"""MedMNIST: small images in one `.npz` a set, split by its authors; the only sets that can be fetched by program.

Addresses and MD5 are those of medmnist 3 (`medmnist/info.py`), which point to Zenodo record 10519652.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdmad_lite.errors import DataError

from .entry import Dataset, Download, Row
from .npz import load_npz

SIZES = (28, 64, 128, 224)


def medmnist(entry: Dataset, folder: Path, official_split: bool = True, size: int | None = None) -> Iterator[Row]:
    """Arrays of one `.npz`; see `load_npz`.

    Args:
        entry: the set; its settings give the set's own labels in order, each with its category (None: normal).
        folder: holds the file.
        official_split: whether the split of the authors is kept.
        size: side in pixels, one of SIZES; may be left out where only one file lies there.
    """
    labels: dict[str, str | None] = entry.settings["labels"]
    normal = next((label for label, category in labels.items() if category is None), "")
    table = load_npz(_file(entry, folder, size), normal=normal, names=list(labels))
    for image, values, split in zip(table.images, table.labels, table.meta["split"], strict=True):
        found = {category for c in values.nonzero()[0] if (category := labels[table.categories[c]])}
        yield Row(image, found, {"split": split})


def _file(entry: Dataset, folder: Path, size: int | None) -> Path:
    if size not in (None, *SIZES):
        raise DataError(f"size is {size!r}; it must be one of {', '.join(map(str, SIZES))}")
    names = {s: f"{entry.name}.npz" if s == 28 else f"{entry.name}_{s}.npz" for s in SIZES}
    there = [s for s in SIZES if (folder / names[s]).is_file() and size in (None, s)]
    if not there:
        raise entry.error(folder, f"holds no {names[size] if size else ' or '.join(names.values())}")
    if len(there) > 1:
        raise DataError(f"{folder}: holds {entry.name} in several sizes; pass size={there[-1]} or another of {there}")
    return folder / names[there[0]]


def _downloads(name: str, *md5: str) -> tuple[Download, ...]:
    files = [f"{name}.npz" if size == 28 else f"{name}_{size}.npz" for size in SIZES]
    return tuple(
        Download(str(size), file, f"https://zenodo.org/records/10519652/files/{file}?download=1", sum_)
        for size, file, sum_ in zip(SIZES, files, md5, strict=True)
    )


def _entry(name: str, title: str, md5: tuple[str, str, str, str], **facts) -> Dataset:
    shared = {
        "licence": "CC BY 4.0",
        "licence_url": "https://medmnist.com",
        "citation": "Yang et al., MedMNIST v2: A large-scale lightweight benchmark for 2D and 3D biomedical image "
        "classification, Scientific Data 10:41, 2023, and the source data",
        "url": "https://zenodo.org/records/10519652",
        "access": "open",
        "tree": f"folder/\n  {name}.npz              28 pixels; or {name}_64.npz, {name}_128.npz, {name}_224.npz",
        "patients": False,
        "task": "one class",
    }
    return Dataset(name=name, title=title, read=medmnist, downloads=_downloads(name, *md5), **{**shared, **facts})


NO_PATIENTS = "The file names no patient: the authors' split is kept, and no split of one's own can be made by patient."

SETS = (
    _entry(
        "chestmnist",
        "ChestMNIST",
        (
            "02c8a6516a18b556561a56cbdd36c4a8",
            "9de6cd0b934ebb5b7426cfba5efbae16",
            "db107e5590b27930b62dbaf558aebee3",
            "45bd33e6f06c3e8cdb481c74a89152aa",
        ),
        modality="frontal chest radiograph",
        images=112120,
        normal="no label",
        bank="nih_chest14",
        task="multi-label",
        settings={
            "labels": {
                "atelectasis": "Atelectasis",
                "cardiomegaly": "Cardiomegaly",
                "effusion": "Effusion",
                "infiltration": "Infiltration",
                "mass": "Mass",
                "nodule": "Nodule",
                "pneumonia": "Pneumonia",
                "pneumothorax": "Pneumothorax",
                "consolidation": "Consolidation",
                "edema": "Edema",
                "emphysema": "Emphysema",
                "fibrosis": "Fibrosis",
                "pleural": "Pleural_Thickening",
                "hernia": "Hernia",
            }
        },
        notes="NIH ChestX-ray14 made small; the labels are mined from reports. " + NO_PATIENTS,
    ),
    _entry(
        "pneumoniamnist",
        "PneumoniaMNIST",
        (
            "28209eda62fecd6e6a2d98b1501bb15f",
            "8f4eceb4ccffa70c672198ea285246c6",
            "05b46931834c231683c68f40c47b2971",
            "d6a3c71de1b945ea11211b03746c1fe1",
        ),
        modality="frontal chest radiograph of a child",
        images=5856,
        normal="class 0, normal",
        bank="pneumoniamnist",
        settings={"labels": {"normal": None, "pneumonia": "Pneumonia"}},
        notes="Children of one to five years. " + NO_PATIENTS,
    ),
    _entry(
        "retinamnist",
        "RetinaMNIST",
        (
            "bd4c0672f1bba3e3a89f0e4e876791e4",
            "afda852cc34dcda56f86ad2b2457dbcc",
            "e48e916a24454daf90583d4e6efb1a18",
            "eae7e3b6f3fcbda4ae613ebdcbe35348",
        ),
        modality="colour fundus photograph",
        images=1600,
        normal="grade 0",
        bank="retinamnist",
        color=True,
        settings={"labels": {"0": None, **dict.fromkeys("1234", "Diabetic retinopathy")}},
        notes="Grades 1 to 4 of diabetic retinopathy count as one category. " + NO_PATIENTS,
    ),
    _entry(
        "breastmnist",
        "BreastMNIST",
        (
            "750601b1f35ba3300ea97c75c52ff8f6",
            "742edef2a1fd1524b2efff4bd7ba9364",
            "363e4b3f8d712e9b5de15470a2aaadf1",
            "b56378a6eefa9fed602bb16d192d4c8b",
        ),
        modality="breast ultrasound",
        images=780,
        normal="class 1, normal or benign",
        bank="breastmnist",
        settings={"labels": {"malignant": "Malignant tumor", "normal, benign": None}},
        notes="Benign lumps count as normal, as the authors put both into one class. " + NO_PATIENTS,
    ),
    _entry(
        "octmnist",
        "OCTMNIST",
        (
            "c68d92d5b585d8d81f7112f81e2d0842",
            "e229e9440236b774d9f0dfef9d07bdaf",
            "0a97e76651ace45c5d943ee3f65b63ae",
            "abc493b6d529d5de7569faaef2773ba3",
        ),
        modality="retinal OCT",
        images=109309,
        normal="class 3, normal",
        bank="octmnist",
        settings={
            "labels": {
                "choroidal neovascularization": "Choroidal neovascularization",
                "diabetic macular edema": "Diabetic macular edema",
                "drusen": "Drusen",
                "normal": None,
            }
        },
        notes=NO_PATIENTS,
    ),
    _entry(
        "dermamnist",
        "DermaMNIST",
        (
            "0744692d530f8e62ec473284d019b0c7",
            "b70a2f5635c6199aeaa28c31d7202e1f",
            "2defd784463fa5243564e855ed717de1",
            "8974907d8e169bef5f5b96bc506ae45d",
        ),
        modality="dermatoscopic image",
        images=10015,
        licence="CC BY-NC 4.0",
        normal="class 5, melanocytic nevi (ours: the set has no image without a lesion)",
        bank="dermamnist",
        color=True,
        settings={
            "labels": {
                "actinic keratoses and intraepithelial carcinoma": "Actinic keratosis",
                "basal cell carcinoma": "Basal cell carcinoma",
                "benign keratosis-like lesions": "Benign keratosis",
                "dermatofibroma": "Dermatofibroma",
                "melanoma": "Melanoma",
                "melanocytic nevi": None,
                "vascular lesions": "Vascular lesion",
            }
        },
        notes="Every image shows a lesion; the common mole stands for normal here. HAM10000, the source, has several "
        "images of one lesion, and these were not kept in one split. " + NO_PATIENTS,
    ),
)
