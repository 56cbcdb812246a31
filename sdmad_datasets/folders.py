"""Sets whose labels are folder names: BMAD, the brain tumour MRI set of Kaggle, and BUSI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .entry import Dataset, Row, files_below


def _subfolder(folder: Path, *names: str) -> Path | None:
    """The subfolder of one of these names, whatever its capitals."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name.lower() in names:
                return path
    return None


def bmad(entry: Dataset, folder: Path, official_split: bool = True) -> Iterator[Row]:
    """`train/good`, `valid` and `test` with `good` and `Ungood`; images directly there or in `img`."""
    for names, split in ((("train",), "train"), (("valid", "val"), "train"), (("test",), "test")):
        part = _subfolder(folder, *names)
        for kind, found in (("good", ()), ("ungood", entry.categories)):
            place = part and _subfolder(part, kind)
            if place is None:
                if kind == "ungood" and names == ("train",):
                    continue  # BMAD trains on normal images alone
                raise entry.error(folder / names[0] / kind, "no such folder")
            for name, path in files_below(_subfolder(place, "img") or place).items():
                meta = {"split": split}
                if entry.patients:
                    meta["patient_id"] = re.sub(r"_\d+\.\w+$", "", name)
                yield Row(path, found, meta)


CLASSES = {"glioma": "Glioma", "meningioma": "Meningioma", "notumor": None, "pituitary": "Pituitary tumor"}


def brain_tumor(entry: Dataset, folder: Path, official_split: bool = True) -> Iterator[Row]:
    """`Training` and `Testing`, each with a folder per class."""
    for name, split in (("Training", "train"), ("Testing", "test")):
        part = folder / name
        if not part.is_dir():
            raise entry.error(part, "no such folder")
        found = {path.name for path in part.iterdir() if path.is_dir() and not path.name.startswith(".")}
        if unknown := found - CLASSES.keys():
            raise entry.error(part / min(unknown), f"unknown class; known are {', '.join(CLASSES)}")
        if lost := CLASSES.keys() - found:
            raise entry.error(part / min(lost), "no such folder")
        for label, category in CLASSES.items():
            for path in files_below(part / label).values():
                yield Row(path, (category,) if category else (), {"split": split})


BUSI = {"benign": "Benign", "malignant": "Malignant", "normal": None}


def busi(entry: Dataset, folder: Path, official_split: bool = True) -> Iterator[Row]:
    """`benign`, `malignant` and `normal`; a mask has the name of its image and `_mask` or `_mask_1` at the end."""
    top = _subfolder(folder, "dataset_busi_with_gt") or folder
    for label, category in BUSI.items():
        if (part := _subfolder(top, label)) is None:
            raise entry.error(top / label, "no such folder")
        for name, path in files_below(part).items():
            if not re.search(r"_mask(_\d+)?\.\w+$", name):
                yield Row(path, (category,) if category else (), {})


BMAD_CITATION = "Bao et al., BMAD: Benchmarks for medical anomaly detection, CVPR Workshops 2024, and the source data"
WITH_MASKS = """\
folder/                      with val or valid, Ungood or ungood
  train/good/img/00003_60.png ...          img/ may be left out
  valid/good/img/00025_99.png ...
  valid/Ungood/img/00124_60.png ...
  valid/Ungood/label/00124_60.png ...      masks, not read
  test/good/img/..., test/Ungood/img/..., test/Ungood/label/..."""
WITHOUT_MASKS = """\
folder/                      with val or valid, Ungood or ungood
  train/good/1000.png ...
  valid/good/1080.png ...
  valid/Ungood/1000.png ...
  test/good/..., test/Ungood/..."""
ONE_CLASS = "BMAD is made for training on normal images alone, and its train folder has no anomaly; the few of valid "
ONE_CLASS += "are the only ones to draw shots from. So train and valid together are the split train here. "


