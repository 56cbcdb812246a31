"""Labels go by name, never by position."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_array

from sdmad_lite.data import ImageTable
from sdmad_lite.data.labels import check_index, labels_by_name
from sdmad_lite.errors import DataError, SDMADWarning
from sdmad_lite.evaluation.protocols import evaluate

COLUMNS = {"Mass": [1, 0, 0], "pleural_EFFUSION ": [0, 1, 0]}
ORDERED = [[0, 1], [1, 0], [0, 0]]
CATEGORIES = ("Pleural effusion", "Mass")
TABLE = ImageTable((0, 1, 2), np.column_stack(list(COLUMNS.values())), tuple(COLUMNS), {})
FORMS = {
    "dict": COLUMNS,
    "pandas": pd.DataFrame(COLUMNS),
    "pandas, nullable": pd.DataFrame(COLUMNS).astype("Int64"),
    "pandas, truth": pd.DataFrame(COLUMNS).astype(bool),
    "Polars": pl.DataFrame(COLUMNS),
    "Arrow": pa.table(COLUMNS),
    "structured": np.rec.fromarrays(list(COLUMNS.values()), names=list(COLUMNS)),
    "beside images": pd.DataFrame(COLUMNS).assign(Image=["a.png", "b.png", "c.png"]),
    "table": TABLE.labels,
    "rows of a table": TABLE.rows([2, 1, 0]).labels[::-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_named_columns_are_matched_whatever_their_order(form):
    assert labels_by_name(FORMS[form], CATEGORIES).tolist() == ORDERED
    assert evaluate(np.array(ORDERED) * 0.9, FORMS[form], CATEGORIES).multilabel.macro.auroc == 1


def test_a_series_goes_by_its_name():
    for series in (pd.Series([1, 0], name="mass"), pl.Series("mass", [1, 0])):
        assert labels_by_name(series, ["Mass"]).tolist() == [[1], [0]]
        with pytest.raises(DataError, match="no column 'Edema'; the columns are mass"):
            labels_by_name(series, ["Edema"])


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"Mass": [1]}, "no column 'Pleural effusion'; the columns are Mass"),
        (COLUMNS | {"male": [0, 0, 1]}, "column 'male' is no category"),
        (COLUMNS | {"MASS": [0, 0, 1]}, "a column stands twice"),
        (COLUMNS | {"Mass": ["1", "maybe", "0"]}, "labels, column Mass: holds cells that are no numbers"),
        (COLUMNS | {"Mass": [1, 0]}, "labels: the columns differ in length"),
        (torch.ones(3, 2, requires_grad=True), "labels: cannot be read as an array"),
    ],
)
def test_other_columns_are_refused_by_name(columns, named):
    with pytest.raises(DataError, match=named):
        labels_by_name(columns, CATEGORIES)


def test_an_array_says_which_order_it_was_taken_in():
    for given in (np.array(ORDERED), csr_array(ORDERED), pd.DataFrame(ORDERED), TABLE.labels[:, [1, 0]]):
        with pytest.warns(SDMADWarning, match="taken in the order Pleural effusion, Mass;"):
            assert labels_by_name(given, CATEGORIES, remark=True).tolist() == ORDERED


def test_rows_in_another_order_than_the_images_are_refused():
    labels = pd.DataFrame(COLUMNS, index=["a.png", "b.png", "c.png"])
    check_index(["x/a.png", "x/b.png", "x/c.png"], labels)
    check_index(pd.Series(list("abc"), index=labels.index), labels)
    for images in (["b.png", "a.png", "c.png"], np.array(["b.png", "a.png", "c.png"]), pd.Series(list("abc"))):
        with pytest.raises(DataError, match="the index differs from that of the images, row 0 first"):
            check_index(images, labels)
