"""Chest radiographs with labels mined from reports: NIH ChestX-ray14 and CheXpert."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sdmad_lite.errors import DataError

from .entry import Box, Dataset, Missing, Row, files_below, first_of, inside, numbers, read_table

NIH_TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")


def nih(entry: Dataset, folder: Path, official_split: bool = True, missing: str = "error") -> Iterator[Row]:
    """Labels from `Data_Entry_2017.csv`, the split from the two lists; images anywhere below the folder."""
    split = _nih_split(entry, folder) if official_split else {}
    path, there, lost = first_of(entry, folder, *NIH_TABLES), files_below(folder), Missing(entry, folder, missing)
    needed = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
    categories = set(entry.categories)
    for line, cells in read_table(entry, path, needed, at_least=7):
        name = inside(path, line, cells["Image Index"].strip())
        found = {label.strip() for label in cells["Finding Labels"].split("|")} - {"No Finding"}
        if unknown := found - categories:
            raise DataError(
                f"{path}, line {line}: unknown label {min(unknown)!r}; known are {', '.join(entry.categories)}"
            )
        if name not in there:
            lost.add(name)
            continue
        if official_split and name not in split:
            raise DataError(f"{path}, line {line}: {name} is in neither list; pass official_split=False")
        age = re.match(r"0*(\d+)", cells["Patient Age"].strip())  # 058Y in one edition, 58 in the other
        yield Row(
            there[name],
            found,
            {
                "patient_id": cells["Patient ID"].strip(),
                "age": age[1] if age else "",
                "sex": cells.get("Patient Gender", cells.get("Patient Sex", "")).strip(),
                "view": cells["View Position"].strip(),
                "split": split.get(name, ""),
            },
        )
    lost.check()


def _nih_split(entry: Dataset, folder: Path) -> dict[str, str]:
    split = {}
    for name, value in (("train_val_list.txt", "train"), ("test_list.txt", "test")):
        try:
            names = (folder / name).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise entry.error(folder / name, f"cannot be read ({error}); it holds the official split") from None
        split.update(dict.fromkeys(names, value))
    return split


def nih_boxes(entry: Dataset, folder: Path) -> Iterator[Box]:
    """`BBox_List_2017.csv`: its header splits "Bbox [x,y,w,h]" at the commas, so cells are read by place."""
    path, there = folder / "BBox_List_2017.csv", files_below(folder)
    names = {"Infiltrate": "Infiltration"}
    for line, cells in read_table(entry, path, ("Image Index", "Finding Label"), at_least=6):
        name, label, *corner = [cell.strip() for cell in list(cells.values())[:6]]
        category = names.get(label, label)
        if category not in entry.categories:
            raise DataError(f"{path}, line {line}: unknown label {label!r}; known are {', '.join(entry.categories)}")
        if inside(path, line, name) in there:
            yield Box(there[name], category, *numbers(path, line, corner))


def chexpert(
    entry: Dataset,
    folder: Path,
    official_split: bool = True,
    missing: str = "error",
    uncertain: str = "drop",
    views: str = "frontal",
) -> Iterator[Row]:
    """Labels and paths from `train.csv` and `valid.csv`.

    Args:
        entry: the set.
        folder: holds the two files; the paths in them begin with the name of the folder as published.
        official_split: whether the split of the two files is kept.
        missing: "error", or "skip" to leave out images that are not there.
        uncertain: what -1 counts as: "drop" leaves the image out (ours: few shots need few images, so they can be
            sure ones), "negative" and "positive" are U-Zeros and U-Ones of the paper.
        views: "frontal", or "all" for lateral images too, which the signs of the bank do not describe.
    """
    for name, value, known in (
        ("uncertain", uncertain, ("drop", "negative", "positive")),
        ("views", views, ("frontal", "all")),
    ):
        if value not in known:
            raise DataError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    lost, categories = Missing(entry, folder, missing), entry.categories
    for file, split in (("train.csv", "train"), ("valid.csv", "test")):
        path = folder / file
        needed = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *categories)
        for line, cells in read_table(entry, path, needed):
            if views == "frontal" and cells["Frontal/Lateral"] != "Frontal":
                continue
            values = {c: _chexpert_value(path, line, c, cells[c]) for c in (*categories, "No Finding")}
            if uncertain == "drop" and -1 in values.values():
                continue
            found = {c for c in categories if values[c] == 1 or (uncertain == "positive" and values[c] == -1)}
            if not found and values["No Finding"] != 1:
                continue  # nothing is asserted: neither an anomaly nor normal
            name = re.sub(r"^CheXpert-v1\.0[^/]*/", "", inside(path, line, cells["Path"]))
            image = folder / name
            if not os.path.isfile(image):  # 190,000 folders: listing them costs more than asking for each file
                lost.add(name)
                continue
            patient = re.search(r"patient\d+", name)
            if not patient:
                raise DataError(f"{path}, line {line}: no patient in the path {name!r}; correct the line")
            view = cells["AP/PA"].strip() or cells["Frontal/Lateral"]
            meta = {"patient_id": patient[0], "age": cells["Age"], "sex": cells["Sex"], "view": view, "split": split}
            yield Row(image, found, meta)
    lost.check()


VALUES = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": -1, "-1.0": -1}


def _chexpert_value(path: Path, line: int, column: str, cell: str) -> int:
    value = VALUES.get(cell.strip())
    if value is None:
        raise DataError(f"{path}, line {line}, column {column}: {cell!r} is not 1, 0, -1 or empty; correct the cell")
    return value


SETS = (
    Dataset(
        name="nih_chest14",
        title="NIH ChestX-ray14",
        modality="frontal chest radiograph",
        images=112120,
        licence="no restrictions on use; link to the download page, cite the paper, name the NIH Clinical Center",
        licence_url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        citation="Wang et al., ChestX-ray8: Hospital-scale chest X-ray database and benchmarks, CVPR 2017",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        access="open, 45 GB in 12 archives",
        normal="No Finding",
        bank="nih_chest14",
        tree="""\
