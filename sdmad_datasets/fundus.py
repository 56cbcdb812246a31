"""Fundus photographs: ODIR-5K (labels of two eyes, parted by keywords) and RFMiD (45 columns)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sdmad_lite.errors import DataError

from .entry import Dataset, Missing, Row, files_below, flag, inside, read_table

KEYWORDS = {
    "Diabetic retinopathy": r"diabetic retinopathy|proliferative (diabetic )?retinopathy",
    "Glaucoma": r"glaucoma",
    "Cataract": r"cataract",
    "Macular degeneration": r"macular degeneration",
    "Hypertensive retinopathy": r"hypertensive retinopathy",
    "Pathological myopia": r"myopi",
}
"""Words of a keyword that decide its category; any other keyword is a finding of the category Other."""

QUALITY = ("lens dust", "low image quality", "image offset")
NO_RETINA = ("anterior segment image", "no fundus image", "optic disk photographically invisible")
ODIR_FOLDERS = (
    "ODIR-5K/ODIR-5K/Training Images",
    "ODIR-5K/Training Images",
    "Training Images",
    "ODIR-5K_Training_Images",
    "ODIR-5K_Training_Dataset",
    "preprocessed_images",
)


def eye_labels(keywords: str) -> set[str] | None:
    """Categories of one eye from its keywords; empty for a normal eye, None where the photograph tells neither.

    Our choice, because the set labels patients: the keywords are its only statement about each eye.

    >>> sorted(eye_labels("lens dust，moderate non proliferative retinopathy，drusen"))
    ['Diabetic retinopathy', 'Other']
    >>> eye_labels("lens dust，normal fundus")
    set()
    >>> eye_labels("low image quality") is None
    True
    """
    words = [word.strip().lower() for word in re.split("[,，]", keywords)]
    words = [word for word in words if word and word not in QUALITY]
    if not words or any(word in NO_RETINA for word in words):
        return None
    found = set()
    for word in words:
        if word != "normal fundus":
            matched = {category for category, pattern in KEYWORDS.items() if re.search(pattern, word)}
            found |= matched or {"Other"}
    return found


def odir(entry: Dataset, folder: Path, official_split: bool = True, missing: str = "error") -> Iterator[Row]:
    """A row per eye from `full_df.csv` or the annotations saved as CSV."""
    tables = [folder / "full_df.csv", *sorted(folder.glob("ODIR-5K_Training_Annotations*.csv"))]
    path = next((table for table in tables if table.is_file()), None)
    if path is None:
        sheets = [*folder.glob("ODIR-5K_Training_Annotations*.xlsx"), *folder.glob("data.xlsx")]
        hint = f"; save {sheets[0].name} as CSV in UTF-8 under the same name" if sheets else ""
        raise entry.error(folder, f"holds no full_df.csv or ODIR-5K_Training_Annotations*.csv{hint}")
    place = next((folder / name for name in ODIR_FOLDERS if (folder / name).is_dir()), folder)
    there, lost, seen = files_below(place), Missing(entry, folder, missing), set()
    needed = ("ID", "Patient Age", "Patient Sex", "Left-Diagnostic Keywords", "Right-Diagnostic Keywords")
    for line, cells in read_table(entry, path, (*needed, "Left-Fundus", "Right-Fundus")):
        for side in ("Left", "Right"):
            name = inside(path, line, cells[f"{side}-Fundus"].strip())
            if name in seen or cells.get("filename", name).strip() != name:
                continue  # full_df.csv has a line per eye, each with both eyes of the patient
            seen.add(name)
            found = eye_labels(cells[f"{side}-Diagnostic Keywords"])
            if found is None:
                continue
            if name not in there:
                lost.add(name)
                continue
            meta = {"patient_id": cells["ID"].strip(), "age": cells["Patient Age"].strip()}
            yield Row(there[name], found, {**meta, "sex": cells["Patient Sex"].strip()})
    lost.check()


RFMID = {
    "DR": "Diabetic retinopathy",
    "ARMD": "Macular degeneration",
    "MH": "Media haze",
    "DN": "Drusen",
    "MYA": "Myopia",
    "BRVO": "Branch retinal vein occlusion",
    "TSLN": "Tessellation",
    "ERM": "Epiretinal membrane",
    "LS": "Laser scars",
    "MS": "Macular scar",
    "CSR": "Central serous retinopathy",
    "ODC": "Optic disc cupping",
    "CRVO": "Central retinal vein occlusion",
    "TV": "Tortuous vessels",
    "AH": "Asteroid hyalosis",
    "ODP": "Optic disc pallor",
    "ODE": "Optic disc edema",
    "ST": "Optociliary shunt",
    "AION": "Anterior ischemic optic neuropathy",
    "PT": "Parafoveal telangiectasia",
    "RT": "Retinal traction",
    "RS": "Retinitis",
    "CRS": "Chorioretinitis",
    "EDN": "Exudation",
    "RPEC": "Retinal pigment epithelium changes",
    "MHL": "Macular hole",
    "RP": "Retinitis pigmentosa",
}
"""Columns with a category of their own: those that the RIADD challenge on this set named."""

RARE = "CWS CB ODPM PRH MNF HR CRAO TD CME PTCR CF VH MCA VS BRAO PLQ HPED CL OTHER".split()

RFMID_PARTS = (
    ("Training_Set", "RFMiD_Training_Labels.csv", "Training", "train"),
    ("Evaluation_Set", "RFMiD_Validation_Labels.csv", "Validation", "val"),
    ("Test_Set", "RFMiD_Testing_Labels.csv", "Test", "test"),
)


def rfmid(entry: Dataset, folder: Path, official_split: bool = True, missing: str = "error") -> Iterator[Row]:
    """The three parts, each in its folder or, as some archives have it, in a folder of that name inside."""
    lost = Missing(entry, folder, missing)
    for name, table, images, split in RFMID_PARTS:
        place = folder / name / name if (folder / name / name).is_dir() else folder / name
        there = {path.stem: path for path in files_below(place / images).values()}
        path = place / table
        for line, cells in read_table(entry, path, ("ID", "Disease_Risk", *RFMID)):
            number = inside(path, line, cells.pop("ID").strip())
            if unknown := {c for c in cells if c} - {"Disease_Risk", *RFMID, *RARE}:
                raise DataError(f"{path}: unknown column {min(unknown)!r}; get the file as published: {entry.url}")
            marks = {column for column, cell in cells.items() if column and flag(path, line, column, cell)}
            found = {RFMID[column] for column in marks & RFMID.keys()}
            if not found and marks:
                continue  # ill, but with nothing that has a category
            if number in there:
                yield Row(there[number], found, {"split": split})
            else:
                lost.add(f"{name}/{images}/{number}.png")
    lost.check()


SETS = (
    Dataset(
        name="odir5k",
        title="ODIR-5K",
        modality="colour fundus photograph",
        images=7000,
        licence="terms of the ODIR-2019 challenge; mirrors name others",
        licence_url="https://odir2019.grand-challenge.org/",
        citation="Peking University international competition on ocular disease intelligent recognition (ODIR-2019)",
        url="https://odir2019.grand-challenge.org/",
        access="account",
        normal="normal fundus",
        bank="odir5k",
        color=True,
        tree="""\
