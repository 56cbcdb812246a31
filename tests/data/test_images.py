"""What counts as images: one or many, and the files of a folder."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from sdmad_lite.data import ImageTable, as_images, walk_images
from sdmad_lite.errors import DataError, SDMADWarning

GREY, COLOUR = np.zeros((6, 5), np.uint8), np.zeros((6, 5, 3), np.uint8)
TABLE = ImageTable((Path("a.png"), GREY), np.zeros((2, 1), int), ("Mass",), {})


@pytest.mark.parametrize("one", ["a.png", Path("a.png"), Image.fromarray(GREY), GREY, COLOUR, np.zeros((6, 5, 4))])
def test_one_image_is_a_list_of_one(one):
    images, single = as_images(one)
    assert single and len(images) == 1 and images[0] is one


@pytest.mark.parametrize(
    "many",
    [
        ["a.png", GREY],
        ("a.png", GREY),
        TABLE,
        iter(["a.png", GREY]),
        np.stack([GREY] * 2),
        np.stack([COLOUR] * 2),
        np.array(["a.png", "b.png"]),
    ],
    ids=["list", "tuple", "table", "iterator", "grey stack", "colour stack", "array of paths"],
)
def test_many_images_are_a_list_of_them(many):
    images, single = as_images(many)
    assert not single and isinstance(images, list) and len(images) == 2


MIXED = {"Mass": [0, 1], "image": ["a.png", "b.png"]}
FRAMES = {
    "a Series": pd.Series(["a.png", "b.png"], name="Mass", index=[7, 3]),
    "the only column": pd.DataFrame(["a.png", "b.png"]),
    "pandas": pd.DataFrame(MIXED),
    "path": pd.DataFrame(MIXED).rename(columns={"image": "Path"}),
    "Polars": pl.DataFrame(MIXED),
    "Arrow": pa.table(MIXED),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_table_gives_its_column_of_paths(frame):
    assert as_images(frame) == (["a.png", "b.png"], False)


def test_a_stack_is_parted_into_its_images():
    images, _ = as_images(np.stack([GREY, GREY + 1]))
    assert [image.shape for image in images] == [GREY.shape] * 2 and images[1].max() == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "not NoneType"),
        (7, "not int"),
        ({"a.png": 1}, "not dict"),
        ({"a.png"}, "not set"),
        (b"a.png", "not bytes"),
        ([], "the list is empty"),
        (TABLE.rows([]), "the list is empty"),
        (np.zeros((0, 6, 5), np.uint8), "the list is empty"),
        (pd.DataFrame({"image": []}), "the list is empty"),
        (pd.DataFrame({"Mass": [1], "Mole": [0]}), "columns Mass, Mole; call the one with the paths image, or give it"),
        (pd.DataFrame(columns=["image", "path"]), "columns image, path; call the one"),
        (np.zeros(9), r"shape \(9,\)"),
        (np.array(3), r"shape \(\)"),
        (np.zeros((2, 3, 6, 5), np.uint8), r"shape \(2, 3, 6, 5\) is neither .*\(N, H, W, 3\)"),
    ],
)
def test_what_is_neither_one_nor_many_is_named(given, named):
    with pytest.raises(DataError, match=f"images: .*{named}"):
        as_images(given)


@pytest.fixture
def folder(tmp_path):
    """A folder with images, other files, and links of every kind."""
    names = ["b.png", "a/z.JPG", "a.tif", "notes.txt", "IM1", "README", "DICOMDIR", ".DS_Store", "Thumbs.db"]
    for path in (tmp_path / "set" / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" if path.name in ("IM1", "DICOMDIR") else b"x")
    return tmp_path / "set"


def test_a_folder_is_walked_in_the_order_of_its_paths(folder):
    found = [path.relative_to(folder).as_posix() for path in walk_images(folder, within=folder)]
    assert found == sorted(found) == ["IM1", "a.tif", "a/z.JPG", "b.png"]


@pytest.mark.parametrize(
    "names",
    [
        ["a/._z.JPG", ".ipynb_checkpoints/b.png", "__MACOSX/._b.png"],
        ["b_mask.png", "a/z_mask_1.PNG", "a_seg.tif"],
        ["mask_b.png", "a/z.mask.png", "Segmentation-a.tif"],
        ["$RECYCLE.BIN/b.png", "System Volume Information/b.png", "lost+found/b.png"],
        ["b-Segmentation.png", "a/Z GT.bmp", "b_label 2.png"],
    ],
)
def test_masks_beside_their_images_and_hidden_files_are_passed_over_with_a_count(folder, names):
    for path in (folder / name for name in names):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    with pytest.warns(SDMADWarning, match="masks and hidden files, passed over: 3, .* first") as said:
        assert len(list(walk_images(folder))) == 4
    assert len(said) == 1


def test_a_folder_of_masks_beside_one_of_images_is_passed_over_and_what_only_sounds_so_is_kept(tmp_path):
    for name in ("images/1.png", "masks/1.png", "face_mask.png", "label.png", "other/masks/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(SDMADWarning, match="passed over: 1, .*masks"):
        found = [path.relative_to(tmp_path).as_posix() for path in walk_images(tmp_path)]
    assert found == ["face_mask.png", "images/1.png", "label.png", "other/masks/2.png"]


def test_links_are_followed_to_files_alone_and_only_within_the_set_where_one_is_named(folder):
    (folder.parent / "out.png").write_bytes(b"x")
    links = {"in.png": folder / "b.png", "out.png": folder.parent / "out.png", "gone.png": "nothing", "deep": folder}
    for name, target in links.items():
        (folder / name).symlink_to(target)
        found = [path.name for path in walk_images(folder)]  # a row with an error is better than no row
        assert (name in found) == (name != "deep") and len(found) == 4 + (name != "deep")
        if name == "in.png":
            assert folder / name in list(walk_images(folder, within=folder))
        else:
            with pytest.raises(DataError, match=rf"{name}: (is a link|no such image file)"):
                list(walk_images(folder, within=folder))
        (folder / name).unlink()


def test_what_is_no_folder_is_named_and_a_pipe_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    assert len(list(walk_images(folder))) == 4
    with pytest.raises(DataError, match=r"gone: cannot be read"):
        list(walk_images(folder / "gone"))
