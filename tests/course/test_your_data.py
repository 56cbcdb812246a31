"""The assignment on other folders: two classes, a labels.csv, DICOM, a .npz; only its two lines are changed."""

import json
import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import sdmad_course as course
from sdmad_course.your_data import halves, task_there, write_forms, your_table
from sdmad_lite.data import ImageTable, read_image
from sdmad_lite.errors import DataError, SDMADWarning
from sdmad_lite.signs import load_bank
from sdmad_phantoms import sample_phantoms

NAMES = ("Glioma", "Meningioma")
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "14_your_data.ipynb"


@pytest.fixture(scope="module")
def brains():
    """48 images of 24 people that show one of two categories, or none."""
    drawn = [*sample_phantoms(32, 3, [], modality="brain"), *sample_phantoms(90, 4, list(NAMES), modality="brain")]
    labels = np.array([[name in phantom.categories for name in NAMES] for phantom in drawn], int)
    single = np.flatnonzero(labels.sum(1) <= 1)
    patients = tuple(f"{i < 32}{phantom.patient.patient_id}" for i, phantom in enumerate(drawn))
    table = ImageTable(tuple(p.image for p in drawn), labels, NAMES, {"patient_id": patients})
    return table.rows(single)


@pytest.fixture(scope="module")
def forms(brains, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    found = write_forms(brains, range(len(brains)), folder / "forms")
    csv = folder / "csv"
    csv.mkdir()
    lines = ["image,Glioma,Meningioma,patient_id"]
    for i, image in enumerate(brains.images):
        read_image(image).save(csv / f"{i}.png")
        lines.append(f"{i}.png,{brains.labels[i, 0]},{brains.labels[i, 1]},{brains.patients()[i]}")
    (csv / "labels.csv").write_text("\n".join(lines) + "\n")
    return found | {"csv": csv}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["classes", "packed.npz", "dicom", "csv"])
def test_the_assignment_runs_but_for_its_two_lines(forms, form, tmp_path, monkeypatch):
    monkeypatch.setattr(course, "OUTPUTS", tmp_path)
    matplotlib.use("Agg")
    space: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or any(tag in source for tag in ('check("', "mine =")):
            continue
        if source.startswith("DATA ="):
            source = f"DATA = {str(forms[form])!r}\nSIGNS = 'brain_phantoms'"
        source = source.replace("4, 100, range(5)", "2, 2, range(2)")
        with np.errstate(all="ignore"):
            exec(compile(source, "cell", "exec"), space)
    assert space["STEPS"] == 2  # the line above fits the notebook
    assert space["kept"] == list(NAMES) and space["table"].has_patients == (form in ("dicom", "csv"))
    assert space["opened"].results and (tmp_path / "my_detector" / "detector.json").is_file()


def test_what_is_too_rare_is_left_out_and_said(brains):
    train, test = halves(brains)
    kept, left_out, shots = task_there(train, test)
    assert kept == list(NAMES) and not left_out and shots >= 2
    rare = brains.rows(np.flatnonzero((brains.labels[:, 0] == 0) | (np.cumsum(brains.labels[:, 0]) <= 5)))
    kept, left_out, _ = task_there(*halves(rare))
    assert kept == ["Meningioma"] and "4 are needed in each" in left_out["Glioma"]
    none = brains.rows(np.flatnonzero(brains.labels.any(1)))
    with pytest.raises(DataError, match="0 patients with a normal image"):
        task_there(*halves(none))


def test_signs_and_data_that_do_not_fit_are_named(brains):
    with pytest.raises(DataError, match=r"Glioma.*are the classes of the data.*none fit"):
        your_table(brains, "chest_phantoms")
    with pytest.warns(SDMADWarning, match="not in the data, left out: Metastases"):
        bank, _ = your_table(brains, load_bank("brain_phantoms"))
    assert bank.categories == NAMES


@pytest.mark.skipif("SDMAD_REAL" not in os.environ, reason="SDMAD_REAL names a folder of real sets")
@pytest.mark.parametrize(
    ("name", "signs"),
    [("real_brain", "brain_tumor_mri"), ("real_ultrasound", "busi"), ("real_cxr", "nih_chest14"),
     ("real_fundus", "odir5k"), ("real_medmnist/pneumoniamnist.npz", "pneumoniamnist"),
     ("real_medmnist/balanced.npz", "pneumoniamnist"), ("real_covid", "covid_chestxray")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_real_sets_are_read_and_have_a_task(name, signs):
    path = Path(os.environ["SDMAD_REAL"], name)
    if not path.exists():
        pytest.skip(f"no {name}")
    bank, table = your_table(path, signs)
    kept, _, shots = task_there(*halves(table))
    assert set(kept) <= set(bank.categories) and shots >= 1