folder/
  full_df.csv                            as on Kaggle, or ODIR-5K_Training_Annotations(Updated)_V2.csv,
                                         the published .xlsx saved as CSV in UTF-8
  ODIR-5K/ODIR-5K/Training Images/0_left.jpg, 0_right.jpg ...   or Training Images/, ODIR-5K_Training_Images/,
                                         ODIR-5K_Training_Dataset/, preprocessed_images/""",
        read=odir,
        patients=True,
        task="multi-label",
        notes="The eight labels (N, D, G, C, A, H, M, O) are those of a patient. Those of an eye are derived from its "
        "diagnostic keywords, and the columns N to O are not used: words for diabetic or (non)proliferative "
        "retinopathy, glaucoma, cataract, macular degeneration, hypertensive retinopathy and myopia name their "
        "category, lens dust, low image quality and image offset say nothing, and every other finding is Other, a "
        "heap of rare and mild findings. Photographs that show no retina, and eyes with a remark on quality alone, "
        "are left out. Suspected counts as found. Only the training images have labels; there is no official split.",
        unchecked="licence",
    ),
    Dataset(
        name="rfmid",
        title="RFMiD",
        modality="colour fundus photograph",
        images=3200,
        licence="see the page: it is cited as CC BY 4.0 and as CC BY-NC 4.0",
        licence_url="https://ieee-dataport.org/open-access/retinal-fundus-multi-disease-image-dataset-rfmid",
        citation="Pachade et al., Retinal fundus multi-disease image dataset (RFMiD), Data 6(2):14, 2021",
        url="https://ieee-dataport.org/open-access/retinal-fundus-multi-disease-image-dataset-rfmid",
        access="account",
        normal="Disease_Risk is 0",
        bank="rfmid",
        color=True,
        tree="""\
folder/                      each part may lie one folder deeper: Training_Set/Training_Set/
  Training_Set/RFMiD_Training_Labels.csv
  Training_Set/Training/1.png ...
  Evaluation_Set/RFMiD_Validation_Labels.csv
  Evaluation_Set/Validation/1.png ...
  Test_Set/RFMiD_Testing_Labels.csv
  Test_Set/Test/1.png ...""",
        read=rfmid,
        patients=False,
        task="multi-label",
        notes="Of the 45 columns, the 27 that the RIADD challenge named have a category; an image that shows only one "
        "of the 18 rare others is left out. No patient is named, so both eyes of one may be in two splits.",
        unchecked="licence",
    ),
)
