"""VinDr-CXR: chest radiographs as DICOM, read by three radiologists each (train) or five (test), with boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sdmad_lite.errors import DataError

from .entry import Box, Dataset, Missing, Row, files_below, first_of, flag, inside, numbers, read_table

VINDR_OTHER = ("Other lesion", "Other diseases", "Other disease")
"""Labels that say that something else is there: no category, and no normal image."""


def vindr(entry: Dataset, folder: Path, official_split: bool = True, missing: str = "error") -> Iterator[Row]:
    """Labels of three radiologists by majority (train) or of their consensus (test), images by `image_id`."""
    lost = Missing(entry, folder, missing)
    for split in ("train", "test"):
        there = {path.stem: path for path in files_below(folder / split).values()}
        for image_id, labels in _vindr_labels(entry, folder, split).items():
            found = labels & set(entry.categories)
            if not found and labels != {"No finding"}:
                continue  # only something else, or no majority for anything
            if image_id in there:
                yield Row(there[image_id], found, {"split": split})
            else:
                lost.add(f"{split}/{image_id}.dicom")
    lost.check()


def _vindr_file(entry: Dataset, folder: Path, name: str) -> Path:
    return first_of(entry, folder, f"annotations/{name}", name)


def _vindr_labels(entry: Dataset, folder: Path, split: str) -> dict[str, set[str]]:
    """Labels that more than half of an image's readers gave."""
    path = _vindr_file(entry, folder, f"image_labels_{split}.csv")
    votes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    readers: dict[str, int] = defaultdict(int)
    for line, cells in read_table(entry, path, ("image_id", "No finding", *entry.categories)):
        image_id = inside(path, line, cells.pop("image_id").strip())
        cells.pop("rad_id", None)
        if unknown := cells.keys() - {"No finding", *VINDR_OTHER, *entry.categories}:
            raise DataError(f"{path}: unknown column {min(unknown)!r}; get the file as it is published: {entry.url}")
        readers[image_id] += 1
        for label, cell in cells.items():
            votes[image_id][label] += flag(path, line, label, cell)
    return {
        image_id: {label for label, count in votes[image_id].items() if 2 * count > number}
        for image_id, number in readers.items()
    }


def vindr_boxes(entry: Dataset, folder: Path) -> Iterator[Box]:
    """Boxes of every reader, for the findings that the majority gave to the image."""
    for split in ("train", "test"):
        there = {path.stem: path for path in files_below(folder / split).values()}
        labels = _vindr_labels(entry, folder, split)
        path = _vindr_file(entry, folder, f"annotations_{split}.csv")
        corners = ("x_min", "y_min", "x_max", "y_max")
        for line, cells in read_table(entry, path, ("image_id", "class_name", *corners)):
            category, image_id = cells["class_name"].strip(), inside(path, line, cells["image_id"].strip())
            if category in ("No finding", *VINDR_OTHER):
                continue
            if category not in entry.categories:
                raise DataError(
                    f"{path}, line {line}: unknown label {category!r}; known are {', '.join(entry.categories)}"
                )
            if category in labels.get(image_id, ()) and image_id in there and cells["x_min"].strip():
                left, top, right, bottom = numbers(path, line, [cells[corner] for corner in corners])
                yield Box(there[image_id], category, left, top, right - left, bottom - top)


SETS = (
    Dataset(
        name="vindr_cxr",
        title="VinDr-CXR",
        modality="frontal chest radiograph",
        images=18000,
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        licence_url="https://physionet.org/content/vindr-cxr/1.0.0/",
        citation="Nguyen et al., VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations, "
        "Scientific Data 9:429, 2022",
        url="https://physionet.org/content/vindr-cxr/1.0.0/",
        access="credentialed account, training and agreement",
        normal="No finding by majority and nothing else",
        bank="vindr_cxr",
        tree="""\
folder/
  annotations/image_labels_train.csv   the four files may also lie in the folder itself
  annotations/image_labels_test.csv
  annotations/annotations_train.csv    only for boxes
  annotations/annotations_test.csv     only for boxes
  train/000434271f63a053c4128a0ba6352c7f.dicom ...   or .dcm, .png, .jpg
  test/002a34c58c5b758217ed1f584ccbcfe9.dicom ...""",
        read=vindr,
        read_boxes=vindr_boxes,
        patients=False,
        task="multi-label",
        notes="Three radiologists read each training image on their own: a label counts when at least two gave it. "
        "Test labels are the consensus of five. Other lesion and Other diseases describe nothing that a sign could "
        "name; they are no category, and an image with nothing else is left out, as is one without a majority for "
        "anything. Boxes are those of every reader, for findings that the majority saw; only the 22 local findings "
        "have them. The published files name no patient, so a patient may be in both splits.",
        unchecked="version number of the licence",
    ),
)
