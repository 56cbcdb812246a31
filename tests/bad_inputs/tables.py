"""Folders with labels.csv, folders per class, and .npz files."""

import io
import shutil
import zipfile
from dataclasses import replace

import numpy as np

from sdmad_lite.data import draw_support, load_data, split_train_test

from .world import CATEGORIES, LABELS, Case


def folder(what, change, message, before=None):
    """A case of a folder with labels.csv; `change` spoils it, or is the new text of labels.csv."""

    def prepare(world):
        path = world.data()
        if before:
            before(path)
        if callable(change):
            path = change(path) or path
        else:
            (path / "labels.csv").write_text(change, encoding="utf-8")
        return lambda: load_data(path, CATEGORIES)

    return Case("A folder with labels.csv", what, prepare, message)


def swap(old, new):
    """labels.csv with one text replaced."""
    assert old in LABELS
    return LABELS.replace(old, new, 1)


def without_table(path):
    (path / "labels.csv").unlink()


def linked_out(path):
    (path.parent / "secret.png").write_bytes((path / "0.png").read_bytes())
    (path / "0.png").unlink()
    (path / "0.png").symlink_to(path.parent / "secret.png")


def table_is_folder(path):
    (path / "labels.csv").unlink()
    (path / "labels.csv").mkdir()


def packed(path):
    return shutil.make_archive(path.parent / "set", "zip", path)


def classes(what, change, message, **options):
    """A case of a folder per class."""

    def prepare(world):
        path = world.data()
        (path / "labels.csv").unlink()
        for name, numbers in {"normal": (0, 3), "Effusion": (1, 4), "Nodule": (2, 5)}.items():
            (path / name).mkdir()
            for i in numbers:
                (path / f"{i}.png").rename(path / name / f"{i}.png")
        change(path)
        return lambda: load_data(path, CATEGORIES, **options)

    return Case("A folder with a subfolder per class", what, prepare, message)


def rename(old, new):
    return lambda path: (path / old).rename(path / new)


def emptied(path):
    for file in (path / "Nodule").iterdir():
        file.unlink()


def copied(source, target):
    return lambda path: shutil.copy(path / source, path / target)


def link_to_elsewhere(path):
    (path / "Nodule" / "6.png").symlink_to(path.parent)


def in_parts(path):
    for part in ("train", "test"):
        (path / part).mkdir()
        for name in ("normal", "Effusion", "Nodule"):
            shutil.copytree(path / name, path / part / name)
    for name in ("normal", "Effusion", "Nodule"):
        shutil.rmtree(path / name)


IMAGES, NUMBERS = np.zeros((3, 8, 8), np.uint8), np.array([[0], [1], [2]])


def npz(what, arrays, message, names=("normal", "Effusion", "Nodule")):
    """A case of a .npz of MedMNIST form; `arrays` are saved, or are the bytes of the file."""

    def prepare(world):
        stream = io.BytesIO()
        if isinstance(arrays, dict):
            np.savez(stream, **arrays)
        path = world.write("set.npz", stream.getvalue() if isinstance(arrays, dict) else arrays)
        return lambda: load_data(path, CATEGORIES, names=names)

    return Case("A .npz file", what, prepare, message)


def huge():
    """A .npy header that declares a petabyte."""
    stream = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**5, 10**4)}
    )
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("train_images.npy", header.getvalue())
    return stream.getvalue()


def objects():
    """An array that numpy can only read by unpickling."""
    return {"train_images": np.array([{"run": "me"}] * 3, dtype=object), "train_labels": NUMBERS}


def draw(what, act, message):
    """A case of a support draw or a split."""

    def prepare(world):
        table = load_data(world.data(), CATEGORIES)
        return lambda: act(table)

    return Case("Support draws and splits", what, prepare, message)


