"""Folders per class and .npz files: what loads, which class is normal, and what each mistake is answered with."""

import io
import json
import os
import pickle
import zipfile
from itertools import product

import numpy as np
import pytest
from PIL import Image

from sdmad_datasets.npz import load_npz
from sdmad_lite.data import ImageTable, load_data, load_folder, read_image, split_train_test
from sdmad_lite.errors import DataError, SDMADWarning


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def tree(folder, files: dict):
    """Files by path; a number stands for a picture of that grey."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(content) if isinstance(content, int) else content)
    return folder


CLASSES = {"normal/a.png": 1, "normal/b.png": 2, "Mass/a.png": 3, "Pleural_effusion/a.png": 4}


def shown(table: ImageTable) -> dict[str, list[str]]:
    """What each image shows, by its path below the set."""
    return {
        "/".join(path.parts[-2:]): [c for c, y in zip(table.categories, row, strict=True) if y]
        for path, row in zip(table.images, table.labels, strict=True)
    }


# A folder per class


def test_a_folder_per_class_loads_without_patients(tmp_path):
    got = load_data(tree(tmp_path, CLASSES))
    assert got.categories == ("Mass", "Pleural_effusion") and got.meta == {} and not got.has_patients
    assert shown(got) == {
        "Mass/a.png": ["Mass"],
        "Pleural_effusion/a.png": ["Pleural_effusion"],
        "normal/a.png": [],
        "normal/b.png": [],
    }


def test_names_and_order_come_from_the_bank(tmp_path):
    got = load_data(tree(tmp_path, CLASSES), ["Pleural effusion", "Edema", "mass"])
    assert got.categories == ("Pleural effusion", "mass") and got.labels.sum(0).tolist() == [1, 1]


def test_the_split_of_folders_is_taken_over(tmp_path):
    files = {
        f"{split}/{name}": 10 * i + grey
        for i, split in enumerate(("Training", "Testing"))
        for name, grey in CLASSES.items()
    }
    got = load_data(tree(tmp_path, {**files, "val/Mass/x/deeper.png": 99}))
    train, test = split_train_test(got)
    assert (len(train), len(test), len(got.part("val"))) == (4, 4, 1)
    assert {p.parts[-3] for p in train.images} == {"Training"} and {p.parts[-3] for p in test.images} == {"Testing"}


@pytest.mark.parametrize("name", ["normal", "No_Finding", "no-finding", "Healthy", "notumor", "good"])
def test_the_normal_class_is_recognised(tmp_path, name):
    assert load_data(tree(tmp_path, {f"{name}/a.png": 1, "Mass/a.png": 2})).categories == ("Mass",)


@pytest.mark.parametrize("above", ["set", "set/Dataset", "set/train", "train"])
def test_the_folder_above_the_set_will_do(tmp_path, above):
    tree(tmp_path / above, CLASSES)
    assert load_data(tmp_path).categories == ("Mass", "Pleural_effusion")
    (tmp_path / above / "labels.csv").write_text("image,Gout\nMass/a.png,1\n")
    assert "train" in above or load_data(tmp_path).categories == ("Gout",)


def test_the_normal_class_can_be_named_or_denied(tmp_path):
    folder = tree(tmp_path, {"unremarkable/a.png": 1, "Mass/a.png": 2})
    assert load_data(folder, normal="unremarkable").categories == ("Mass",)
    assert load_data(folder, normal="").categories == ("Mass", "unremarkable")


def test_the_same_bytes_in_two_class_folders_show_both(tmp_path):
    """The same name means nothing: a.png and b.png are numbered anew in each folder."""
    files = {
        "normal/a.png": 1,
        "Mass/a.png": 2,
        "Mass/b.png": 3,
        "Edema/a.png": 4,
        "Edema/copy.png": 3,
        "Mass/b2.png": 3,
    }
    with pytest.warns(SDMADWarning, match="in several class folders .*: 1, .*copy.png"):
        got = load_data(tree(tmp_path, files))
    assert shown(got) == {
        "Edema/a.png": ["Edema"],
        "Edema/copy.png": ["Edema", "Mass"],
        "Mass/a.png": ["Mass"],
        "normal/a.png": [],
    }


def test_a_link_inside_the_set_shows_both(tmp_path):
    tree(tmp_path, {**CLASSES, "Edema/other.png": 9})
    (tmp_path / "Edema" / "link.png").symlink_to(tmp_path / "Mass" / "a.png")
    with pytest.warns(SDMADWarning, match="in several class folders"):
        assert ["Edema", "Mass"] in shown(load_data(tmp_path)).values()


def test_hidden_files_and_notes_are_passed_over(tmp_path):
    extra = {
        "Mass/.DS_Store": b"x",
        "Mass/._a.png": b"x",
        "Mass/notes.txt": b"x",
        "__MACOSX/a.png": b"x",
        "README": b"x",
    }
    with pytest.warns(SDMADWarning, match=r"masks and hidden files, passed over: 3, .*first"):
        assert len(load_data(tree(tmp_path, {**CLASSES, **extra, ".git/a.png": b"x"}))) == 4


SPELLINGS = [("Mass", "mass"), ("Mass", "MASS "), ("Pleural_effusion", "pleural-effusion"), ("normal", "Normal")]
SPELLINGS += [("Pleural_effusion", "PleuralEffusion"), ("\u00c9panchement", "E\u0301panchement")]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
@pytest.mark.parametrize("parts", [("", ""), ("train/", "Testing/")])
def test_two_spellings_of_a_class_are_joined_and_said(tmp_path, parts, one, other):
    files = [f"{parts[0]}{name}/a.png" for name in dict.fromkeys(["normal", "Mass", one])]
    tree(tmp_path, {name: value for value, name in enumerate([*files, f"{parts[1]}{other}/z.png"])})
    for categories in (["pleural effusion", "mass", "\u00e9panchement"], None):
        with pytest.warns(SDMADWarning, match="are taken for one class"):
            got = shown(load_data(tmp_path, categories))
        assert got[f"{other}/z.png"] == got[f"{one}/a.png"] and bool(got[f"{one}/a.png"]) == (one != "normal")


def test_parts_of_a_split_may_stand_in_the_classes(tmp_path):
    tree(
        tmp_path,
        {f"{name}/{part}/a.png": i for i, (name, part) in enumerate(product(("normal", "Mass"), ("Train", "test")))},
    )
    table = load_data(tmp_path)
    assert sorted(zip(table.meta["split"], table.labels[:, 0].tolist(), strict=True)) == [
        *product(("test", "train"), (0, 1))
    ]


def test_further_classes_are_left_out_where_they_are_known_or_named(tmp_path):
    tree(tmp_path, {**CLASSES, "Hernia/a.png": 9, "Gout/a.png": 10})
    with pytest.warns(SDMADWarning, match=r"2 images show other findings alone \(Gout, Hernia\)"):
        assert len(load_data(tmp_path, ["Mass", "Pleural effusion"], others=["gout"])) == 4
    with pytest.raises(DataError, match=r"class 'Gout' is no category; .*others="):
        load_data(tmp_path, ["Mass", "Pleural effusion"])


def test_images_alone_need_no_names(tmp_path):
    assert load_data(tree(tmp_path / "set", {"some/a.png": 1, "more/b.png": 2}), ()).labels.shape == (2, 0)
    assert load_data(npz(tmp_path / "set.npz", arrays([[0, 1], [1, 0]])), ()).meta["split"][0] == "train"


@pytest.mark.parametrize("name", ["train.csv", "Labels.CSV", "set.xlsx", "labels.csv.txt"])
def test_a_table_of_another_name_is_named(tmp_path, name):
    tree(tmp_path, {name: b"id,Mass\n", "images/a.png": 1})
    with pytest.raises(DataError, match=f"it holds {name}: a table of labels is called labels.csv"):
        load_data(tmp_path, ["Mass"])


WRONG = {
    "no normal": ({"Mass/a.png": 1, "Edema/a.png": 2}, {}, "no class folder is recognised as normal; .* Edema, Mass"),
    "two normals": ({**CLASSES, "healthy/a.png": 9}, {}, "healthy and normal may both mean normal"),
    "no such normal": (CLASSES, {"normal": "fine"}, "no class is named 'fine'; the classes are Mass"),
    "normal alone": ({"normal/a.png": 1}, {}, "the only class is 'normal'"),
    "misspelt": ({**CLASSES, "Mas/a.png": 9}, {"categories": ["Mass", "Pleural effusion"]}, "'Mas' .* mean 'Mass'"),
    "unknown": ({**CLASSES, "Gout/a.png": 9}, {"categories": ["Mass", "Pleural effusion"]}, "'Gout' .* known are Mass"),
    "normal and not": ({**CLASSES, "Mass/z.png": 1}, {}, "is in normal and, byte for byte, in Mass"),
    "empty class": ({**CLASSES, "Edema/notes.txt": b"x"}, {}, r"Edema: holds no image \(\.png"),
    "classes beside a split": ({**CLASSES, "train/Mass/a.png": 9}, {}, "'Mass' stands beside 'train'"),
    "a split without classes": ({"train/a.png": 1, "test/b.png": 2}, {}, "test: has no subfolder"),
    "images alone": ({"a.png": 1, "b.png": 2}, {}, "has no labels.csv and no subfolder"),
    "empty": ({}, {}, "has no labels.csv and no subfolder"),
    "names for a folder": (CLASSES, {"names": ["a"]}, r"names= is for a \.npz"),
}


@pytest.mark.parametrize(("files", "given", "named"), WRONG.values(), ids=WRONG.keys())
def test_a_bad_folder_is_refused_by_name(tmp_path, files, given, named):
    with pytest.raises(DataError, match=named) as raised:
        load_data(tree(tmp_path, files), **given)
    assert str(tmp_path) in str(raised.value)


def test_links_out_of_the_folder_are_refused(tmp_path):
    tree(tmp_path / "other", {"secret.png": 9})
    folder = tree(tmp_path / "set", CLASSES)
    places = {"Mass/link.png": "other/secret.png", "Linked": "other", "Mass/deep": "other", "Mass/gone.png": "nothing"}
    for name, target in places.items():
        (folder / name).symlink_to(tmp_path / target)
        with pytest.raises(DataError, match=rf"{name}: is a link"):
            load_data(folder)
        (folder / name).unlink()
    (folder / "labels.csv").symlink_to(tmp_path / "other" / "labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv: is a link out"):
        load_data(folder)


def test_a_loop_of_links_is_no_image(tmp_path):
    folder = tree(tmp_path, CLASSES)
    (folder / "Mass" / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError, match=r"loop\.png: no such image file"):
        load_data(folder)
    (folder / "labels.csv").write_text("image,Mass\nMass/loop.png,1\n")
    with pytest.raises(DataError, match=r"line 2: no such image file Mass/loop\.png"):
        load_data(folder)
    (folder / "labels.csv").unlink()
    (folder / "labels.csv").symlink_to("labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv: cannot be read"):
        load_data(folder)


def test_what_is_not_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tree(tmp_path, CLASSES) / "Mass" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: no such image file"):
        load_data(tmp_path)
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv: cannot be read"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("nowhere", "no such file or folder"),
        ("a" * 300, "no such file or folder"),
        ("zero\0byte", "no such file or folder"),
        ("set/labels.csv", "give the folder that holds it: .*set"),
        ("set.zip", "unpack it first"),
        ("set.txt", "give the folder that holds the images"),
    ],
)
def test_a_path_that_is_no_data_is_answered_with_what_to_give(tmp_path, name, named):
    tree(tmp_path, {"set/labels.csv": b"image,Mass", "set.zip": b"", "set.txt": b""})
    with pytest.raises(DataError, match=named):
        load_data(tmp_path / name)


# A labels.csv


def labels(tmp_path, text):
    return tree(tmp_path, {"a.png": 1, "b.png": 2, "labels.csv": text.encode()})


def test_a_column_of_normal_images_is_no_category(tmp_path):
    folder = labels(tmp_path, "image,Mass,No Finding\na.png,1,0\nb.png,0,1\n")
    for given in (None, ["Edema", "Mass"]):
        got = load_data(folder, given)
        assert got.categories == ("Mass",) and got.labels.tolist() == [[1], [0]]
    assert load_folder(folder, normal="").categories == ("Mass", "No Finding")


@pytest.mark.parametrize(
    ("row", "named"), [("1,1", "1, but a finding is 1 too"), ("0,0", "0, but so is every finding")]
)
def test_a_column_of_normal_images_must_agree(tmp_path, row, named):
    folder = labels(tmp_path, f"image,Mass,No Finding\na.png,1,0\nb.png,{row}\n")
    with pytest.raises(DataError, match=rf"labels\.csv, line 3, column No Finding: {named}"):
        load_data(folder)


def test_rows_of_validation_are_neither_train_nor_test(tmp_path):
    folder = labels(tmp_path, "image,Mass,split\na.png,1,val\nb.png,0,train\n")
    got = load_data(folder)
    assert [p.name for p in got.part("val").images] == ["a.png"]
    with pytest.raises(DataError, match="no test images"):
        split_train_test(got)
    with pytest.raises(DataError, match="no split column"):
        load_data(labels(tmp_path, "image,Mass\na.png,1\n")).part("val")


# A .npz


def arrays(labels, size=4, color=False, **more) -> dict:
    """A train and a test part with these labels; image i is of grey i, in the test part of 100 + i."""
    y = np.asarray(labels, np.uint8)
    x = np.arange(len(y), dtype=np.uint8)[:, None, None] * np.ones((size, size), np.uint8)
    x = np.stack([x] * 3, 3) if color else x
    return {"train_images": x, "train_labels": y, "test_images": x + 100, "test_labels": y, **more}


def npz(path, content, compressed=True):
    (np.savez_compressed if compressed else np.savez)(path, **content)
    return path


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("color", [True, False])
def test_numbered_classes_load_with_names(tmp_path, compressed, color):
    path = npz(tmp_path / "set.npz", arrays([[0], [2], [1]], color=color), compressed)
    got = load_data(path, names=["melanoma", "normal", "nevus"])
    assert got.categories == ("melanoma", "nevus") and got.meta["split"] == ("train",) * 3 + ("test",) * 3
    assert got.labels.tolist() == [[1, 0], [0, 1], [0, 0]] * 2 and not got.has_patients
    np.testing.assert_array_equal(np.asarray(read_image(got.images[4])), np.full((4, 4), 101))
    train, test = split_train_test(got)
    assert len(train) == len(test) == 3


def test_several_findings_load(tmp_path):
    path = npz(tmp_path / "set.npz", arrays([[0, 1, 1], [0, 0, 0]]))
    with pytest.raises(DataError, match=r"3 columns and need as many names, but none are given; give names="):
        load_data(path, ["Edema", "Mass", "Effusion"])  # a bank says nothing of the order of columns
    got = load_data(path, ["Mass", "Edema", "Effusion"], names=["Edema", "Mass", "Effusion"])
    assert got.labels.tolist() == [[1, 0, 1], [0, 0, 0]] * 2


def test_a_column_for_normal_is_no_finding(tmp_path):
    path = npz(tmp_path / "set.npz", arrays([[1, 0, 0], [0, 1, 1]]))
    got = load_data(path, names=["No finding", "Mass", "Edema"])
    assert got.categories == ("Mass", "Edema") and got.labels[:2].tolist() == [[0, 0], [1, 1]]
    with pytest.raises(DataError, match=r"row 0 is 'No finding' and shows a finding"):
        load_data(npz(path, arrays([[1, 0, 1], [0, 1, 1]])), names=["No finding", "Mass", "Edema"])


@pytest.mark.parametrize(
    "content",
    [
        ["Mass", "fine"],
        {"0": "Mass", "1": "fine"},
        {"labels": ["Mass", "fine"], "normal": "fine"},
        {"label": {"0": "Mass", "1": "fine"}, "normal": "fine"},
        {"0": "Mass", "1": "fine", "normal": "fine"},
    ],
)
def test_names_come_from_the_json_beside(tmp_path, content):
    path = npz(tmp_path / "set.npz", arrays([[0], [1]]))
    (tmp_path / "set.json").write_text(json.dumps(content))
    normal = None if "normal" in content else "fine"
    assert load_data(path, ["Mass"], normal).categories == ("Mass",)


@pytest.mark.parametrize(
    "text", ["{", "3", "[]", '["a", 2]', '{"a": "b"}', '{"labels": ["a"], "normal": 3}', "[" * 99999]
)
def test_a_bad_json_beside_is_named(tmp_path, text):
    path = npz(tmp_path / "set.npz", arrays([[0], [1]]))
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(DataError, match=r"set\.json: "):
        load_data(path)


def test_images_without_a_split_load(tmp_path):
    made = arrays([0, 1, 1])
    path = npz(tmp_path / "set.npz", {"images": made["train_images"][..., None], "labels": made["train_labels"]})
    got = load_data(path, names=["normal", "Mass"])
    assert got.meta == {} and got.labels.ravel().tolist() == [0, 1, 1] and got.images[0].shape == (4, 4)


SOUND = arrays([[0], [1]])
BAD = {
    "no labels": ({k: v for k, v in SOUND.items() if k != "test_labels"}, "no array 'test_labels'"),
    "labels alone": ({"val_labels": SOUND["test_labels"]}, "no array 'val_images'"),
    "other arrays": ({"x": np.zeros(3)}, r"has x\.npy; write train_images"),
    "floats": ({**SOUND, "train_images": np.zeros((2, 4, 4))}, "train_images are float64, not uint8"),
    "16 bit": ({**SOUND, "train_images": np.zeros((2, 4, 4), np.uint16)}, "train_images are uint16"),
    "volumes": ({**SOUND, "train_images": np.zeros((2, 4, 4, 4), np.uint8)}, r"\(2, 4, 4, 4\).*give 2D"),
    "no images": ({**SOUND, "train_images": np.zeros((0, 4, 4), np.uint8)}, r"\(0, 4, 4\)"),
    "fewer labels": ({**SOUND, "train_labels": SOUND["train_labels"][:1]}, "2 rows, train_labels 1"),
    "labels of floats": ({**SOUND, "train_labels": np.zeros((2, 1))}, "train_labels are float64"),
    "labels in a cube": ({**SOUND, "train_labels": np.zeros((2, 1, 1), int)}, r"\(2, 1, 1\)"),
    "negative class": ({**SOUND, "train_labels": np.array([[0], [-1]])}, "a class has the number -1"),
    "class without a name": ({**SOUND, "train_labels": np.array([[0], [2]])}, "classes up to number 2 .* 2 are given"),
    "endless class": ({**SOUND, "train_labels": np.array([[0], [2**62]])}, "need as many names"),
    "width differs": ({**SOUND, "test_labels": np.zeros((2, 2), int)}, "labels of different width"),
    "label 3": (arrays([[0, 3], [1, 0]]), r"must be 0 or 1; row 0 has \[0, 3\]"),
    "objects": (
        {**SOUND, "train_labels": np.array([[0], ["x"]], object)},
        "Object arrays cannot be loaded",
    ),
}


@pytest.mark.parametrize(("content", "named"), BAD.values(), ids=BAD.keys())
def test_a_bad_npz_is_refused_by_name(tmp_path, content, named):
    with pytest.raises(DataError, match=rf"set\.npz: .*{named}"):
        load_data(npz(tmp_path / "set.npz", content), names=["normal", "Mass"])


def test_names_that_do_not_fit_are_refused(tmp_path):
    path = npz(tmp_path / "set.npz", arrays([[0], [1]]))
    for given, named in (
        ({}, r"none are given; give names= .*set\.json"),
        ({"categories": ["Mass"]}, "none are given"),
        ({"names": ["Mass", "mass"]}, "one name"),
        ({"names": ["Mass", "Edema"]}, "no class is recognised as normal among Mass, Edema"),
        ({"names": ["Mass", "normal"], "categories": ["Masse"]}, "'Mass' is no category; did you mean 'Masse'"),
    ):
        with pytest.raises(DataError, match=rf"set\.npz: .*{named}"):
            load_data(path, **given)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    header = (
        b"\x93NUMPY\x01\x00"
        + b"\x46\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69)
        + b"\n"
    )
    with zipfile.ZipFile("set.npz", "w") as archive:
        archive.writestr("train_images.npy", header + pickle.dumps(Evil()))
        archive.writestr("train_labels.npy", header + pickle.dumps(Evil()))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        load_npz("set.npz", names=["normal", "Mass"])
    assert os.listdir() == ["set.npz"]


def test_a_zip_bomb_is_refused_by_its_declared_size(tmp_path):
    path = npz(tmp_path / "set.npz", {**SOUND, "train_images": np.zeros((1000, 64, 64), np.uint8)})
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"declares 4,09\d,\d+ bytes .* zip bomb"):
        load_npz(path, names=["normal", "Mass"], max_bytes=1_000_000)


def test_an_array_that_declares_more_than_it_has_is_refused(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.zeros((2, 4, 4), np.uint8))
    huge = whole.getvalue().replace(b"(2, 4, 4), ", b"(99999999999, 4, 4), ").replace(b" " * 10 + b"\n", b"\n")
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("train_images.npy", huge)
    with pytest.raises(DataError, match=r"set\.npz: cannot be read as \.npz"):
        load_npz(tmp_path / "set.npz", names=["normal", "Mass"])


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_npz_is_refused_or_read(tmp_path, compressed):
    path, rng, refused = npz(tmp_path / "set.npz", arrays([[0], [1]]), compressed), np.random.default_rng(0), 0
    whole = path.read_bytes()
    parts = [whole[:n] for n in range(0, len(whole), 61)]
    flips = [whole[:at] + bytes([rng.integers(256)]) + whole[at + 1 :] for at in rng.integers(0, len(whole), 150)]
    for content in parts + flips:
        path.write_bytes(content)
        try:
            assert len(load_data(path, names=["normal", "Mass"])) <= 4
        except DataError as error:
            refused += 1
            assert "set.npz" in str(error)
    assert refused > len(parts)
