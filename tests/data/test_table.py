"""Folders of images: what loads, how support sets are drawn, and what each mistake is answered with."""

import contextlib
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from sdmad_lite.data import ImageTable, draw_support, load_folder, read_image, split_train_test
from sdmad_lite.errors import DataError, SDMADWarning

KNOWN = ("Effusion", "Edema", "Mass")


def picture(value=100, size=(8, 8)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_folder(folder, header, *rows, images=("a.png", "b.png", "c.png", "d.png")):
    """A folder with four images and a labels.csv of these lines."""
    (folder / "images").mkdir(parents=True)
    for value, name in enumerate(images):
        (folder / "images" / name).write_bytes(picture(value))
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def table(labels, patients=None, split=None) -> ImageTable:
    labels = np.asarray(labels)
    meta = {"patient_id": patients, "split": split}
    meta = {k: tuple(str(v) for v in column) for k, column in meta.items() if column is not None}
    images = tuple(np.full((4, 4), i % 256, np.uint8) for i in range(len(labels)))
    return ImageTable(images, labels, tuple("ABCDEFG"[: labels.shape[1]]), meta)


# What loads


def test_a_folder_loads_with_labels_and_meta_in_the_order_of_the_bank(tmp_path):
    folder = write_folder(
        tmp_path / "set",
        "patient_id,Mass,image,Effusion,view",
        "p1,1,images/a.png,0,PA",
        "p2,0,images/b.png,1,AP",
        "p1,0,images/c.png,0,PA",
    )
    got = load_folder(folder, KNOWN)
    assert got.categories == ("Effusion", "Mass")  # Edema has no column
    np.testing.assert_array_equal(got.labels, [[0, 1], [1, 0], [0, 0]])
    assert [p.name for p in got.images] == ["a.png", "b.png", "c.png"] and all(p.is_file() for p in got.images)
    assert got.meta == {"patient_id": ("p1", "p2", "p1"), "view": ("PA", "AP", "PA")}
    assert got.patients().tolist() == ["p1", "p2", "p1"]


def test_without_a_bank_every_other_column_is_a_category(tmp_path):
    folder = write_folder(tmp_path / "set", "image,Pleural effusion,age,Rare thing", "images/a.png,1,50,0")
    got = load_folder(folder)
    assert got.categories == ("Pleural effusion", "Rare thing") and got.meta == {"age": ("50",)}


PLAIN = "image,Mass,patient_id\nimages/a.png,1,p1\nimages/é.png,0,p2\n"
FORMS = {
    "blanks, empty lines": PLAIN.replace(",", " , ").replace("\n", "\r\n\r\n,\r\n"),
    "sep=": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "semicolons": PLAIN.replace(",", ";").replace(";1;", ";1,0;").replace(";0;", ";0,00;"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars, old Mac": PLAIN.replace(",", "|").replace("\n", "\r"),
    "index of pandas": ",image,Mass,patient_id\n7,images/a.png,1,p1\n3,images/é.png,0,p2\n",
    "index twice": "Unnamed: 0.1,Unnamed: 0,image,Mass,patient_id\n0,0,images/a.png,1.0,p1\n1,1,images/é.png,0.0,p2\n",
    "empty columns and rows": PLAIN.replace("\n", ",,\n") + ",,,,\n,,\n",
    "short rows": "image,Mass,patient_id,,\nimages/a.png,1,p1\nimages/é.png,0,p2\n",
    "Windows": PLAIN.replace("/", "\\"),
    "other spelling": PLAIN.replace("image,Mass,patient_id", "Image,MASS ,PatientID"),
    "letter in two": PLAIN.replace("é", "e\u0301"),
    "everything quoted": PLAIN.replace(",", '","').replace("\n", '"\n"')[:-1].join(['"', ""]),
    "end of DOS": PLAIN + "\x1a",
    "empty options": PLAIN.replace("\n", ",\n").replace("_id,", "_id,split"),
}


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("form", FORMS)
def test_what_spreadsheets_write_loads(tmp_path, form, coding):
    folder = write_folder(tmp_path / "set", "", images=("a.png", "é.png"))
    if (coding, form) == ("cp1252", "letter in two"):
        return
    (folder / "labels.csv").write_bytes(FORMS[form].encode(coding))
    with pytest.warns(SDMADWarning, match="cp1252") if coding == "cp1252" else contextlib.nullcontext():
        got = load_folder(str(folder), KNOWN)
    assert [p.name for p in got.images] == ["a.png", "é.png"] and got.labels.tolist() == [[1], [0]]
    assert got.meta == {"patient_id": ("p1", "p2")}


@pytest.mark.parametrize("words", ["TRUE FALSE", "yes no", "Wahr Falsch", "1.0 0,0"])
def test_words_of_programs_are_labels_and_said(tmp_path, words):
    true, false = words.split()
    folder = write_folder(tmp_path / "set", "image;Mass", f"images/a.png;{true}", f"images/b.png;{false}")
    said = contextlib.nullcontext() if "0" in words else pytest.warns(SDMADWarning, match="2 cells are read as 1 or 0")
    with said:
        assert load_folder(folder, KNOWN).labels.tolist() == [[1], [0]]


@pytest.mark.parametrize("word", ["Train", "TEST", "validation", "valid", "Testing"])
def test_parts_of_a_split_may_be_spelled_otherwise(tmp_path, word):
    folder = write_folder(tmp_path / "set", "image,Mass,Split", f"images/a.png,1,{word}")
    assert load_folder(folder, KNOWN).meta["split"][0] == {"t": "train", "v": "val"}.get(word[0].lower(), "") or "test"


def test_a_split_under_another_name_is_told(tmp_path):
    folder = write_folder(tmp_path / "set", "image,Mass,subset", "images/a.png,1,Train", "images/b.png,0,test")
    with pytest.warns(SDMADWarning, match="column 'subset' seems to hold a split and is not obeyed; call it split"):
        assert "split" not in load_folder(folder, KNOWN).meta


def test_patients_under_another_name_are_told(tmp_path):
    folder = write_folder(tmp_path / "set", "image,Mass,subject_id", "images/a.png,1,s1", "images/b.png,0,s1")
    with pytest.warns(SDMADWarning, match="column 'subject_id' seems to name patients and is not obeyed; call it pat"):
        assert not load_folder(folder, KNOWN).has_patients


def test_images_without_labels_load_where_none_are_asked_for(tmp_path):
    folder = write_folder(tmp_path / "set", "image,Mass,split", "images/a.png,unknown,test")
    got = load_folder(folder, ())
    assert got.labels.shape == (1, 0) and got.meta == {"split": ("test",)}


@pytest.mark.parametrize("column", ["male", "fold", "is_train", "age>60", "Fold 3", "portable"])
def test_a_description_is_no_finding(tmp_path, column):
    folder = write_folder(tmp_path / "set", f"image,Mass,{column},remark", "images/a.png,1,0,x", "images/b.png,0,1,")
    for categories in (KNOWN, None):
        with pytest.warns(SDMADWarning, match=f"passed over, no findings: the columns {column}, remark"):
            got = load_folder(folder, categories)
        assert got.categories == ("Mass",) and got.labels.tolist() == [[1], [0]]


def test_images_that_show_further_findings_alone_are_left_out(tmp_path):
    """A finding of an included bank is known; another one is asked for by name."""
    rows = "images/a.png,1,1", "images/b.png,0,1", "images/c.png,0,0"
    for other, others in {"Hernia": None, "Gout": ["gout"]}.items():
        folder = write_folder(tmp_path / other, f"image,Mass,{other}", *rows)
        with pytest.warns(SDMADWarning, match=rf"1 images show other findings alone \({other}\) and are left out"):
            assert load_folder(folder, KNOWN, others=others).labels.tolist() == [[1], [0]]
    with pytest.warns(SDMADWarning, match="passed over"):
        assert load_folder(folder, KNOWN, others=[]).labels.tolist() == [[1], [0], [0]]


def test_rows_keep_images_labels_and_meta_together():
    got = table([[1, 0], [0, 1], [0, 0]], patients=[7, 8, 9]).rows([2, 0])
    assert [image[0, 0] for image in got.images] == [2, 0]
    assert got.labels.tolist() == [[0, 0], [1, 0]] and got.meta == {"patient_id": ("9", "7")} and len(got) == 2


def test_restricted_drops_images_that_show_only_other_findings():
    """Row 1 shows B alone: neither a positive nor a normal image for A and C."""
    got = table([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 1]], patients=[1, 2, 3, 4]).restricted(["C", "A"])
    assert got.categories == ("C", "A")
    assert got.labels.tolist() == [[0, 1], [0, 0], [1, 0]] and got.meta["patient_id"] == ("1", "3", "4")


# Splits


def test_a_split_column_is_obeyed():
    train, test = split_train_test(
        table([[1], [0], [1], [0]], [1, 2, 3, 4], ["test", "train", "train", "test"]), seed=5
    )
    assert (train.meta["patient_id"], test.meta["patient_id"]) == (("2", "3"), ("1", "4"))


def test_without_a_split_column_patients_are_halved():
    patients = np.arange(60) // 3
    whole = table(np.zeros((60, 1), int), patients)
    train, test = split_train_test(whole, seed=1)
    assert len(set(train.patients())) == len(set(test.patients())) == 10
    assert not set(train.patients()) & set(test.patients()) and len(train) + len(test) == 60
    assert split_train_test(whole, seed=1)[0].meta == train.meta
    assert split_train_test(whole, seed=2)[0].meta != train.meta


def test_the_rarest_findings_and_normal_images_are_halved_exactly():
    """Normal images too that are of patients with findings, as in a set with follow-ups."""
    labels = np.zeros((200, 2), int)
    labels[:190, 0] = labels[150:158, 1] = 1
    patients = [*range(190), *range(185, 195)]  # half of the normal images are of patients with findings
    for seed in range(5):
        for half in split_train_test(table(labels, patients), seed):
            normal = half.labels.sum(1) == 0
            assert (half.labels[:, 1].sum(), len(set(half.patients()[normal]))) == (4, 5)


def test_without_patients_images_are_halved():
    train, test = split_train_test(table(np.zeros((10, 1), int)))
    assert (len(train), len(test)) == (5, 5)


@pytest.mark.parametrize(("split", "missing"), [(["train"] * 2, "test"), (["test"] * 2, "train")])
def test_a_split_with_an_empty_side_is_refused(split, missing):
    with pytest.raises(DataError, match=f"no {missing} images"):
        split_train_test(table([[1], [0]], [1, 2], split))


# Support sets


def crowd(seed=0, images=300):
    """Patients with one to four images, categories that co-occur, the last one rare."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 3)) < [0.4, 0.3, 0.06]).astype(int)
    return table(labels, rng.integers(0, images // 2, images))


@pytest.mark.parametrize("shots", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_every_category_and_normal_get_their_shots_from_different_patients(shots, seed):
    whole = crowd()
    rows = draw_support(whole, shots, seed)
    support = whole.rows(rows)
    assert (support.labels.sum(0) >= shots).all()
    assert (support.labels.sum(1) == 0).sum() == shots
    assert max(Counter(support.patients()).values()) == 1
    assert len(set(rows)) == len(rows) <= shots * 4


def test_with_one_category_the_draw_has_exactly_k_of_each_kind():
    whole = table([[1], [0]] * 20, range(40))
    assert whole.rows(draw_support(whole, 7, 0)).labels.sum() == 7
    assert len(draw_support(whole, 7, 0)) == 14


def test_an_image_with_two_categories_counts_for_both():
    """The rarest category, B, is served first, and its only images show A too: nothing more is drawn for A."""
    whole = table([[1, 1], [1, 1], *[[1, 0]] * 10, *[[0, 0]] * 10], range(22))
    rows = draw_support(whole, 2, 3)
    assert set(rows[:2]) == {0, 1} and len(rows) == 4
    assert whole.rows(rows).labels.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_draws_follow_the_seed():
    whole = crowd()
    draws = [draw_support(whole, 3, seed).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_over_many_seeds_every_image_of_a_kind_is_drawn():
    whole = table([[1], [0]] * 6, range(12))
    drawn = Counter(int(i) for seed in range(60) for i in draw_support(whole, 2, seed))
    assert set(drawn) == set(range(12)) and min(drawn.values()) > 5  # 20 of 60 expected


@pytest.mark.parametrize(
    ("labels", "patients", "shots", "named"),
    [
        ([[1], [1]], [1, 2], 1, r"no normal image \(a row of zeros\)"),
        ([[1], [1], [0], [0], [0]], [1, 2, 3, 4, 5], 3, "'A' has 2 patients .* 3 shots .*categories="),
        ([[1], [1], [1], [0], [0], [0]], [1, 1, 1, 2, 3, 4], 2, "'A' has 1 patients .* 2 shots"),
        ([[1], [1], [0]], [1, 2, 3], 2, "'normal' has 1 patients .* 2 shots"),
        ([[1], [0]], [1, 2], 0, "shots is 0"),
        ([[0], [0]], [1, 2], 1, "no image shows 'A'; add some"),
        # one patient has both: who gives A cannot give the normal image
        ([[1], [0]], [1, 1], 1, "only 0 of 1 shots of 'normal' .* not yet used"),
    ],
)
def test_a_draw_that_cannot_be_made_names_what_is_short(labels, patients, shots, named):
    with pytest.raises(DataError, match=named):
        draw_support(table(labels, patients), shots, 0)


# What a mistake in labels.csv is answered with

GOOD = ("image,Mass,patient_id", "images/a.png,1,p1", "images/b.png,0,p2")

BAD = {
    "empty file": ([""], "has no rows"),
    "header alone": (["image,Mass"], "has no rows"),
    "header and empty lines": (["image,Mass", ",", ""], "has no rows"),
    "no image column": (["picture,Mass", "images/a.png,1"], r"no column 'image'; name .*\(there are picture, Mass\)"),
    "a title above": (["My study,", "", *GOOD], "the columns are named on line 3; remove what stands above"),
    "a patient of pandas": ([*GOOD, "images/c.png,0,nan"], "line 4: the patient_id is empty"),
    "a patient of Excel": ([*GOOD, "images/c.png,0,1.23E+11"], r"line 4: the patient_id 1.23E\+11 was rounded"),
    "column twice": (["image,Mass,Mass", "images/a.png,1,1"], "column 'Mass' stands twice"),
    "unknown column": (["image,Mass,Gout", "images/a.png,1,0"], "column 'Gout' holds 0 and 1 .*others= if .*others="),
    "two spellings of a column": (["image,Mass,mass", "images/a.png,1,1"], "column 'Mass' stands twice"),
    "no name for a column": (["image,Mass,", "images/a.png,1,0", "images/b.png,1,0"], "column 3 .* '0' on line 2"),
    "control character": (["\0image,Mass", "images/a.png,1"], r"line 1: '\\x00image' holds a control character"),
    "misspelt category": (["image,Efusion", "images/a.png,1"], "unknown column 'Efusion'; did you mean 'Effusion'"),
    "misspelt meta": (["image,Mass,patient", "images/a.png,1,p"], "'patient'; did you mean 'patient_id'"),
    "no category": (["image,patient_id", "images/a.png,p1"], "no category column; expected some of Effusion, Edema"),
    "too few cells": ([*GOOD, "images/c.png,1"], "line 4: 2 cells, but the header has 3"),
    "too many cells": ([*GOOD, "images/c.png,1,p3,0"], "line 4: 4 cells, but the header has 3"),
    "label 2": ([*GOOD, "images/c.png,2,p3"], "line 4, column Mass: '2' is not 0 or 1"),
    "label missing": ([*GOOD, "images/c.png,,p3"], "line 4, column Mass: '' is not 0 or 1"),
    "label in words": ([*GOOD, "images/c.png,maybe,p3"], "line 4, column Mass: 'maybe' is not 0 or 1"),
    "label after a longer row": (
        ["image,Mass,site", '"images/a.png",1,"two\nlines"', "images/b.png,2,"],
        "line 4, column Mass: '2' is not",
    ),
    "same image twice": ([*GOOD, "images/a.png,0,p3"], "line 4: images/a.png stands already on line 2"),
    "same image by a detour": ([*GOOD, "images/../images/a.png,0,p3"], "line 4: .*a.png stands already on line 2"),
    "missing image": ([*GOOD, "images/zz.png,0,p3"], "line 4: no such image file images/zz.png"),
    "folder for an image": ([*GOOD, "images,0,p3"], "line 4: no such image file images;"),
    "no image name": ([*GOOD, ",0,p3"], "line 4: the image column is empty"),
    "image outside": ([*GOOD, "../other.png,0,p3"], r"line 4: \.\./other.png lies outside the data folder"),
    "text for an image name": ([*GOOD, "long report " * 40 + ",0,p3"], "line 4: no such image file long report"),
    "zero byte in a name": ([*GOOD, "images/a\0.png,0,p3"], r"line 4: 'images/a\\x00\.png' holds a control"),
    "no patient": ([*GOOD, "images/c.png,0,"], "line 4: the patient_id is empty"),
    "bad split": (
        ["image,Mass,split", "images/a.png,1,train", "images/b.png,0,dev"],
        "line 3, column split: 'dev' is not train, val or test",
    ),
    "patient in both splits": (
        ["image,Mass,patient_id,split", "images/a.png,1,p7,train", "images/b.png,0,p7,test"],
        r"patients in two parts of the split: 1, first .*a\.png and .*b\.png; keep each patient in one split",
    ),
}


@pytest.mark.parametrize(("lines", "named"), BAD.values(), ids=BAD.keys())
def test_a_bad_table_is_refused_by_name(tmp_path, lines, named):
    (tmp_path / "other.png").write_bytes(picture())
    folder = write_folder(tmp_path / "set", *lines)
    with pytest.raises(DataError, match=rf"labels\.csv.*{named}"):
        load_folder(folder, KNOWN)


def test_a_folder_without_a_table_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(DataError, match=rf"{place.name}/labels\.csv: cannot be read"):
            load_folder(place)


def test_a_table_that_is_no_text_is_named(tmp_path):
    for data, named in ((picture(), "cannot be read"), (b"PK\3\4xlsx", "is no text but a workbook or an archive")):
        (tmp_path / "labels.csv").write_bytes(data)
        with pytest.raises(DataError, match=rf"labels\.csv: {named}"):
            load_folder(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "other.png").write_bytes(picture())
    folder = write_folder(tmp_path / "set", *GOOD, "images/link.png,0,p3")
    (folder / "images" / "link.png").symlink_to(tmp_path / "other.png")
    with pytest.raises(DataError, match=r"line 4: images/link.png lies outside"):
        load_folder(folder, KNOWN)


# Images


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_a_grey_image_is_read_alike_from_any_form(tmp_path, mode):
    grey = Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((8, 8))).astype(np.uint8))
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    grey.convert(mode).save(path)
    for source in (path, str(path), grey.convert(mode)):
        got = read_image(source)
        assert got.mode == "L"
        np.testing.assert_array_equal(np.asarray(got), np.asarray(grey))


def test_arrays_are_read_as_they_are():
    array = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(read_image(array)), array)
    np.testing.assert_array_equal(np.asarray(read_image(np.stack([array] * 3, 2))), array)


def test_colour_is_read_where_the_modality_has_it_and_refused_elsewhere(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(read_image(colour, color=True)), colour)
    Image.fromarray(colour).save(tmp_path / "fundus.png")
    with pytest.raises(DataError, match=r"fundus\.png: is a colour image.*\"color\": true"):
        read_image(tmp_path / "fundus.png")


def test_a_scan_with_a_slight_cast_counts_as_grey():
    cast = np.full((6, 5, 3), 120, np.uint8)
    cast[..., 2] += 3  # JPEG does this
    assert read_image(cast).mode == "L"


def broken(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "truncated JPEG":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(noise).save(stream, "JPEG")
        return stream.getvalue()[:900]
    elif kind == "truncated PNG":
        return picture(size=(64, 64))[:60]
    elif kind == "text":
        return b"patient,finding\n1,none\n"
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("empty", "the file is empty"),
        ("text", "cannot be read as an image"),
        ("truncated PNG", "cannot be read as an image"),
        ("truncated JPEG", "cannot be read as an image"),
    ],
)
def test_a_bad_image_is_refused_by_name(tmp_path, kind, named):
    path = tmp_path / "scan.img"
    path.write_bytes(broken(kind))
    with pytest.raises(DataError, match=rf"scan\.img: .*{named}"):
        read_image(path)


def test_a_png_cut_off_anywhere_is_refused_or_read_whole(tmp_path):
    """The last bytes hold only checksums; nothing less is let through."""
    path, whole = tmp_path / "scan.png", picture(size=(64, 64))
    read = 0
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        try:
            assert np.asarray(read_image(path)).tolist() == [[100] * 64] * 64
            read += 1
        except DataError as error:
            assert "scan.png" in str(error)
    assert read < 25


def test_a_missing_image_is_named(tmp_path):
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(DataError, match=f"{path.name}: no such image file"):
            read_image(path)


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((8, 8)), "float64"),
        (np.zeros((8, 8), np.uint16), "uint16"),
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)"),
        (np.zeros((8, 0), np.uint8), "empty"),
        (None, "NoneType"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_what_is_no_image_is_named(array, named):
    with pytest.raises(DataError, match=named):
        read_image(array)
