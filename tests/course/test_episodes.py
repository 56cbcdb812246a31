"""Support draws as data, in memory and on disk."""

import json

import numpy as np
import pytest
from conftest import plain_table

from sdmad_course.episodes import draw_episodes, load_episodes, table_hash
from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.errors import DataError

LABELS = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0], [1, 0]])


@pytest.fixture
def train():
    return plain_table(np.tile(LABELS, (3, 1)), patient_id=range(18))


def test_draws_are_those_of_draw_support(train):
    episodes = draw_episodes(train, [1, 2], draws=3, seed=5, name="mine")
    for shots in (1, 2):
        for draw in range(3):
            expected = draw_support(train, shots, 5 + draw)
            np.testing.assert_array_equal(episodes.rows(train, shots, draw), expected)
            assert episodes.support(train, shots, draw).images == train.rows(expected).images


def test_draws_come_back_from_a_file(train, tmp_path):
    episodes = draw_episodes(train, [1, 2], draws=2, name="mine")
    again = load_episodes(episodes.save(tmp_path / "draws.json"))
    assert again == episodes and again.version == 1 and list(again.draws) == [1, 2]


def test_draws_refuse_another_table(train):
    episodes = draw_episodes(train, [1], draws=1, name="mine")
    other = train.labels.copy()
    other[0, 0] = 1 - other[0, 0]
    people = {"patient_id": train.meta["patient_id"][::-1]}
    for changed in (
        ImageTable(train.images, other, train.categories, train.meta),
        ImageTable(train.images, train.labels, train.categories, people),
        ImageTable(train.images, train.labels, ("A", "C"), train.meta),
        train.rows(range(17)),
    ):
        with pytest.raises(DataError, match="'mine': drawn from another table"):
            episodes.support(changed, 1, 0)
    moved = ImageTable(train.images[::-1], train.labels.astype(np.int8), train.categories, train.meta)
    assert table_hash(moved) == episodes.sha256  # where the images lie is not part of it


@pytest.mark.parametrize(("shots", "draw"), [(1, 2), (1, -1), (4, 0)])
def test_a_draw_that_is_not_there_is_named(train, shots, draw):
    episodes = draw_episodes(train, [1, 2], draws=2, name="mine")
    with pytest.raises(DataError, match=f"no draw {draw} of K = {shots}; there are 2 of K = 1, 2 of K = 2"):
        episodes.support(train, shots, draw)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "version"),
        ({"sha256": "abc"}, "sha256"),
        ({"draws": {}}, "draws: .*at least 1 item"),
        ({"draws": {"0": [[1]]}}, "draws.0.*greater than or equal to 1"),
        ({"draws": {"4": [[1]], "04": [[2]]}}, "draws.04.*plain digits"),
        ({"draws": {"4.0": [[1]]}}, "draws.4.0.*plain digits"),
        ({"draws": {"1": [[1.0]]}}, "draws.1.0.0: Input should be a valid integer"),
        ({"draws": {"1": [["1"]]}}, "draws.1.0.0: Input should be a valid integer"),
        ({"draws": {"1": [[True]]}}, "draws.1.0.0: Input should be a valid integer"),
        ({"seed": "1"}, "seed: Input should be a valid integer"),
        ({"version": True}, "version: Input should be a valid integer"),
        ({"draws": {"1": []}}, "draws.1: .*at least 1 item"),
        ({"draws": {"1": [[1, 1]]}}, "names a row twice"),
        ({"draws": {"1": [[-1]]}}, "draws.1.0.0"),
        ({"draws": {"x": [[1]]}}, "draws.x"),
        ({"more": 1}, "more"),
        ({"draws": {"1": [[18]]}}, None),
    ],
)
def test_bad_draws_are_named(train, tmp_path, change, named):
    path = draw_episodes(train, [1], draws=1, name="mine").save(tmp_path / "draws.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if named is None:
        with pytest.raises(DataError, match="row 18 of a table with 18"):
            load_episodes(path).rows(train, 1, 0)
    else:
        with pytest.raises(DataError, match=named):
            load_episodes(path)


def test_files_and_numbers_that_cannot_be_used_are_named(train, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "twice.json").write_text('{"seed": 1, "seed": 2}')
    for name in ("broken.json", "missing.json", "deep.json", "twice.json"):
        with pytest.raises(DataError, match=name):
            load_episodes(tmp_path / name)
    for shots, draws in (([1], 0), ([], 5)):
        with pytest.raises(DataError, match="at least 1"):
            draw_episodes(train, shots, draws)
    with pytest.raises(DataError, match="lower the shots"):
        draw_episodes(train, [16], 1)
