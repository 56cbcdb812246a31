"""The student's copy: without solutions, never overwritten, and no link of it leads nowhere."""

import json
import re
from pathlib import Path

import pytest

from sdmad_course import ROOT
from sdmad_course.my_course import make_copy, students_copy
from sdmad_lite.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "my_course"


def source_of(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_the_copy_has_every_stub_and_no_solution(folder):
    assert make_copy(folder=folder) == []
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        copied = source_of(folder / path.name)
        for cell in cells:
            tags, source = cell["metadata"].get("tags", []), "".join(cell["source"])
            if tags and cell["cell_type"] == "code":
                assert (source in copied) == ("solution" not in tags)


def test_what_a_student_changed_stays_and_a_new_room_stands_beside_it(folder, tmp_path):
    source = tmp_path / "notebooks"
    source.mkdir()
    for name in ("README.md", "GLOSSARY.md"):
        (source / name).write_text("text")
    room = {"cells": [{"cell_type": "code", "metadata": {}, "source": ["1"]}], "nbformat": 4}
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (source / name).write_text(json.dumps(room))
    make_copy(source, folder)
    (folder / "00_a.ipynb").write_text(mine := json.dumps(room | {"mine": 1}))
    assert make_copy(source, folder) == []  # nothing new: what is theirs stays alone
    room["cells"][0]["source"] = ["2"]
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (source / name).write_text(json.dumps(room))
    assert make_copy(source, folder) == ["00_a.new.ipynb"]
    assert (folder / "00_a.ipynb").read_text() == mine and source_of(folder / "00_a.new.ipynb") == "2"
    assert source_of(folder / "01_b.ipynb") == "2"
    assert make_copy(source, folder) == []


def test_a_check_does_not_stop_run_all():
    cells = [{"cell_type": "code", "metadata": {}, "source": ['check("00.1", mine)']}]
    assert students_copy({"cells": cells})["cells"][0]["metadata"]["tags"] == ["raises-exception"]


def test_links_of_the_copy_lead_to_files_of_the_repository():
    folder = ROOT / "build" / "my_course"
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        copied = students_copy(json.loads(path.read_text(encoding="utf-8")))
        text = "\n".join("".join(cell["source"]) for cell in copied["cells"] if cell["cell_type"] == "markdown")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            there = (folder / target).resolve()
            assert there.exists() or (ROOT / "notebooks" / there.relative_to(folder.resolve())).exists(), target


def test_without_notebooks_it_says_so(tmp_path):
    with pytest.raises(DataError, match="no notebooks; run this in a clone"):
        make_copy(tmp_path, tmp_path / "copy")
