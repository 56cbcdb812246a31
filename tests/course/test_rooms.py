"""The rooms as a class needs them: short, nothing measured in prose, each question and panel with its answer."""

import ast
import json
import re
from pathlib import Path

import pytest

from sdmad_course import rules  # noqa: F401 - they register themselves
from sdmad_course.exercises import EXERCISES

ROOT = Path(__file__).parents[2]
ROOMS = sorted(p for p in (ROOT / "notebooks").glob("*.ipynb") if int(p.name[:2]) <= 14)
LIMITS = {number: (35, 1100) for number in (*range(8), 14)} | {number: (25, 500) for number in range(8, 14)}
WORDS_IN_ALL = 13_000


def cells_of(path: Path, kind: str | None = None) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    cells = [cell | {"source": "".join(cell["source"])} for cell in cells]
    return [cell for cell in cells if kind in (None, cell["cell_type"])]


def prose(path: Path) -> str:
    """What a reader reads: no code, formulas, tags and addresses."""
    text = "\n".join(cell["source"] for cell in cells_of(path, "markdown"))
    for pattern in (r"```.*?```", r"\$\$.*?\$\$", r"\$[^$]*\$", r"`[^`\n]*`", r"<[^>]+>", r"\]\([^)]*\)"):
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return text


def words(path: Path) -> int:
    return sum(any(map(str.isalnum, word)) for word in prose(path).split())


@pytest.fixture(params=ROOMS, ids=lambda path: path.stem)
def room(request):
    return request.param


def tagged(cell: dict, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", ())


def test_a_room_is_no_longer_than_its_time(room):
    cells, most = LIMITS[int(room.name[:2])]
    assert len(cells_of(room)) <= cells and words(room) <= most


def test_the_course_is_no_longer_than_a_class_reads():
    assert sum(map(words, ROOMS)) <= WORDS_IN_ALL


def test_no_measured_number_stands_in_prose(room):
    assert re.findall(r"\d\.\d\d+|(?<!95 )(?<!95)\b\d+ ?%", prose(room).replace("95 %", "")) == []


def test_pictures_are_drawn_by_what_describes_them(room):
    for source in (cell["source"] for cell in cells_of(room, "code")):
        assert "plt." not in source and "pyplot" not in source
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            if ast.unparse(call.func).endswith("show_images"):
                assert len(call.args) > 1 or any(word.arg == "titles" for word in call.keywords), "no titles, no words"


def test_no_test_image_is_looked_at_before_its_room():
    for path in ROOMS[:5]:
        assert not any(re.search(r"\btest\b(?!_)", cell["source"]) for cell in cells_of(path, "code")), path.name


def test_each_exercise_has_a_stub_a_solution_and_a_check(room):
    cells = cells_of(room)
    for at, cell in enumerate(cells):
        if tagged(cell, "exercise"):
            assert "mine = ..." in cell["source"]
            solution, checked = cells[at + 1], cells[at + 2]
            assert tagged(solution, "solution") and "mine" in solution["source"]
            assert re.search(r'^check\("\d\d\.\d", mine', checked["source"], re.MULTILINE)
        assert not tagged(cell, "solution") or tagged(cells[at - 1], "exercise")


def test_each_check_belongs_to_one_exercise():
    source = "\n".join(cell["source"] for path in ROOMS for cell in cells_of(path, "code"))
    asked = re.findall(r'^check\("([\d.]+)"', source, re.MULTILINE)
    assert sorted(asked) == sorted(set(asked)) and set(EXERCISES) <= set(asked)


def test_each_recall_question_has_its_folded_answer(room):
    recall = re.search(r"^## Recall\n(.*?)(?=^## |\Z)", "\n".join(c["source"] for c in cells_of(room)), re.M | re.S)
    if recall:
        questions = re.findall(r"^\d\. .*$", recall[1], re.MULTILINE)
        assert questions and all("<details><summary>Answer</summary>" in line for line in questions)


def test_a_panel_stands_between_its_question_and_its_answer(room):
    cells = cells_of(room)
    for at, cell in enumerate(cells):
        if cell["cell_type"] == "code" and re.search(r"\w_panel\(", cell["source"]):
            assert "**Question.**" in cells[at - 1]["source"] and "<details>" in cells[at + 1]["source"]
