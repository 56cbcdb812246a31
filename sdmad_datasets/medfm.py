"""MedFM (MedFMC): ChestDR, Endo and ColonPath, each an `images` folder with a CSV file or the challenge's lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdmad_lite.errors import DataError

from .entry import Dataset, Missing, Row, files_below, flag, inside, read_table

LISTS = (("trainval.txt", "train"), ("test_WithLabel.txt", "test"))


def medfm(entry: Dataset, folder: Path, official_split: bool = True, missing: str = "error") -> Iterator[Row]:
    """Labels from its CSV file where it is there, else from the lists, which also hold the split."""
    lists = dict(_listed(entry, folder))
    path = next((folder / name for name in entry.settings["tables"] if (folder / name).is_file()), None)
    if path is None and not lists:
        names = [*entry.settings["tables"], *(name for name, _ in LISTS)]
        raise entry.error(folder, f"holds no {' or '.join(names)}")
    there, lost = files_below(folder / "images"), Missing(entry, folder, missing)
    for name, found, meta in _csv(entry, path) if path else ((n, found, {}) for n, (found, _) in lists.items()):
        if name not in there:
            lost.add(name)
        elif not lists:
            yield Row(there[name], found, meta)
        elif name in lists:
            yield Row(there[name], found, {**meta, "split": lists[name][1]})
    lost.check()


def _csv(entry: Dataset, path: Path) -> Iterator[tuple[str, set[str], dict[str, str]]]:
    for line, cells in read_table(entry, path, ("img_id", *entry.categories)):
        name = inside(path, line, cells["img_id"].strip())
        found = {category for category in entry.categories if flag(path, line, category, cells[category])}
        yield name, found, {"patient_id": cells["study_id"].strip()} if "study_id" in cells else {}


def _listed(entry: Dataset, folder: Path) -> Iterator[tuple[str, tuple[set[str], str]]]:
    """Lines "name 0,1,0" (ChestDR), "name 0 1 0" (Endo) or "name 1" (ColonPath); a name may hold blanks."""
    count = len(entry.categories)
    for file, split in LISTS:
        path = folder / file
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); copy it again") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, *cells = line.replace(",", " ").rsplit(maxsplit=count)
            if len(cells) != count:
                raise DataError(f"{path}, line {number}: {len(cells)} labels after the name, but {count} are expected")
            flags = [flag(path, number, c, cell) for c, cell in zip(entry.categories, cells, strict=True)]
            found = {c for c, is_there in zip(entry.categories, flags, strict=True) if is_there}
            yield inside(path, number, name), (found, split)


def _entry(short: str, title: str, modality: str, images: int, **facts) -> Dataset:
    tables = facts.pop("tables", (f"{short}_train.csv",))
    return Dataset(
        title=f"MedFM {title}",
        modality=modality,
        images=images,
        licence="CC BY 4.0",
        licence_url="https://doi.org/10.6084/m9.figshare.c.6476047.v1",
        citation="Wang et al., A real-world dataset and benchmark for foundation model adaptation in medical image "
        "classification, Scientific Data 10:574, 2023",
        url="https://doi.org/10.6084/m9.figshare.c.6476047.v1",
        access="open",
        tree=f"""\
MedFMC_train/{short}/
  images/*.png
  {tables[0]:<26} img_id, study_id and a column per category
  trainval.txt, test_WithLabel.txt   the split of github.com/openmedlab/MedFM, if wanted; alone they will do too""",
        read=medfm,
        patients=True,
        settings={"tables": tables},
        unchecked="licence; how many studies a patient can have",
        **facts,
    )


STUDY = "`study_id` of the CSV file is taken as the patient; without that file no patient is known. "

SETS = (
    _entry(
        "chest",
        "ChestDR",
        "frontal chest radiograph",
        4848,
        name="medfm_chestdr",
        normal="no label",
        bank="medfm_chestdr",
        task="multi-label",
        tables=("chest_train.csv", "chestdr_published_19d.csv"),
        notes=STUDY + "Labels such as tortuous_aorta or fracture_old are findings of age more than of illness.",
    ),
    _entry(
        "endo",
        "Endo",
        "colonoscopy image",
        3865,
        name="medfm_endo",
        color=True,
        normal="no label",
        bank="medfm_endo",
        task="multi-label",
        notes=STUDY + "80 patients give 3,865 images: many images of one patient look alike.",
    ),
    _entry(
        "colon",
        "ColonPath",
        "histology of the colon, haematoxylin and eosin",
        10009,
        name="medfm_colonpath",
        color=True,
        normal="tumor is 0",
        bank="medfm_colonpath",
        task="one class",
        notes=STUDY + "The images are patches of few slides.",
    ),
)