def _bmad(name: str, title: str, modality: str, images: int, source: str, masks: bool, **facts) -> Dataset:
    patients = facts.pop("patients", False)
    notes = facts.pop("notes", "No patient is known." if not patients else "")
    return Dataset(
        name=name,
        title=f"BMAD {title}",
        modality=modality,
        images=images,
        licence=f"that of its source, {source}; BMAD states none of its own for the images",
        licence_url="https://github.com/DorisBao/BMAD",
        citation=BMAD_CITATION,
        url="https://github.com/DorisBao/BMAD",
        access="open, by a link on that page",
        normal="good",
        bank=name,
        tree=WITH_MASKS if masks else WITHOUT_MASKS,
        read=bmad,
        patients=patients,
        task="one class",
        notes=ONE_CLASS + notes,
        unchecked="numbers of images; terms of the source",
        **facts,
    )


SETS = (
    _bmad(
        "bmad_brain",
        "brain",
        "axial FLAIR slice of the brain",
        11298,
        "BraTS 2021",
        masks=True,
        patients=True,
        notes="The number before the underscore of a file is the case of BraTS; it is taken as the patient.",
    ),
    _bmad("bmad_liver", "liver", "axial contrast CT slice of the liver", 3201, "BTCV and LiTS", masks=True),
    _bmad("bmad_resc", "retina RESC", "retinal OCT", 6217, "RESC", masks=True),
    _bmad("bmad_oct2017", "retina OCT2017", "retinal OCT", 27315, "OCT2017 (Kermany, CC BY 4.0)", masks=False),
    _bmad("bmad_chest", "chest RSNA", "frontal chest radiograph", 26684, "RSNA pneumonia challenge", masks=False),
    _bmad(
        "bmad_histopathology",
        "histopathology Camelyon16",
        "histology of a lymph node, haematoxylin and eosin",
        7285,
        "Camelyon16 (CC0)",
        masks=False,
        color=True,
    ),
    Dataset(
        name="brain_tumor_mri",
        title="Brain tumor MRI",
        modality="MRI slice of the brain",
        images=7023,
        licence="see the page: it is cited as CC0 and as CC BY 4.0",
        licence_url="https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset",
        citation="Nickparvar, Brain tumor MRI dataset, Kaggle 2021, and its sources, one of them Cheng, figshare 2017",
        url="https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset",
        access="account",
        normal="notumor",
        bank="brain_tumor_mri",
        tree="""\
folder/
  Training/glioma/Tr-gl_0010.jpg ...
  Training/meningioma/..., Training/notumor/..., Training/pituitary/...
  Testing/glioma/..., Testing/meningioma/..., Testing/notumor/..., Testing/pituitary/...""",
        read=brain_tumor,
        patients=False,
        task="one class",
        notes="Put together from several sources; the normal images come from another one than the tumours, so a model "
        "can tell them apart by the scanner. Slices are axial, sagittal and coronal, of several sequences. No patient "
        "is named, and slices of one patient lie in both folders as far as anyone can tell. The set of figshare with "
        ".mat files is not read: it has no normal image. A later version has 7,200 images.",
        unchecked="licence",
    ),
    Dataset(
        name="busi",
        title="BUSI",
        modality="breast ultrasound",
        images=780,
        licence="CC BY 4.0, as it is cited; see the page",
        licence_url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        citation="Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 28:104863, 2020",
        url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        access="open",
        normal="normal",
        bank="busi",
        tree="""\
folder/                      or the folder above Dataset_BUSI_with_GT/
  benign/benign (1).png ...
  benign/benign (1)_mask.png ...           masks, not read
  malignant/malignant (1).png ...
  normal/normal (1).png ...""",
        read=busi,
        patients=False,
        task="one class",
        notes="600 patients, none named: images of one are on both sides of a split. Some images stand twice, even in "
        "two classes, and many carry burnt-in marks, boxes and text, which differ between the classes. breastmnist is "
        "the same set with benign and normal as one class.",
        unchecked="licence",
    ),
)
