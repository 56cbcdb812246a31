"""fastMRI+: findings of brain and knee slices, one line of a CSV file per box, and of whole studies."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sdmad_lite.errors import DataError

from .entry import Box, Dataset, Missing, Row, files_below, inside, numbers, read_table

COLUMNS = ("file", "slice", "study_level", "x", "y", "width", "height", "label")
NORMAL, IGNORED = "normal for age", r"artifact|normal variant"
BRAIN = {
    r"white matter": "White matter lesion",
    r"^mass$": "Mass",
    r"extra-axial mass": "Extra-axial mass",
    r"^edema$": "Edema",
    r"enlarged ventricles": "Ventriculomegaly",
    r"encephalomalacia": "Encephalomalacia",
    r"lacunar infarct": "Lacunar infarct",
    r"dural thickening": "Dural thickening",
    r"craniotomy|craniectomy": "Craniotomy",
    r"resection cavity": "Resection defect",
    r"posttreatment change": "Posttreatment change",
    r"paranasal sinus opacification": "Paranasal sinus opacification",
    r"nonspecific lesion|cyst|ischemia|septum pellucidum|intraventricular|extra-axial collection": None,
}
KNEE = {
    r"meniscus tear": "Meniscus tear",
    r"displaced menisc": "Displaced meniscal tissue",
    r"cartilage": "Cartilage defect",
    r"subchondral edema": "Subchondral edema",
    r"fracture|contusion": "Fracture or contusion",
    r"\bacl\b": "ACL sprain",
    r"\bpcl\b": "PCL sprain",
    r"\bmcl\b": "MCL sprain",
    r"\blcl\b": "LCL sprain",
    r"effusion": "Joint effusion",
    r"periarticular cyst": "Periarticular cyst",
    r"bone ?- ?lesion|joint bod|soft tissue|muscle|retinaculum": None,
}
"""Words of a label, and its category; None is a finding that has none."""


def _lines(entry: Dataset, path: Path) -> Iterator[tuple[int, dict, str, str | None]]:
    """(line, cells, slice as in a file's name or "" for the whole study, category) of what is no remark on quality.

    The category is None for a finding that has none, and NORMAL for a study that is normal.
    """
    for line, cells in read_table(entry, path, COLUMNS):
        label = cells["label"].strip().lower()
        matched = [category for words, category in entry.settings["labels"].items() if re.search(words, label)]
        if label == NORMAL:
            matched = [NORMAL]
        elif not matched:
            if re.search(IGNORED, label):
                continue
            raise DataError(f"{path}, line {line}: unknown label {cells['label']!r}; get the file as published")
        number, whole = cells["slice"].strip(), cells["study_level"].strip().lower() in ("yes", "true", "1")
        if not whole and not number.isdecimal():
            raise DataError(f"{path}, line {line}, column slice: {number!r} is no number; correct the cell")
        yield line, cells, "" if whole else str(int(number)), matched[0]


def _slices(folder: Path) -> dict[tuple[str, str], Path]:
    """Images by study and slice: file1000001_014.dcm, as `fastmri_to_dicom.py` names them, or file1000001/14.png."""
    found = {}
    for path in files_below(folder).values():
        if match := re.fullmatch(r"(.+)_0*(\d+)", path.stem):
            found[match[1], match[2]] = path
    for study in () if found else sorted(path for path in folder.rglob("*") if path.is_dir()):
        found |= {(study.name, str(int(p.stem))): p for p in files_below(study).values() if p.stem.isdecimal()}
    return found


def fastmri(entry: Dataset, folder: Path, official_split: bool = True, missing: str = "error") -> Iterator[Row]:
    """Slices with a finding, and those of studies that were read and have none."""
    path, part = folder / f"{entry.settings['part']}.csv", entry.settings["part"]
    found: dict[tuple[str, str], set] = defaultdict(set)
    for line, cells, number, category in _lines(entry, path):
        found[inside(path, line, cells["file"].strip()), number].add(category)
    try:
        studies = set((folder / f"{part}_file_list.csv").read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise entry.error(folder / f"{part}_file_list.csv", f"cannot be read ({error}); it lists the studies") from None
    there, lost = _slices(folder), Missing(entry, folder, missing)
    ill = {study for (study, _), seen in found.items() if seen != {NORMAL}}
    for study, number in sorted(found.keys() - there.keys()):
        if number:
            lost.add(f"{study}_{int(number):03}")
    for (study, number), image in sorted(there.items()):
        seen = (found.get((study, number), set()) | found.get((study, ""), set())) - {None, NORMAL}
        if seen or (study in studies and study not in ill):
            yield Row(image, seen, {"patient_id": study})
    lost.check()


def fastmri_boxes(entry: Dataset, folder: Path) -> Iterator[Box]:
    """Boxes of findings with a category."""
    path, there = folder / f"{entry.settings['part']}.csv", _slices(folder)
    for line, cells, number, category in _lines(entry, path):
        image = there.get((inside(path, line, cells["file"].strip()), number))
        if number and image and category in entry.categories:
            yield Box(image, category, *numbers(path, line, [cells[c] for c in ("x", "y", "width", "height")]))


def _entry(part: str, modality: str, images: int, labels: dict, notes: str) -> Dataset:
    first = {"brain": "file_brain_AXFLAIR_200_6002425", "knee": "file1000001"}[part]
    return Dataset(
        name=f"fastmri_{part}",
        title=f"fastMRI+ {part}",
        modality=modality,
        images=images,
        licence="fastMRI data sharing agreement for the images: research, no redistribution; labels: see the page",
        licence_url="https://fastmri.med.nyu.edu/",
        citation="Zhao et al., fastMRI+, clinical pathology annotations for knee and brain fully sampled magnetic "
        "resonance imaging data, Scientific Data 9:152, 2022, and fastMRI itself",
        url="https://github.com/microsoft/fastmri-plus",
        access="labels open; images with an account and agreement",
        normal="a study that was read and has no line, or Normal for age",
        bank=f"fastmri_{part}",
        tree=f"""\
folder/
  {part}.csv, {part}_file_list.csv      from Annotations/ of that page
  {first}/{first}_000.dcm ...    as its fastmri_to_dicom.py writes them, in any folder; .png,
                                         or {first}/0.png ..., will do""",
        read=fastmri,
        read_boxes=fastmri_boxes,
        patients=True,
        task="multi-label",
        notes="The study stands for the patient, since none is named: no study is on both sides of a split, a person "
        "may be. Labels for a whole study count for each of its slices. A slice without a box in a study that has some "
        "is left out: it was not called normal, and its neighbours may show. One radiologist read each. The boxes "
        "fit images that are turned upside down as that program does; turn PNG files of your own likewise. " + notes,
        settings={"part": part, "labels": labels},
        unchecked="licence of the labels; number of slices",
    )


SETS = (
    _entry(
        "brain",
        "axial MRI slice of the brain",
        16000,
        BRAIN,
        "1,001 studies, T1 with and without contrast, T2 and FLAIR. Nonspecific lesions, cysts and other rare findings "
        "have no category; remarks on artifacts and normal variants do not count.",
    ),
    _entry(
        "knee",
        "coronal MRI slice of the knee",
        42000,
        KNEE,
        "1,172 studies, proton density with and without fat suppression. Low and high grade of a sprain, and partial "
        "and full loss of cartilage, are one category each; loose bodies, lesions of bone and soft tissue, muscle "
        "strains and the retinaculum have none.",
    ),
)
