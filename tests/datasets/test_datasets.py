"""Public sets: tiny trees of the layout of each, what loads from them, and what each mistake is answered with."""

import csv
import hashlib
import io
import re
import shutil
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sdmad_datasets
from sdmad_datasets import DATASETS, Download, boxes, get_dataset, load_dataset, options
from sdmad_datasets.fundus import KEYWORDS, RARE, RFMID, eye_labels
from sdmad_datasets.page import page
from sdmad_lite.data import META, SPLITS, draw_support, read_image, split_train_test
from sdmad_lite.errors import DataError, DownloadError
from sdmad_lite.signs.bank import load_bank

ROOT = Path(__file__).parents[2]
NAMES = list(DATASETS)


# Tiny trees


def pixels(color=False, size=8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3) if color else (size, size), dtype=np.uint8)


def put_image(path, color=False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(pixels(color)).save(stream, "JPEG" if path.suffix in (".jpg", ".jpeg") else "PNG")
    path.write_bytes(stream.getvalue())


def put_dicom(path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    scan = Dataset()
    scan.file_meta = FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    scan.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    scan.SOPClassUID = scan.file_meta.MediaStorageSOPClassUID
    scan.SOPInstanceUID = scan.file_meta.MediaStorageSOPInstanceUID
    scan.Modality, scan.PhotometricInterpretation = "DX", "MONOCHROME1"
    scan.Rows = scan.Columns = 8
    scan.SamplesPerPixel, scan.BitsAllocated, scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 1, 16, 12, 11, 0
    scan.PixelData = (pixels().astype(np.uint16) * 16).tobytes()
    scan.save_as(path, enforce_file_format=True)


def put_csv(path, header, *rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
).split(",")


def nih(folder):
    rows = [
        ("00000001_000.png", "Cardiomegaly|Emphysema", "0", "1", "058Y", "M", "PA"),
        ("00000001_001.png", "No Finding", "1", "1", "058Y", "M", "AP"),
        ("00000002_000.png", "No Finding", "0", "2", "81", "F", "PA"),
        ("00000003_000.png", "Pleural_Thickening", "0", "3", "414", "F", "AP"),
    ]
    put_csv(folder / "Data_Entry_2017.csv", NIH, *([*row, "2682", "2749", "0.143", "0.143", ""] for row in rows))
    for number, row in enumerate(rows):
        put_image(folder / f"images_00{number % 2 + 1}" / "images" / row[0])
    (folder / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n", encoding="utf-8")
    (folder / "test_list.txt").write_text("00000002_000.png\n00000003_000.png", encoding="utf-8")
    header = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", ""]
    put_csv(
        folder / "BBox_List_2017.csv",
        header,
        ["00000001_000.png", "Cardiomegaly", "225.08", "547.01", "86.7", "79.1", "", "", ""],
        ["00000003_000.png", "Infiltrate", "1", "2", "3", "4", "", "", ""],
        ["00099999_000.png", "Mass", "1", "2", "3", "4", "", "", ""],  # of an archive that was not fetched
    )


CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
).split(",")


def chexpert(folder):
    def row(part, patient, view, labels):
        kind = "Lateral" if view == "" else "Frontal"
        name = f"CheXpert-v1.0-small/{part}/patient{patient}/study1/view1_{kind.lower()}.jpg"
        put_image(folder / name.split("/", 1)[1])
        return [name, "Female", "68", kind, view, *(labels.get(column, "") for column in CHEXPERT[5:])]

    put_csv(
        folder / "train.csv",
        CHEXPERT,
        row("train", "00001", "AP", {"Edema": "1.0", "Fracture": "0.0"}),
        row("train", "00002", "PA", {"No Finding": "1.0"}),
        row("train", "00003", "AP", {"Pneumonia": "-1.0", "Edema": "1.0"}),
        row("train", "00004", "PA", {"Edema": "0.0"}),  # nothing asserted
        row("train", "00005", "", {"Fracture": "1.0"}),  # lateral
    )
    put_csv(
        folder / "valid.csv",
        CHEXPERT,
        row("valid", "64541", "AP", {"No Finding": "1.0", **dict.fromkeys(CHEXPERT[6:], "0.0")}),
        row("valid", "64542", "AP", {"Support Devices": "1.0"}),
    )


def vindr(folder):
    categories = list(load_bank("vindr_cxr").categories)
    columns = [*categories, "Other lesion", "Other diseases", "No finding"]
    votes = {
        "a": [{"Cardiomegaly"}, {"Cardiomegaly", "Edema"}, {"No finding"}],
        "b": [{"No finding"}, {"No finding"}, {"Edema"}],
        "c": [{"Other lesion"}, {"Other lesion"}, {"No finding"}],  # something else
        "d": [{"Edema"}, {"Nodule/Mass"}, {"No finding"}],  # no majority
        "e": [{"Other lesion", "Nodule/Mass"}, {"Nodule/Mass"}, {"Nodule/Mass"}],
    }
    rows = [
        [image, f"R{8 + n}", *("1" if column in said else "0" for column in columns)]
        for image, readers in votes.items()
        for n, said in enumerate(readers)
    ]
    put_csv(folder / "annotations" / "image_labels_train.csv", ["image_id", "rad_id", *columns], *rows)
    names = [c.replace("Other diseases", "Other disease") for c in columns]
    test = [["t", *("1" if c == "COPD" else "0" for c in columns)]]
    put_csv(folder / "annotations" / "image_labels_test.csv", ["image_id", *names], *test)
    corners = ["x_min", "y_min", "x_max", "y_max"]
    put_csv(
        folder / "annotations" / "annotations_train.csv",
        ["image_id", "rad_id", "class_name", *corners],
        ["a", "R8", "Cardiomegaly", "10", "20", "40", "60"],
        ["a", "R9", "Cardiomegaly", "11.5", "20", "40", "60"],
        ["a", "R9", "Edema", "1", "2", "3", "4"],  # only one reader saw it
        ["b", "R8", "No finding", "", "", "", ""],
        ["e", "R8", "Other lesion", "1", "2", "3", "4"],
    )
    put_csv(folder / "annotations" / "annotations_test.csv", ["image_id", "class_name", *corners])
    for image in votes:
        put_dicom(folder / "train" / f"{image}.dicom")
    put_dicom(folder / "test" / "t.dicom")


def odir(folder, table="full_df.csv"):
    header = "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,Right-Diagnostic Keywords"
    patients = [
        ("0", "69", "Female", "cataract", "normal fundus"),
        ("1", "57", "Male", "lens dust，normal fundus", "low image quality"),
        ("2", "42", "Male", "laser spot，moderate non proliferative retinopathy", "anterior segment image"),
    ]
    rows = []
    for number, age, sex, left, right in patients:
        row = [number, age, sex, f"{number}_left.jpg", f"{number}_right.jpg", left, right, *"00000000"]
        rows += [[*row, name] for name in row[3:5]] if table == "full_df.csv" else [row]
        for side in ("left", "right"):
            put_image(folder / "ODIR-5K" / "ODIR-5K" / "Training Images" / f"{number}_{side}.jpg", color=True)
            put_image(folder / "preprocessed_images" / f"{number}_{side}.jpg", color=True)
    columns = [*header.split(","), *"NDGCAHMO", *(["filename"] if table == "full_df.csv" else [])]
    put_csv(folder / table, columns, *rows)


def rfmid(folder, nested=False):
    columns = [*RFMID, *(column for column in RARE if column != "OTHER")]
    parts = (("Training", "Training"), ("Evaluation", "Validation"), ("Test", "Testing"))
    for part, word in parts:
        place = folder / f"{part}_Set" / (f"{part}_Set" if nested else "")
        rows = [
            [str(number), str(int(bool(found))), *("1" if column in found else "0" for column in columns)]
            for number, found in ((1, ("DR", "CWS")), (2, ()), (3, ("CWS",)), (10, ("MHL",)))
        ]
        put_csv(place / f"RFMiD_{word}_Labels.csv", ["ID", "Disease_Risk", *columns], *rows)
        for number in (1, 2, 3, 10):
            put_image(place / (word if part != "Test" else "Test") / f"{number}.png", color=True)


def bmad(folder, name):
    masks, color = "img" in DATASETS[name].tree, DATASETS[name].color
    val, bad = ("valid", "Ungood") if name in ("bmad_brain", "bmad_histopathology") else ("val", "ungood")
    inner = "img" if masks else ""
    put_image(folder / "train" / "good" / inner / "00001_60.png", color)
    put_image(folder / "train" / "good" / inner / "00001_61.png", color)
    for part, number in ((val, "00002"), ("test", "00003")):
        put_image(folder / part / "good" / inner / f"{number}_60.png", color)
        put_image(folder / part / bad / inner / f"{number}_70.png", color)
        if masks:
            put_image(folder / part / bad / "label" / f"{number}_70.png")


def brain_tumor(folder):
    for part in ("Training", "Testing"):
        for label in ("glioma", "meningioma", "notumor", "pituitary"):
            for number in (10, 11):
                put_image(folder / part / label / f"{part[:2]}-{label[:2]}_00{number}.jpg")


def busi(folder):
    for label in ("benign", "malignant", "normal"):
        for number in (1, 2):
            put_image(folder / "Dataset_BUSI_with_GT" / label / f"{label} ({number}).png")
            put_image(folder / "Dataset_BUSI_with_GT" / label / f"{label} ({number})_mask.png")
    put_image(folder / "Dataset_BUSI_with_GT" / "benign" / "benign (1)_mask_1.png")


def covid(folder):
    header = "patientid,offset,sex,age,finding,view,modality,folder,filename,license".split(",")
    rows = [
        ("2", "0", "M", "65", "COVID-19, ARDS", "PA", "X-ray", "a.jpg"),
        ("4", "", "F", "", "Pneumonia/Viral/COVID-19", "AP Supine", "X-ray", "b.jpg"),
        ("5", "", "", "", "No Finding", "AP", "X-ray", "c.png"),
        ("6", "", "", "", "Pneumonia/Bacterial/E.Coli", "PA", "X-ray", "d.jpeg"),
        ("6", "", "", "", "Pneumonia", "PA", "X-ray", "e.jpg"),  # of no known kind
        ("7", "", "", "", "COVID-19", "L", "X-ray", "f.jpg"),
        ("7", "", "", "", "COVID-19", "Axial", "CT", "g.jpg"),
    ]
    put_csv(folder / "metadata.csv", header, *([*row[:7], "images", row[7], "CC BY"] for row in rows))
    for row in rows:
        put_image(folder / "images" / row[7])


def fastmri(folder, name):
    part = name.partition("_")[2]
    one, two = {"brain": ("Mass", "Edema "), "knee": ("Meniscus Tear", "Joint Effusion ")}[part]
    put_csv(
        folder / f"{part}.csv",
        "file,slice,study_level,x,y,width,height,label".split(","),
        ("file1", "0", "No", "91", "132", "7", "6", one),
        ("file1", "0", "No", "12", "13", "5", "4", one),
        ("file1", "0", "No", "1", "2", "3", "4", two),
        ("file1", "2", "No", "1", "2", "3", "4", "Possible artifact"),
        ("file3", "0", "Yes", "", "", "", "", "Normal for age"),
        ("file4", "0", "Yes", "", "", "", "", two),
    )
    (folder / f"{part}_file_list.csv").write_text("file1\nfile2\nfile3\nfile4\n", encoding="utf-8")
    for study in range(1, 6):  # the fifth was not read
        for number in range(3):
            put_image(folder / f"file{study}" / f"file{study}_{number:03}.png")


def medfm(folder, name, lists=True, table=True):
    categories, color = DATASETS[name].categories, DATASETS[name].color
    rows = [("a b.png", "s1", 1), ("c.png", "s1", 0), ("d.png", "s2", 1), ("e.png", "s3", 0)]
    cells = {image: [str(value), *["0"] * (len(categories) - 1)] for image, _, value in rows}
    if table:
        put_csv(
            folder / DATASETS[name].settings["tables"][0],
            ["img_id", "study_id", *categories],
            *([image, study, *cells[image]] for image, study, _ in rows),
        )
    between = "," if name == "medfm_chestdr" else " "
    for file, part in (("trainval.txt", rows[:2]), ("test_WithLabel.txt", rows[2:])) if lists else ():
        text = "".join(f"{image} {between.join(cells[image])}\n" for image, _, _ in part)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    for image, _, _ in rows:
        put_image(folder / "images" / image, color)


def medmnist(folder, name, size=28):
    entry, arrays = DATASETS[name], {}
    count = len(entry.settings["labels"])
    for part in SPLITS:
        arrays[f"{part}_images"] = np.stack([pixels(entry.color, size)] * (count + 1))
        labels = np.arange(count + 1)[:, None] % count
        if entry.task == "multi-label":
            labels = np.vstack([np.eye(count), np.zeros(count)])
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / (f"{name}.npz" if size == 28 else f"{name}_{size}.npz"), **arrays)


def make(name, folder) -> Path:
    """A tiny set of this name, laid out as its publisher does."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"nih_chest14": nih, "chexpert": chexpert, "vindr_cxr": vindr, "odir5k": odir, "rfmid": rfmid}
    makers |= {"brain_tumor_mri": brain_tumor, "busi": busi, "covid_chestxray": covid}
    if name in makers:
        makers[name](folder)
    else:
        {"bmad": bmad, "medf": medfm, "fast": fastmri}.get(name[:4], medmnist)(folder, name)
    return folder


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, make(request.param, tmp_path_factory.mktemp(request.param) / "set")


def shown(table) -> list[set[str]]:
    return [{c for c, y in zip(table.categories, row, strict=True) if y} for row in table.labels]


def by_name(table) -> dict[str, set[str]]:
    return {path.name: found for path, found in zip(table.images, shown(table), strict=True)}


# What holds for every set


def test_a_tiny_tree_of_the_same_layout_loads(tiny):
    name, folder = tiny
    entry, table = DATASETS[name], load_dataset(name, folder)
    assert table.categories == load_bank(entry.bank).categories
    assert table.labels.shape == (len(table), len(table.categories)) and set(np.unique(table.labels)) == {0, 1}
    assert (table.labels.sum(1) == 0).any()  # a normal image
    assert table.has_patients == entry.patients
    assert set(table.meta) <= set(META) and all(len(column) == len(table) for column in table.meta.values())
    assert set(table.meta.get("split", ())) <= set(SPLITS)
    assert entry.task == "multi-label" or table.labels.sum(1).max() == 1


def test_its_images_open(tiny):
    name, folder = tiny
    for image in load_dataset(name, folder).images[:3]:
        assert read_image(image, color=DATASETS[name].color).mode == ("RGB" if DATASETS[name].color else "L")


def test_no_image_is_opened_in_loading(tiny, tmp_path):
    name, folder = tiny
    copy = shutil.copytree(folder, tmp_path / "set")
    for path in copy.rglob("*"):
        if path.suffix in (".png", ".jpg", ".dicom"):
            path.write_bytes(b"no image")
    assert len(load_dataset(name, copy)) == len(load_dataset(name, folder))


def test_the_official_split_can_be_left_out(tiny):
    name, folder = tiny
    table = load_dataset(name, folder, official_split=False)
    assert "split" not in table.meta and len(table)
    first, second = split_train_test(table, drop_copies=None)
    assert not DATASETS[name].patients or not set(first.patients()) & set(second.patients())


def test_an_empty_or_missing_folder_is_answered_with_the_layout_and_the_source(tiny, tmp_path):
    name, _ = tiny
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(DataError) as error:
            load_dataset(name, folder)
        message, entry = str(error.value), DATASETS[name]
        assert message.startswith(str(folder)) and entry.tree in message and entry.url in message


def test_a_missing_label_file_is_named(tiny, tmp_path):
    name, folder = tiny
    for path in [p for p in folder.rglob("*") if p.suffix in (".csv", ".txt", ".npz") and "nnotations_t" not in p.name]:
        copy = shutil.copytree(folder, tmp_path / "set", dirs_exist_ok=True)
        (copy / path.relative_to(folder)).unlink()
        if path.name == "BBox_List_2017.csv" or name.startswith("medfm"):
            continue  # not needed
        with pytest.raises(DataError, match=path.stem.split("_Labels")[0]):
            load_dataset(name, copy)
        shutil.rmtree(copy)


@pytest.mark.parametrize("spoil", ["column", "cut"])
def test_a_missing_column_and_a_cut_off_label_file_are_named(tiny, tmp_path, spoil):
    name, folder = tiny
    for path in [p for p in folder.rglob("*.csv") if not re.search("^BBox|^annotations|_list", p.name)]:
        copy, text = shutil.copytree(folder, tmp_path / "set"), path.read_text(encoding="utf-8")
        first = text.split(",")[0]
        new = text.replace(first, "Column", 1) if spoil == "column" else text + "half"
        (copy / path.relative_to(folder)).write_text(new, encoding="utf-8")
        said = f": no column '{first}'; the columns are Column" if spoil == "column" else r", line \d+: 1 cells, but .*"
        with pytest.raises(DataError, match=path.name + said):
            load_dataset(name, copy)
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "said"),
    [
        (
            "nih_chest14",
            "Data_Entry_2017.csv",
            "Finding,0,2",
            "Finding,0,1",
            r": 1, first .*2_000\.png; pass official_",
        ),
        (
            "nih_chest14",
            "Data_Entry_2017.csv",
            "Emphysema",
            "Emphysem",
            ", line 2: unknown label 'Emphysem'; known",
        ),
        ("nih_chest14", "test_list.txt", "00000003_000.png", "", r"line 5: 00000003_000\.png is in neither list"),
        ("nih_chest14", "BBox_List_2017.csv", "547.01", "many", r", line 2: 225\.08, many, 86.* not four numbers"),
        ("chexpert", "train.csv", "-1.0", "maybe", ", line 4, column Pneumonia: 'maybe' is not 1, 0, -1 or empty"),
        ("vindr_cxr", "annotations/annotations_train.csv", "Edema", "Oedema", ", line 4: unknown label 'Oedema'"),
        ("vindr_cxr", "annotations/image_labels_train.csv", "Other l", "Third l", ": unknown column 'Third lesion'"),
        (
            "vindr_cxr",
            "annotations/image_labels_train.csv",
            "a,R8,0",
            "a,R8,2",
            ", line 2, column Aortic .*: '2' is",
        ),
        ("rfmid", "Test_Set/RFMiD_Testing_Labels.csv", "CWS", "CWX", ": unknown column 'CWX'"),
    ],
)
def test_what_a_label_file_must_not_say_is_named_with_its_line(tmp_path, name, file, old, new, said):
    path = make(name, tmp_path / "set") / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    read = boxes if "BBox" in file or "annotations_train" in file else load_dataset
    with pytest.raises(DataError, match=said if path.suffix == ".txt" or ": 1, first" in said else path.name + said):
        read(name, tmp_path / "set")


LABEL_FILES = {
    "nih_chest14": ("Data_Entry_2017.csv", "00000002_000.png"),
    "chexpert": ("train.csv", "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"),
    "vindr_cxr": ("annotations/image_labels_train.csv", "a,R8"),
    "odir5k": ("full_df.csv", "0_left.jpg"),
    "rfmid": ("Test_Set/RFMiD_Testing_Labels.csv", "\r\n1,"),
    "medfm_endo": ("endo_train.csv", "a b.png"),
    "covid_chestxray": ("metadata.csv", "a.jpg"),
    "fastmri_knee": ("knee.csv", "file1"),
}


@pytest.mark.parametrize("outside", ["../secret.png", "/etc/passwd", "images/../../secret.png", "C:\\secret.png"])
@pytest.mark.parametrize("name", LABEL_FILES)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name, outside):
    folder = make(name, tmp_path / "set")
    put_image(tmp_path / "secret.png")
    file, cell = LABEL_FILES[name]
    text = (folder / file).read_bytes().decode()
    assert cell in text
    new = {"vindr_cxr": f"{outside},R8", "rfmid": f"\r\n{outside},"}.get(name, outside)
    (folder / file).write_bytes(text.replace(cell, new).encode())
    with pytest.raises(DataError, match=rf"{Path(file).name}, line \d+: .*outside the data folder"):
        load_dataset(name, folder)


@pytest.mark.parametrize("name", ["nih_chest14", "chexpert", "rfmid"])
def test_an_image_that_stands_twice_is_named(tmp_path, name):
    folder = make(name, tmp_path / "set")
    path = folder / LABEL_FILES[name][0]
    header, first, *rest = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([header, first, first, *rest]), encoding="utf-8")
    with pytest.raises(DataError, match="stands twice"):
        load_dataset(name, folder)


def test_images_behind_a_link_are_found_and_a_circle_ends(tmp_path):
    folder = make("nih_chest14", tmp_path / "set")
    (folder / "images_001").rename(tmp_path / "elsewhere")
    (folder / "images_001").symlink_to(tmp_path / "elsewhere")
    (folder / "images_002" / "round").symlink_to(folder)
    assert len(load_dataset("nih_chest14", folder)) == 4


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> dict[str, Path]:
    return {name: make(name, tmp_path_factory.mktemp("fuzz") / name) for name in LABEL_FILES}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_label_file_breaks_a_reader(fuzzed, data):
    """Any bytes, or one changed part of a good file: a table, or an error of ours."""
    name = data.draw(st.sampled_from(sorted(LABEL_FILES)))
    path = fuzzed[name] / LABEL_FILES[name][0]
    good = path.read_bytes()
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, min(start + 40, len(good))))
    new = data.draw(
        st.one_of(st.binary(max_size=30), st.sampled_from([b"\0", b'"', b"../", b"\n", b",", b"-1", b"nan"]))
    )
    try:
        path.write_bytes(good[:start] + new + good[stop:] if data.draw(st.booleans()) else new)
        table = load_dataset(name, fuzzed[name])
        assert all(image.is_relative_to(fuzzed[name]) for image in table.images)
    except DataError as error:
        assert str(error)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", sorted({*LABEL_FILES, "medfm_chestdr"} - {"fastmri_knee"}))
def test_missing_images_are_counted_and_may_be_skipped(tmp_path, name):
    folder = make(name, tmp_path / "set")
    whole = load_dataset(name, folder)
    for image in whole.images[:2]:
        image.unlink()
    with pytest.raises(DataError, match=r"2 images are not there, the first is .*missing='skip'"):
        load_dataset(name, folder)
    assert load_dataset(name, folder, missing="skip").images == whole.images[2:]
    with pytest.raises(DataError, match="missing is 'ignore'"):
        load_dataset(name, folder, missing="ignore")


def test_options_are_known_by_name(tiny):
    name, folder = tiny
    assert options(name)["official_split"] is True
    with pytest.raises(
        DataError, match=f"{re.escape(DATASETS[name].title)} has no option folds=; it has official_split="
    ):
        load_dataset(name, folder, folds=3)


def test_an_unknown_set_is_named():
    for call in (load_dataset, boxes, get_dataset):
        with pytest.raises(DataError, match="unknown data set 'mimic'; known are nih_chest14, chexpert"):
            call("mimic", "folder")


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_complete(name):
    entry = DATASETS[name]
    bank = load_bank(entry.bank)
    assert entry.name == name and bank.color == entry.color and bank.modality == entry.modality
    for fact in (entry.title, entry.licence, entry.citation, entry.normal, entry.access, entry.tree, entry.notes):
        assert fact.strip()
    assert entry.url.startswith("https://") and entry.licence_url.startswith("https://") and entry.images > 0
    assert entry.patients or "patient" in entry.notes  # a set without them says so


# Sign banks (test_lint.py runs the linter on them)


@pytest.mark.parametrize("name", sorted({entry.bank for entry in DATASETS.values()}))
def test_a_bank_has_signs_of_its_own_for_every_category_and_says_who_wrote_it(name):
    bank = load_bank(name)
    member = bank.membership()
    for c, category in enumerate(bank.categories, 1):
        assert member[c, member.sum(0) == 1].sum() >= 2, category
        assert 4 <= member[c].sum() <= 7, category
    assert 4 <= len(bank.normal_signs) <= 7
    assert bank.provenance.kind == "language model" and not bank.provenance.reviewed
    assert "not reviewed" in bank.provenance.note


# NIH ChestX-ray14


def test_nih_reads_labels_meta_and_the_official_split(tmp_path):
    table = load_dataset("nih_chest14", make("nih_chest14", tmp_path / "set"))
    assert [p.name for p in table.images] == [f"0000000{n}.png" for n in ("1_000", "1_001", "2_000", "3_000")]
    assert shown(table) == [{"Cardiomegaly", "Emphysema"}, set(), set(), {"Pleural_Thickening"}]
    assert table.meta["patient_id"] == ("1", "1", "2", "3") and table.meta["view"] == ("PA", "AP", "PA", "AP")
    assert table.meta["age"] == ("58", "58", "81", "414") and table.meta["sex"] == ("M", "M", "F", "F")
    assert table.meta["split"] == ("train", "train", "test", "test")


def test_nih_images_may_lie_in_one_folder_and_the_later_table_is_read(tmp_path):
    folder = make("nih_chest14", tmp_path / "set")
    for path in list(folder.rglob("*.png")):
        path.rename(folder / path.name)
    text = (folder / "Data_Entry_2017.csv").read_text().replace("Patient Gender", "Patient Sex")
    (folder / "Data_Entry_2017.csv").unlink()
    (folder / "Data_Entry_2017_v2020.csv").write_text(text)
    table = load_dataset("nih_chest14", folder)
    assert len(table) == 4 and table.meta["sex"] == ("M", "M", "F", "F")


def test_nih_boxes(tmp_path):
    folder = make("nih_chest14", tmp_path / "set")
    first, second = boxes("nih_chest14", folder)
    assert first.image == folder / "images_001" / "images" / "00000001_000.png"
    assert first[1:] == ("Cardiomegaly", 225.08, 547.01, 86.7, 79.1)
    assert second.category == "Infiltration" and second[2:] == (1, 2, 3, 4)


def test_masks_of_busi_are_no_images(tmp_path):
    assert by_name(load_dataset("busi", make("busi", tmp_path))) == {
        **{f"benign ({n}).png": {"Benign"} for n in (1, 2)},
        **{f"malignant ({n}).png": {"Malignant"} for n in (1, 2)},
        **{f"normal ({n}).png": set() for n in (1, 2)},
    }


def test_findings_of_covid_in_both_spellings(tmp_path):
    folder = make("covid_chestxray", tmp_path)
    table = load_dataset("covid_chestxray", folder)
    frontal = {"a.jpg": {"COVID-19", "ARDS"}, "b.jpg": {"COVID-19"}, "c.png": set(), "d.jpeg": {"Bacterial pneumonia"}}
    assert by_name(table) == frontal and table.meta["view"] == ("PA", "AP Supine", "AP", "PA")
    assert by_name(load_dataset("covid_chestxray", folder, views="all")) == {**frontal, "f.jpg": {"COVID-19"}}
    with pytest.raises(DataError, match="views is 'ct'; it must be one of frontal, all"):
        load_dataset("covid_chestxray", folder, views="ct")


@pytest.mark.parametrize(
    ("name", "one", "two"), [("brain", "Mass", "Edema"), ("knee", "Meniscus tear", "Joint effusion")]
)
def test_slices_of_fastmri(tmp_path, name, one, two):
    """Boxes count for their slice, labels of a study for all, and only studies without any are normal."""
    folder = make(f"fastmri_{name}", tmp_path / "set")
    assert by_name(load_dataset(f"fastmri_{name}", folder)) == {
        "file1_000.png": {one, two},
        **{f"file{study}_00{number}.png": set() for study in (2, 3) for number in range(3)},
        **{f"file4_00{number}.png": {two} for number in range(3)},
    }
    copy = tmp_path / "by_folder"
    for path in (*folder.glob("file*/*.png"), *folder.glob("*.csv")):
        place = copy / (path.name if path.suffix == ".csv" else f"{path.parent.name}/{int(path.stem[-3:])}.png")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    assert shown(load_dataset(f"fastmri_{name}", copy)) == shown(load_dataset(f"fastmri_{name}", folder))
    first, *_, last = boxes(f"fastmri_{name}", folder)
    assert (first.image.name, *first[1:]) == ("file1_000.png", one, 91, 132, 7, 6) and last.category == two
    (folder / "file1" / "file1_000.png").unlink()
    with pytest.raises(DataError, match="1 images are not there, the first is file1_000"):
        load_dataset(f"fastmri_{name}", folder)
    assert len(load_dataset(f"fastmri_{name}", folder, missing="skip")) == 9
    path = folder / f"{name}.csv"
    good = path.read_text(encoding="utf-8")
    for old, new, problem in (
        ("Possible artifact", "Gout", "unknown label 'Gout'"),
        (",2,", ",x,", "'x' is no number"),
    ):
        path.write_text(good.replace(old, new).replace("Possible artifact", one), encoding="utf-8")
        with pytest.raises(DataError, match=rf"{name}\.csv, line 5.*{problem}"):
            load_dataset(f"fastmri_{name}", folder)


def test_sets_without_boxes_say_so(tmp_path):
    with pytest.raises(
        DataError, match="CheXpert has no boxes; nih_chest14, vindr_cxr, fastmri_brain, fastmri_knee have"
    ):
        boxes("chexpert", tmp_path)


# CheXpert


def test_chexpert_keeps_sure_frontal_images(tmp_path):
    table = load_dataset("chexpert", make("chexpert", tmp_path / "set"))
    assert shown(table) == [{"Edema"}, set(), set(), {"Support Devices"}]
    assert table.meta["patient_id"] == ("patient00001", "patient00002", "patient64541", "patient64542")
    assert table.meta["split"] == ("train", "train", "test", "test") and table.meta["view"] == ("AP", "PA", "AP", "AP")


def test_chexpert_uncertain_labels_follow_the_policy(tmp_path):
    folder = make("chexpert", tmp_path / "set")
    unsure = folder / "train" / "patient00003" / "study1" / "view1_frontal.jpg"
    for policy, expected in (("drop", None), ("negative", {"Edema"}), ("positive", {"Edema", "Pneumonia"})):
        table = load_dataset("chexpert", folder, uncertain=policy)
        assert dict(zip(table.images, shown(table), strict=True)).get(unsure) == expected
    with pytest.raises(DataError, match="uncertain is 'ignore'; it must be one of drop, negative, positive"):
        load_dataset("chexpert", folder, uncertain="ignore")


def test_chexpert_loads_lateral_images_on_request(tmp_path):
    folder = make("chexpert", tmp_path / "set")
    assert {"Fracture"} in shown(load_dataset("chexpert", folder, views="all"))
    with pytest.raises(DataError, match="views is 'AP'"):
        load_dataset("chexpert", folder, views="AP")


# VinDr-CXR


def test_vindr_labels_are_those_of_the_majority(tmp_path):
    table = load_dataset("vindr_cxr", make("vindr_cxr", tmp_path / "set"))
    assert by_name(table) == {
        "a.dicom": {"Cardiomegaly"},
        "b.dicom": set(),
        "e.dicom": {"Nodule/Mass"},
        "t.dicom": {"COPD"},
    }
    assert table.meta == {"split": ("train", "train", "train", "test")}


def test_vindr_reads_label_files_beside_the_images_and_other_forms_of_image(tmp_path):
    folder = make("vindr_cxr", tmp_path / "set")
    for path in list((folder / "annotations").iterdir()):
        path.rename(folder / path.name)
    (folder / "train" / "a.dicom").unlink()
    put_image(folder / "train" / "a.png")
    assert by_name(load_dataset("vindr_cxr", folder))["a.png"] == {"Cardiomegaly"}


def test_vindr_boxes_are_those_of_findings_that_the_majority_saw(tmp_path):
    folder = make("vindr_cxr", tmp_path / "set")
    found = boxes("vindr_cxr", folder)
    assert [box[1:] for box in found] == [("Cardiomegaly", 10, 20, 30, 40), ("Cardiomegaly", 11.5, 20, 28.5, 40)]
    assert found[0].image == folder / "train" / "a.dicom"


# Fundus photographs


def test_odir_labels_each_eye_by_its_keywords(tmp_path):
    table = load_dataset("odir5k", make("odir5k", tmp_path / "set"))
    assert by_name(table) == {
        "0_left.jpg": {"Cataract"},
        "0_right.jpg": set(),
        "1_left.jpg": set(),
        "2_left.jpg": {"Diabetic retinopathy", "Other"},
    }
    assert table.meta["patient_id"] == ("0", "0", "1", "2") and table.meta["age"] == ("69", "69", "57", "42")
    assert all("Training Images" in str(path) for path in table.images)


def test_odir_reads_the_annotations_saved_as_csv_and_explains_how_to_save_them(tmp_path):
    folder = tmp_path / "set"
    odir(folder, "ODIR-5K_Training_Annotations(Updated)_V2.csv")
    assert len(load_dataset("odir5k", folder)) == 4
    path = folder / "ODIR-5K_Training_Annotations(Updated)_V2.csv"
    path.rename(path.with_suffix(".xlsx"))
    with pytest.raises(DataError, match=r"save ODIR-5K_Training_Annotations\(Updated\)_V2\.xlsx as CSV in UTF-8"):
        load_dataset("odir5k", folder)


@pytest.mark.parametrize(
    ("keywords", "found"),
    [
        ("normal fundus", set()),
        ("Normal fundus , lens dust", set()),
        ("severe nonproliferative retinopathy", {"Diabetic retinopathy"}),
        (
            "proliferative diabetic retinopathy，hypertensive retinopathy",
            {"Diabetic retinopathy", "Hypertensive retinopathy"},
        ),
        ("suspected glaucoma", {"Glaucoma"}),
        ("wet age-related macular degeneration，drusen", {"Macular degeneration", "Other"}),
        ("pathological myopia", {"Pathological myopia"}),
        ("myopia retinopathy", {"Pathological myopia"}),
        ("macular epiretinal membrane", {"Other"}),
        ("no fundus image", None),
        ("lens dust", None),
        ("", None),
    ],
)
def test_keywords_of_an_eye(keywords, found):
    assert eye_labels(keywords) == found


def test_keywords_know_every_category_but_other():
    assert {*KEYWORDS, "Other"} == set(load_bank("odir5k").categories)


@pytest.mark.parametrize("nested", [False, True])
def test_rfmid_reads_three_parts_and_leaves_out_rare_findings_alone(tmp_path, nested):
    rfmid(tmp_path, nested)
    table = load_dataset("rfmid", tmp_path)
    assert shown(table) == [{"Diabetic retinopathy"}, set(), {"Macular hole"}] * 3
    assert table.meta["split"] == ("train",) * 3 + ("val",) * 3 + ("test",) * 3
    assert tuple(RFMID.values()) == table.categories


# Folders


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("bmad")])
def test_bmad_reads_images_not_masks_and_gives_shots(tmp_path, name):
    table = load_dataset(name, make(name, tmp_path / "set"))
    assert len(table) == 6 and table.labels.sum() == 2 and not any("label" in path.parts for path in table.images)
    assert table.meta["split"] == ("train",) * 4 + ("test",) * 2
    train, test = split_train_test(table, drop_copies=None)
    assert train.labels.sum() == test.labels.sum() == 1
    assert len(draw_support(train, 1, seed=0)) == 2


def test_bmad_brain_takes_the_case_for_the_patient(tmp_path):
    table = load_dataset("bmad_brain", make("bmad_brain", tmp_path / "set"))
    assert table.meta["patient_id"] == ("00001", "00001", "00002", "00002", "00003", "00003")
    put_image(tmp_path / "set" / "test" / "good" / "img" / "00001_90.png")
    with pytest.raises(DataError, match="patients in two parts of the split: 1"):
        load_dataset("bmad_brain", tmp_path / "set")


def test_brain_tumor_reads_classes_and_refuses_others(tmp_path):
    folder = make("brain_tumor_mri", tmp_path / "set")
    table = load_dataset("brain_tumor_mri", folder)
    assert len(table) == 16 and table.labels.sum(0).tolist() == [4, 4, 4]
    (folder / "Training" / "glioma").rename(folder / "Training" / "glioma_tumor")
    with pytest.raises(DataError, match="glioma_tumor: unknown class; known are glioma, meningioma, notumor"):
        load_dataset("brain_tumor_mri", folder)


# MedFM


@pytest.mark.parametrize("name", ["medfm_chestdr", "medfm_endo", "medfm_colonpath"])
def test_medfm_takes_labels_from_the_table_or_the_lists_and_the_split_from_the_lists(tmp_path, name):
    first = DATASETS[name].categories[0]
    for lists, table in ((True, True), (False, True), (True, False)):
        folder = tmp_path / f"{lists}{table}"
        medfm(folder, name, lists, table)
        got = load_dataset(name, folder)
        assert by_name(got) == {"a b.png": {first}, "c.png": set(), "d.png": {first}, "e.png": set()}
        assert got.meta.get("split") == (("train", "train", "test", "test") if lists else None)
        assert got.meta.get("patient_id") == (("s1", "s1", "s2", "s3") if table else None)


def test_medfm_refuses_a_line_with_too_few_labels(tmp_path):
    medfm(tmp_path, "medfm_endo", table=False)
    (tmp_path / "trainval.txt").write_text("a b.png 1 0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"trainval\.txt, line 1"):
        load_dataset("medfm_endo", tmp_path)


# MedMNIST


def test_medmnist_has_the_classes_of_its_authors(tmp_path):
    medmnist(tmp_path, "retinamnist")
    table = load_dataset("retinamnist", tmp_path)
    assert table.part("test").labels[:, 0].tolist() == [0, 1, 1, 1, 1, 0] and table.images[0].shape == (28, 28, 3)
    medmnist(tmp_path, "breastmnist")
    assert load_dataset("breastmnist", tmp_path).part("test").labels[:, 0].tolist() == [1, 0, 1]
    medmnist(tmp_path, "chestmnist")
    table = load_dataset("chestmnist", tmp_path).part("val")
    assert (
        table.images[0].shape == (28, 28) and shown(table)[12] == {"Pleural_Thickening"} and shown(table)[14] == set()
    )


def test_medmnist_of_several_sizes_asks_for_one(tmp_path):
    medmnist(tmp_path, "octmnist", 28)
    medmnist(tmp_path, "octmnist", 64)
    with pytest.raises(DataError, match=r"octmnist in several sizes; pass size=64 or another of \[28, 64\]"):
        load_dataset("octmnist", tmp_path)
    assert load_dataset("octmnist", tmp_path, size=64).images[0].shape == (64, 64)
    with pytest.raises(DataError, match=r"holds no octmnist_128\.npz"):
        load_dataset("octmnist", tmp_path, size=128)
    with pytest.raises(DataError, match="size is 32; it must be one of 28, 64, 128, 224"):
        load_dataset("octmnist", tmp_path, size=32)


def test_medmnist_refuses_an_unknown_class(tmp_path):
    medmnist(tmp_path, "octmnist")
    arrays = dict(np.load(tmp_path / "octmnist.npz"))
    arrays["val_labels"][0] = 9
    np.savez(tmp_path / "octmnist.npz", **arrays)
    with pytest.raises(DataError, match=r"octmnist\.npz: .*number 9"):
        load_dataset("octmnist", tmp_path)


# Downloads


def test_only_sets_with_an_open_address_and_a_checksum_can_be_fetched():
    fetched = [name for name in NAMES if DATASETS[name].downloads]
    assert fetched == [name for name in NAMES if name.endswith("mnist")]
    for name in fetched:
        downloads = DATASETS[name].downloads
        assert [d.variant for d in downloads] == ["28", "64", "128", "224"] and len({d.md5 for d in downloads}) == 4
        assert all(len(d.md5) == 32 and d.url.startswith("https://zenodo.org/") and d.file in d.url for d in downloads)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("mnist")])
def test_the_others_explain_where_to_go(tmp_path, name):
    with pytest.raises(DataError) as error:
        get_dataset(name, tmp_path / "set")
    entry = DATASETS[name]
    assert f"go to {entry.url} ({entry.access})" in str(error.value) and entry.tree in str(error.value)
    assert not (tmp_path / "set").exists()


def test_get_fetches_the_variant_with_its_checksum(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(sdmad_datasets, "fetch", lambda url, path, *rest, **more: calls.append((url, *rest)) or path)
    assert get_dataset("octmnist", tmp_path, progress=False) == [tmp_path / "octmnist_224.npz"]
    assert get_dataset("octmnist", tmp_path, progress=False, variant=28) == [tmp_path / "octmnist.npz"]
    chosen = {d.variant: d for d in DATASETS["octmnist"].downloads}
    assert calls == [(chosen[variant].url, f"md5:{chosen[variant].md5}") for variant in ("224", "28")]
    with pytest.raises(DataError, match="OCTMNIST: no variant 32; it has 28, 64, 128, 224"):
        get_dataset("octmnist", tmp_path, variant=32)


def test_what_is_fetched_loads(tmp_path, monkeypatch):
    """Over HTTP from this machine, with the checksum of the file that is served."""
    medmnist(tmp_path / "served", "breastmnist", 64)
    content = (tmp_path / "served" / "breastmnist_64.npz").read_bytes()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the tries
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/breastmnist_64.npz"
        entry = DATASETS["breastmnist"]
        for md5 in ("0" * 32, hashlib.md5(content).hexdigest()):
            download = Download("64", "breastmnist_64.npz", url, md5)
            monkeypatch.setitem(DATASETS, "breastmnist", replace(entry, downloads=(download,)))
            if md5 == "0" * 32:
                with pytest.raises(DownloadError, match=r"breastmnist_64\.npz"):
                    get_dataset("breastmnist", tmp_path / "set", progress=False, variant=64)
                assert not (tmp_path / "set" / "breastmnist_64.npz").exists()
            else:
                get_dataset("breastmnist", tmp_path / "set", progress=False, variant=64)
        server.shutdown()
    assert load_dataset("breastmnist", tmp_path / "set").images[0].shape == (64, 64)


# Documentation


def test_the_page_is_what_the_registry_says():
    written = (ROOT / "docs" / "results" / "datasets.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m sdmad_datasets.page > docs/results/datasets.md"
