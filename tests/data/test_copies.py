"""The same picture twice: found by its pixels in every reader, refused or left out."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bad_inputs.images import dicom
from PIL import Image

from sdmad_lite.data import copies, digests, load_data, read_image, split_train_test, without_copies
from sdmad_lite.errors import DataError, SDMADWarning
from sdmad_lite.evaluation.seen_images import seen, write_seen


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 12), dtype=np.uint8))


def wider(step: int) -> Image.Image:
    return Image.fromarray(np.asarray(picture(0)).astype(np.uint16) * np.uint16(step))


FORMS = {
    "same bytes": lambda path: picture(0).save(path),
    "other name and compression": lambda path: picture(0).save(path, "PNG", compress_level=0),
    "colours that are grey": lambda path: picture(0).convert("RGB").save(path, "PNG"),
    "another format": lambda path: picture(0).save(path.with_suffix(".bmp")),
    "8 bits as 16, as libpng widens": lambda path: wider(257).save(path),
    "8 bits as 16, shifted": lambda path: wider(256).save(path.with_suffix(".tif")),
    "another header": lambda path: picture(0).save(path.with_suffix(".tif"), description="Doe"),
}


def four(folder, copy=FORMS["same bytes"], last="0,test"):
    """Three pictures of train and one of test, which is a copy of the first."""
    folder.mkdir()
    for i in range(3):
        picture(i).save(folder / f"{i}.png")
    copy(folder / "copy.png")
    name = next(folder.glob("copy.*")).name
    rows = ["0.png,0,train", "1.png,1,train", "2.png,1,train", f"{name},{last}"]
    (folder / "labels.csv").write_text("\n".join(["image,Mass,split", *rows]))
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_across_the_split_is_refused_or_left_out_of_train(tmp_path, form):
    folder = four(tmp_path / "set", FORMS[form])
    with pytest.raises(DataError, match=r"several parts of the split: 1, .*copy.* \(test\) and .*0.png \(train\)"):
        load_data(folder)
    with pytest.warns(SDMADWarning, match="1 images are copies of others, pixel for pixel, and are left out"):
        got = load_data(folder, drop_copies=True)
    assert [path.stem for path in got.images] == ["1", "2", "copy"]
    whole = load_data(folder, drop_copies=None)
    with pytest.raises(DataError, match="1 train images are in test too"):
        split_train_test(whole)
    assert len(split_train_test(whole, drop_copies=True)[0]) == 2


def test_a_copy_with_other_labels_is_refused_or_left_out_twice(tmp_path):
    folder = four(tmp_path / "set", last="1,train")
    with pytest.raises(DataError, match=r"several labels: 1, such as .*0.png \(normal\) and .* \(Mass\)"):
        load_data(folder)
    with pytest.warns(SDMADWarning, match="2 images are copies"):
        assert [path.stem for path in load_data(folder, drop_copies=True).images] == ["1", "2"]


def test_what_a_detector_was_fitted_on_is_found_once_and_with_one_label(tmp_path):
    folder = four(tmp_path / "set", last="0,train")
    table = load_data(folder, drop_copies=None)
    write_seen(tmp_path, table.rows([0, 1]))
    with pytest.warns(SDMADWarning, match="1 images are copies"):
        assert len(seen(tmp_path, table)) == 2
    table = replace(table, labels=np.array([[0], [1], [1], [1]]))
    with pytest.raises(DataError, match=r"several labels: 1, .*; give each picture with the labels that it was fitted"):
        seen(tmp_path, table)


def test_a_copy_alike_in_all_counts_once(tmp_path):
    with pytest.warns(SDMADWarning, match="1 images are copies"):
        assert len(load_data(four(tmp_path / "set", last="0,train"))) == 3


def test_copies_in_class_folders_of_another_format_are_found(tmp_path):
    for i, name in enumerate(("train/normal/a.png", "train/Mass/b.png", "test/Mass/c.png", "test/normal/d.bmp")):
        (tmp_path / name).parent.mkdir(parents=True)
        picture(i % 3).save(tmp_path / name)
    with pytest.raises(DataError, match=r"d.bmp \(test\) and .*a.png \(train\)"):
        load_data(tmp_path)


def test_copies_in_arrays_are_found(tmp_path):
    x = np.stack([np.asarray(picture(i)) for i in range(3)])
    np.savez(tmp_path / "set.npz", train_images=x, train_labels=[0, 1, 1], test_images=x[1:2], test_labels=[1])
    with pytest.raises(DataError, match=r"set.npz: pictures .*: 1, .* row 3 \(test\) and row 1 \(train\)"):
        load_data(tmp_path / "set.npz", names=["normal", "Mass"])


def test_copies_in_dicom_of_other_patients_are_found(tmp_path):
    for name, patient in {"a": "one", "b": "two"}.items():
        (tmp_path / f"{name}.dcm").write_bytes(dicom(PatientID=patient))
    (tmp_path / "labels.csv").write_text("image,Mass,split\na.dcm,1,train\nb.dcm,1,test\n")
    with pytest.raises(DataError, match=r"pictures that stand in several parts of the split: 1"):
        load_data(tmp_path)


def test_what_cannot_be_read_is_no_copy(tmp_path):
    folder = four(tmp_path / "set", lambda path: path.write_bytes(b"no image"))
    (folder / "0.png").write_bytes(b"no image")
    assert digests([folder / "0.png", folder / "1.png"])[0] is None
    assert without_copies("", load_data(folder))[1] == 0


def test_a_file_that_was_replaced_is_read_again(tmp_path):
    """Of the same name, size and time."""
    file = tmp_path / "a.bmp"
    picture(0).save(file)
    before, about = digests([file]), file.stat()
    picture(1).save(file)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file.stat().st_size == about.st_size and digests([file]) != before


def test_a_picture_that_has_its_sides_for_itself_is_not_read(tmp_path, monkeypatch):
    """Of a hundred thousand only those are read that may be copies; a mark that turns a picture swaps its sides."""
    Image.new("L", (30, 20)).save(tmp_path / "alone.png")
    picture(0).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[274] = 6
    picture(0).rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    read = []
    monkeypatch.setattr(copies, "as_stored", lambda path: read.append(Path(path).stem) or read_image(path))
    alone, one, other = copies.twins([tmp_path / f"{name}.png" for name in ("alone", "a", "turned")])
    assert alone is None and one == other is not None and sorted(read) == ["a", "turned"]
