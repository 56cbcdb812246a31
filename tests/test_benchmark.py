"""The benchmark script: a cell is measured once, and again when its question changes; the page shows all cells."""

import json
from pathlib import Path

import benchmark as script
import numpy as np
import pytest

from sdmad_lite.baselines import ON_FEATURES
from sdmad_lite.errors import DataError
from sdmad_lite.phantoms import CHEST


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    for name, value in {"SHOTS": (1, 2), "DRAWS": 2, "TRAIN": 60, "TEST": 30}.items():
        monkeypatch.setattr(script, name, value)
    for name in ("CELLS", "EPISODES", "FIGURES"):
        monkeypatch.setattr(script, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    monkeypatch.setattr(script, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(script, "AlignmentConfig", lambda: "as shipped")
    return script


def test_cells_are_measured_once_and_fill_the_page(benchmark, tiny_clip, monkeypatch):
    data = benchmark.phantom_set(CHEST)
    methods = {name: ON_FEATURES[name] for name in ("prototypes", "zero-shot signs")}
    cells = {k: benchmark.measured(data, k, tiny_clip, methods) for k in (1, 2)}
    monkeypatch.setattr(benchmark, "run_experiment", lambda *a, **k: pytest.fail("measured twice"))
    assert benchmark.measured(data, 2, tiny_clip, methods) == json.loads(json.dumps(cells[2]))
    with pytest.raises(pytest.fail.Exception):
        benchmark.measured(data, 2, tiny_clip, {"prototypes": methods["prototypes"]})
    benchmark.page({"chest": cells}, {"chest": data.about}, "make benchmark")
    text = benchmark.PAGE.read_text()
    ap = [r["multilabel"]["macro"]["ap"] for r in cells[2]["results"]["prototypes"]]
    assert f"{np.mean(ap):.3f} [" in text and "not for clinical use" in text
    assert all(f"{name} {count}" in text for name, count in cells[1]["positives"].items())
    assert {p.name for p in benchmark.FIGURES.iterdir()} == {"shots_overall.png", "shots_chest.png"}


def test_draws_of_another_table_are_refused(benchmark):
    data = benchmark.phantom_set(CHEST)
    episodes = benchmark.episodes_of(data)
    assert episodes == benchmark.episodes_of(data) and set(episodes.draws) == {1, 2}
    with pytest.raises(DataError, match="drawn from another table"):
        episodes.rows(data.test, 1, 0)


def test_the_shipped_draws_fit_the_phantoms():
    """Byte for byte the same labels and patients as when they were drawn."""
    train = script.phantom_table(script.TRAIN, script.SEED, CHEST)
    episodes = script.load_episodes(Path(script.__file__).parent / "episodes" / "chest.json")
    assert set(episodes.draws) == set(script.SHOTS) and all(len(d) == script.DRAWS for d in episodes.draws.values())
    assert len(episodes.support(train, 4, 0)) >= 4