folder/
  Data_Entry_2017.csv        or Data_Entry_2017_v2020.csv
  train_val_list.txt         the official split
  test_list.txt
  BBox_List_2017.csv         only for boxes
  images_001/images/00000001_000.png ...   or all images in one folder images/""",
        read=nih,
        read_boxes=nih_boxes,
        patients=True,
        task="multi-label",
        notes="The labels were mined from reports by a program; the authors put their accuracy above 90 %, readers of "
        "the images found less. AP images were mostly taken at the bedside, so the view (`meta['view']`) gives away "
        "how ill a patient is: score AP and PA apart. Some ages of the first edition are impossible (above 400). There "
        "are 984 boxes, of 8 categories, in pixels of the 1024 x 1024 images. `missing='skip'` loads what is "
        "there when only some archives were fetched.",
    ),
    Dataset(
        name="chexpert",
        title="CheXpert",
        modality="frontal chest radiograph",
        images=224316,
        licence="Stanford research use agreement: no commercial use, no redistribution",
        licence_url="https://stanfordmlgroup.github.io/competitions/chexpert/",
        citation="Irvin et al., CheXpert: A large chest radiograph dataset with uncertainty labels, AAAI 2019",
        url="https://stanfordmlgroup.github.io/competitions/chexpert/",
        access="account and agreement",
        normal="No Finding is 1 and no other label is",
        bank="chexpert",
        tree="""\
CheXpert-v1.0-small/         or CheXpert-v1.0/
  train.csv
  valid.csv
  train/patient00001/study1/view1_frontal.jpg ...
  valid/patient64541/study1/view1_frontal.jpg ...""",
        read=chexpert,
        patients=True,
        task="multi-label",
        notes="The labels were mined from reports; those of valid.csv come from three radiologists. A label can be -1, "
        "uncertain: by default (`uncertain='drop'`) an image with such a label is left out, because few shots can be "
        "sure ones; `uncertain='negative'` and `'positive'` are the U-Zeros and U-Ones of the paper. An empty cell "
        "means that the report does not mention the finding and counts as 0; an image without any positive label is "
        "normal only if No Finding is 1, else it is left out. Only frontal images are loaded, as the signs describe "
        "these (`views='all'` for all). Support Devices is a label, not an illness. valid.csv is the split test: the "
        "official test images are published apart.",
    ),
)
