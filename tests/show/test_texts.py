"""Names that a browser or a spreadsheet would run: what is written shows them, and no patient is named."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.data import ImageTable
from sdmad_lite.deployment.tables import csv_text
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.experiment import Settings, run_experiment
from sdmad_lite.show.answers import explained_csv, explained_rows
from sdmad_lite.show.report import write_report
from sdmad_lite.signs.bank import parse_bank

ODD = {"Pleural effusion": "<script>alert(1)</script>", "Cardiomegaly": '=1+1 & "x" $_{', "Emphysema": "O'Brien $ <b>"}


@pytest.fixture(scope="module")
def odd(bank, phantom_table):
    """A bank and a table whose categories and signs are not what they seem."""
    text = bank.model_dump_json()
    for name, other in ODD.items():
        text = text.replace(json.dumps(name), json.dumps(other))
    content = json.loads(text)
    content["signs"][0]["text"] = "<img src=x onerror=alert(2)>"
    meta = phantom_table.meta | {"sex": tuple("<em>" if sex == "F" else "M" for sex in phantom_table.meta["sex"])}
    return parse_bank(content), ImageTable(phantom_table.images, phantom_table.labels, tuple(ODD.values()), meta)


def test_a_report_shows_odd_names_and_names_no_patient(odd, tiny_clip, tmp_path):
    bank, table = odd
    half = table.rows(np.arange(24)), table.rows(np.arange(24, 48))
    short = Settings(AlignmentConfig(steps=1, augmentations=1), baselines={})
    experiment = run_experiment(*half, bank, tiny_clip, 1, [0, 1], short)
    write_report(tmp_path, experiment, {"<u>": "none in <test>"}, name="a & <b>", train=24, unused=1)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for raw in ("<script", "<b>a", "& <b>", "<u>", "<em>", "<test>", "onerror=alert(2)>"):
        assert raw not in page
    for shown in (
        "&lt;script&gt;alert(1)",
        "a &amp; &lt;b&gt;",
        "&lt;u&gt;",
        "sex=&lt;em&gt;",
        "x onerror=alert(2)&gt;",
    ):
        assert shown in page
    assert not any(patient in text for text in (page, repr(table)) for patient in set(table.meta["patient_id"]))


def test_cells_that_a_spreadsheet_would_run_are_marked_as_text_and_numbers_stay_numbers(odd, tiny_clip):
    bank, table = odd
    detector = SDMAD.training_free(bank, backbone=tiny_clip).fit_table(table)
    assert "<script" not in detector._repr_html_() and "&lt;script" in detector._repr_html_()
    names = ["=cmd|' /C calc'!A0", "+1.png", "-1.png", "@sum", "\tx", "\rx", "＝1", "plain.png", ""]
    rows = explained_rows(detector, dict(zip(names, table.images, strict=False)))
    cells = list(csv.DictReader(io.StringIO(explained_csv(rows), newline="")))
    assert [c["image"] for c in cells[::3]] == [*("'" + name.replace("\r", r"\r") for name in names[:7]), *names[7:]]
    assert {c["category"][:2] for c in cells} == {"<s", "'=", "O'"}
    assert [float(c["logit"]) for c in cells] == [row["logit"] for row in rows] and min(r["logit"] for r in rows) < 0
    found = pd.read_csv(io.StringIO(csv_text([{"=head": -0.5, "n": 3, "none": None}])))
    assert list(found) == ["'=head", "n", "none"] and found.iloc[0, :2].tolist() == [-0.5, 3]