CASES = [
    folder(
        "a folder that is not there",
        lambda path: path.parent / "nowhere",
        "{path}/nowhere: no such file or folder; correct the path",
    ),
    folder(
        "no labels.csv and no subfolder",
        without_table,
        (
            "{path}/data: has no labels.csv and no subfolder; write a labels.csv, or sort the images "
            "into a subfolder for each class"
        ),
    ),
    folder(
        "the path of labels.csv instead of its folder",
        lambda path: path / "labels.csv",
        ("{path}/data/labels.csv: is not a folder or a .npz file; give the folder that holds it: {path}/data"),
    ),
    folder(
        "a zip archive",
        packed,
        ("{path}/set.zip: is not a folder or a .npz file; unpack it first: sdmad_datasets.unpack(archive, folder)"),
    ),
    folder(
        "labels.csv is a folder",
        table_is_folder,
        ("{path}/data/labels.csv: cannot be read (not a file); a data set is a folder with a labels.csv"),
    ),
    folder("an empty labels.csv", "", "{path}/data/labels.csv: has no rows; write a header and a row per image"),
    folder(
        "a header and no rows",
        LABELS.splitlines()[0],
        "{path}/data/labels.csv: has no rows; write a header and a row per image",
    ),
    folder(
        "no column image",
        swap("image,", "file,"),
        (
            "{path}/data/labels.csv: no column 'image'; name the one with the paths so "
            "(there are file, Effusion, Nodule, patient_id, split)"
        ),
    ),
    folder(
        "a column twice",
        swap("Nodule,", "Effusion,"),
        "{path}/data/labels.csv: column 'Effusion' stands twice; remove one",
    ),
    folder(
        "a misspelt column",
        swap("Effusion", "Efusion"),
        "{path}/data/labels.csv: unknown column 'Efusion'; did you mean 'Effusion'?",
    ),
    folder(
        "a column that may be a finding or not",
        "image,Effusion,Nodule,Gout\n0.png,0,0,1\n",
        (
            "{path}/data/labels.csv: column 'Gout' holds 0 and 1 but is no category; name it with "
            "others= if it is a finding, or pass such columns over with others=[]"
        ),
    ),
    folder(
        "a column without a name",
        "image,Effusion,Nodule,\n0.png,0,0,1\n1.png,0,0,1\n",
        "{path}/data/labels.csv: column 4 has no name, but '1' on line 2; name it or remove it",
    ),
    folder(
        "a control character in a cell",
        swap("image,", "\0image,"),
        "{path}/data/labels.csv, line 1: '\\x00image' holds a control character; remove it",
    ),
    folder(
        "one picture with two labels",
        LABELS,
        (
            "{path}/data: pictures that have several labels: 1, such as {path}/data/0.png (normal) and "
            "{path}/data/1.png (Effusion); correct the data, or leave such copies out with drop_copies=True"
        ),
        before=lambda path: shutil.copy(path / "0.png", path / "1.png"),
    ),
    folder(
        "no column of a category",
        "image,patient_id\n0.png,P0\n",
        "{path}/data/labels.csv: no category column; expected some of Effusion, Nodule",
    ),
    folder(
        "a row with too few cells",
        swap("0,1,P2,train", "0,1,P2"),
        "{path}/data/labels.csv, line 4: 4 cells, but the header has 5; mend the row",
    ),
    folder(
        "a label that is neither 0 nor 1",
        swap("1.png,1", "1.png,maybe"),
        "{path}/data/labels.csv, line 3, column Effusion: 'maybe' is not 0 or 1",
    ),
    folder(
        "an empty label", swap("1.png,1", "1.png,"), "{path}/data/labels.csv, line 3, column Effusion: '' is not 0 or 1"
    ),
    folder("a row without an image", swap("2.png", ""), "{path}/data/labels.csv, line 4: the image column is empty"),
    folder(
        "an image that is not there",
        swap("2.png", "two.png"),
        ("{path}/data/labels.csv, line 4: no such image file two.png; correct the path or remove the row"),
    ),
    folder(
        "an image outside the folder",
        swap("2.png", "../2.png"),
        "{path}/data/labels.csv, line 4: ../2.png lies outside the data folder; move it inside",
    ),
    folder(
        "an image by an absolute path",
        swap("2.png", "/etc/hostname"),
        ("{path}/data/labels.csv, line 4: /etc/hostname lies outside the data folder; move it inside"),
    ),
    folder(
        "a link out of the folder",
        linked_out,
        "{path}/data/labels.csv, line 2: 0.png lies outside the data folder; move it inside",
    ),
    folder(
        "an image twice",
        swap("2.png", "1.png"),
        "{path}/data/labels.csv, line 4: 1.png stands already on line 3; remove one",
    ),
    folder(
        "an empty patient_id",
        swap("P2", ""),
        "{path}/data/labels.csv, line 4: the patient_id is empty; give each person one",
    ),
    folder(
        "an unknown split",
        swap("P2,train", "P2,dev"),
        "{path}/data/labels.csv, line 4, column split: 'dev' is not train, val or test",
    ),
    folder(
        "a patient in train and in test",
        swap("P3", "P0"),
        (
            "{path}/data/labels.csv: patients in two parts of the split: 1, first {path}/data/0.png and "
            "{path}/data/3.png; keep each patient in one split"
        ),
    ),
    folder(
        "an image both normal and not",
        "image,Effusion,No Finding\n0.png,1,1\n",
        ("{path}/data/labels.csv, line 2, column No Finding: 1, but a finding is 1 too; correct the row or remove it"),
    ),
    folder(
        "an image neither normal nor anything",
        "image,Effusion,No Finding\n0.png,0,0\n",
        ("{path}/data/labels.csv, line 2, column No Finding: 0, but so is every finding; correct the row or remove it"),
    ),
    classes(
        "no class that is normal",
        rename("normal", "rest"),
        (
            "{path}/data: no class folder is recognised as normal; the folders are Effusion, Nodule, "
            "rest. Say which with normal=, or rename it to one of normal, no finding, no findings, "
            "healthy, control; normal='' says that there is none, which is enough to evaluate"
        ),
    ),
    classes(
        "a class that the bank does not know",
        rename("Nodule", "Nodul"),
        (
            "{path}/data: class 'Nodul' is no category; did you mean 'Nodule'? (normal= names the normal class, "
            "others= further findings)"
        ),
    ),
    classes(
        "two classes that may be normal",
        rename("Nodule", "healthy"),
        ("{path}/data: healthy and normal may both mean normal; say which with normal=, join the others"),
    ),
    classes(
        "a normal class that is not there",
        lambda path: None,
        "{path}/data: no class is named 'fine'; the classes are Effusion, Nodule, normal",
        normal="fine",
    ),
    classes(
        "an empty class",
        emptied,
        (
            "{path}/data/Nodule: holds no image (.png, .jpg, .jpeg, .jfif, .jp2, .tif, .tiff, .bmp, .gif, "
            ".webp, .pgm, .ppm, .pnm, .dcm, .dicom); add some or remove it"
        ),
    ),
    classes(
        "one image in normal and in a class",
        copied("normal/0.png", "Effusion/0.png"),
        ("{path}/data/Effusion/0.png: is in normal and, byte for byte, in Effusion; remove one of them"),
    ),
    classes(
        "one image in train and in test",
        in_parts,
        (
            "{path}/data: pictures that stand in several parts of the split: 6, such as "
            "{path}/data/test/Effusion/1.png (test) and {path}/data/train/Effusion/1.png (train); correct the data, or "
            "leave such copies out with drop_copies=True"
        ),
    ),
    classes(
        "a link out of the folder",
        link_to_elsewhere,
        "{path}/data/Nodule/6.png: is a link to a folder; put the folder itself there",
    ),
    npz(
        "a file that is no .npz",
        b"PK\x03\x04 not really",
        "{path}/set.npz: cannot be read as .npz ({reason}); it may be damaged, copy it again",
    ),
    npz(
        "an array of Python objects",
        objects(),
        "{path}/set.npz: cannot be read as .npz ({reason}); it may be damaged, copy it again",
    ),
    npz(
        "an array that declares a petabyte",
        huge(),
        "{path}/set.npz: cannot be read as .npz ({reason}); it may be damaged, copy it again",
    ),
    npz(
        "arrays of other names",
        {"x": IMAGES, "y": NUMBERS},
        ("{path}/set.npz: has x.npy, y.npy; write train_images, train_labels, test_images, test_labels"),
    ),
    npz(
        "images without labels",
        {"train_images": IMAGES},
        ("{path}/set.npz: has no array 'train_labels' (it has train_images); write train_images, train_labels, ..."),
    ),
    npz(
        "images in floating point",
        {"train_images": IMAGES.astype(np.float32), "train_labels": NUMBERS},
        "{path}/set.npz: train_images are float32, not uint8; scale them to 0 to 255",
    ),
    npz(
        "volumes",
        {"train_images": np.zeros((3, 8, 8, 8), np.uint8), "train_labels": NUMBERS},
        ("{path}/set.npz: train_images have shape (3, 8, 8, 8), not (N, H, W) or (N, H, W, 3); give 2D images"),
    ),
    npz(
        "fewer labels than images",
        {"train_images": IMAGES, "train_labels": NUMBERS[:2]},
        "{path}/set.npz: train_images has 3 rows, train_labels 2; give a label per image",
    ),
    npz(
        "labels without names",
        {"train_images": IMAGES, "train_labels": NUMBERS},
        (
            "{path}/set.npz: the labels have classes up to number 2 and need as many names, but none "
            "are given; give names= (the normal class among them), or write set.json "
            "with a list of them"
        ),
        names=None,
    ),
    npz(
        "too few names",
        {"train_images": IMAGES, "train_labels": NUMBERS},
        (
            "{path}/set.npz: the labels have classes up to number 2 and need as many names, but 2 are"
            " given (normal, Effusion); give names= (the normal class among them), or write set.json "
            "with a list of them"
        ),
        names=("normal", "Effusion"),
    ),
    draw("no shots", lambda table: draw_support(table, 0, 0), "shots is 0: it must be at least 1"),
    draw(
        "more shots than patients",
        lambda table: draw_support(table, 3, 0),
        (
            "'Effusion' has 2 patients to draw from, but 3 shots are asked for; lower the shots, or name the other "
            "categories with categories="
        ),
    ),
    draw(
        "no normal image",
        lambda table: draw_support(table.rows([1, 2, 4, 5]), 1, 0),
        ("no normal image (a row of zeros); add some, for scores are measured against them"),
    ),
    draw(
        "no test images",
        lambda table: split_train_test(table.rows([0, 1, 2])),
        "the split leaves no test images; give both",
    ),
    draw(
        "a split of a table without one",
        lambda table: replace(table, meta={}).part("test"),
        "the table has no split column; write one to have a part 'test'",
    ),
]
