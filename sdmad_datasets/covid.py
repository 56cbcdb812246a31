"""covid-chestxray-dataset: radiographs from papers and web pages, with what was found in the patient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sdmad_lite.errors import DataError

from .entry import Dataset, Missing, Row, files_below, inside, read_table

BACTERIA = "bacterial streptococcus klebsiella e.coli legionella mycoplasma nocardia staphylococcus chlamydophila"
GROUPS = {
    "covid-19": "COVID-19",
    **dict.fromkeys([*BACTERIA.split(), "staphylococcus/mrsa"], "Bacterial pneumonia"),
    **dict.fromkeys("viral sars mers influenza varicella herpes h1n1".split(), "Viral pneumonia"),
    **dict.fromkeys("fungal pneumocystis aspergillosis".split(), "Fungal pneumonia"),
    "ards": "ARDS",
}
"""Words of the column finding, "COVID-19, ARDS" of one edition and "Pneumonia/Viral/COVID-19" of another."""


def covid(
    entry: Dataset, folder: Path, official_split: bool = True, missing: str = "error", views: str = "frontal"
) -> Iterator[Row]:
    """Radiographs that `metadata.csv` names, with a finding of a category, or with No Finding.

    Args:
        entry: the set.
        folder: holds metadata.csv and the folder images.
        official_split: the set has none.
        missing: "error", or "skip" to leave out images that are not there.
        views: "frontal", or "all" for lateral radiographs too, which the signs of the bank do not describe. CT slices
            are never read.
    """
    if views not in ("frontal", "all"):
        raise DataError(f"views is {views!r}; it must be one of frontal, all")
    path, there, lost = folder / "metadata.csv", files_below(folder), Missing(entry, folder, missing)
    for line, cells in read_table(entry, path, ("patientid", "finding", "view", "modality", "filename"), at_least=9):
        name, view = inside(path, line, cells["filename"].strip()).rpartition("/")[2], cells["view"].strip()
        words = {word.strip().lower() for word in re.split("[,/]", cells["finding"])}
        found = {GROUPS[word] for word in words & GROUPS.keys()}
        if found > {"Viral pneumonia"} and "covid-19" in words:
            found -= {"Viral pneumonia"}  # Pneumonia/Viral/COVID-19
        frontal = views == "all" or view.upper().startswith(("PA", "AP"))
        if cells["modality"].strip() != "X-ray" or not frontal or not (found or words == {"no finding"}):
            continue
        if name not in there:
            lost.add(name)
            continue
        person = {"patient_id": cells["patientid"].strip(), "age": cells.get("age", "").strip()}
        yield Row(there[name], found, {**person, "sex": cells.get("sex", "").strip(), "view": view})
    lost.check()


SETS = (
    Dataset(
        name="covid_chestxray",
        title="COVID-19 image data collection",
        modality="frontal chest radiograph",
        images=930,
        licence="by image, in the column license: CC BY-NC-SA, CC BY, CC0 and others, often none",
        licence_url="https://github.com/ieee8023/covid-chestxray-dataset",
        citation="Cohen et al., COVID-19 image data collection: Prospective predictions are the future, MELBA 2020",
        url="https://github.com/ieee8023/covid-chestxray-dataset",
        access="open",
        normal="No Finding",
        bank="covid_chestxray",
        tree="""\\
folder/
  metadata.csv
  images/ARDSSevere.jpg ...""",
        read=covid,
        patients=True,
        task="multi-label",
        notes="Findings are those of the patient by test or report, in one of two spellings; germs are put together as "
        "bacterial, viral (other than COVID-19) and fungal, and an image with none of these and not called No Finding, "
        "such as Pneumonia or todo, is left out. So are CT slices and, by default (`views='frontal'`), lateral images. "
        "Pictures come from papers and web pages, with arrows, letters and colours; few are normal, and each source "
        "has its own look, which a model can learn in place of the illness: scores are not those of a test.",
        unchecked="number of images",
    ),
)
