"""The benchmark: a cell is measured once, and again when its question changes; the page is the summary's alone."""

import json
from pathlib import Path

import benchmark as script
import benchmark_page
import numpy as np
import pytest
from conftest import few_steps

from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.baselines import ON_FEATURES
from sdmad_lite.evaluation.experiment import BOTH_STAGES, NO_TRAINING, SIGNS_ONLY, STAGE_1, ZERO_SHOT
from sdmad_lite.show.report import write_json
from sdmad_phantoms import CHEST, MODALITIES


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    for name, value in {"SHOTS": (1, 2), "DRAWS": 2, "TRAIN": 60, "TEST": 30}.items():
        monkeypatch.setattr(script, name, value)
    for name in ("CELLS", "EPISODES"):
        monkeypatch.setattr(script, name, tmp_path / name.lower())
    monkeypatch.setattr(script, "AlignmentConfig", lambda: "as shipped")
    script.phantom_tables.cache_clear()
    with few_steps():
        yield script
    script.phantom_tables.cache_clear()


def test_cells_are_measured_once_and_fill_summary_and_page(benchmark, tiny_clip, monkeypatch, tmp_path):
    methods = {name: ON_FEATURES[name] for name in ("prototypes", "zero-shot signs")}
    tasks = [(k, bank) for bank in ("clean", "50 % wrong") for k in (1, 2)]
    data = {bank: benchmark.data_set("chest", bank) for _, bank in tasks}
    cells = [benchmark.measured(data[bank], bank, k, tiny_clip, methods) for k, bank in tasks]
    monkeypatch.setattr(benchmark, "run_experiment", lambda *a, **k: pytest.fail("measured twice"))
    assert benchmark.measured(data["clean"], "clean", 2, tiny_clip, methods) == json.loads(json.dumps(cells[1]))
    for changed in (
        {"prototypes": methods["prototypes"]},
        methods | {"zero-shot names": ON_FEATURES["zero-shot names"]},
    ):
        with pytest.raises(pytest.fail.Exception):
            benchmark.measured(data["clean"], "clean", 2, tiny_clip, changed)

    summary = benchmark.summary(cells, "make benchmark")
    ap = [r["multilabel"]["macro"]["ap"] for r in cells[1]["results"]["prototypes"]]
    row = summary["banks"]["clean"]["chest"]["2"]["methods"]["prototypes"]
    assert row["mAP"]["mean"] == pytest.approx(np.mean(ap))
    ours = [r["multilabel"]["macro"]["ap"] for r in cells[1]["results"][BOTH_STAGES]]
    assert row["sdmad_minus"]["mAP"]["difference"] == pytest.approx(np.mean(ours) - np.mean(ap))

    write_json(tmp_path / "summary.json", summary)
    benchmark_page.write_page(tmp_path / "summary.json", tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert f"{np.mean(ap):.3f} [" in text and "not for clinical use" in text
    assert all(f"{name} {count}" in text for name, count in cells[0]["positives"].items())
    assert f"{sum(cells[0]['positives'].values()) / cells[0]['test']:.2f} labels each" in text
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"shots_all_phantoms.png", "shots_chest.png", "selection.png"}
    row["mAP"]["mean"] = 0.98765
    write_json(tmp_path / "summary.json", summary)
    benchmark_page.write_page(tmp_path / "summary.json", tmp_path / "results.md")
    assert "0.988 [" in (tmp_path / "results.md").read_text()


def test_means_over_modalities_are_taken_draw_by_draw(benchmark):
    """Two modalities, two draws: 0.2 and 0.6 of one draw, 0.22 and 0.6 of the other give 0.4 and 0.41."""

    def cell(name, values):
        draws = [{"multilabel": {"macro": {"ap": v, "auroc": v}}} for v in values]
        results = {
            BOTH_STAGES: draws,
            SIGNS_ONLY: draws,
            STAGE_1: draws,
            NO_TRAINING: draws,
            ZERO_SHOT: [{"multilabel": {"macro": {"ap": 0.1, "auroc": 0.1}}}] * 2,
        }
        rest = {"about": "", "what": {}, "positives": {}, "test": 1, "signs": {}}
        return {"bank": "clean", "data": name, "shots": 1, "results": results} | rest

    row = benchmark.summary([cell("chest", [0.2, 0.22]), cell("brain", [0.6, 0.6])], "")["banks"]["clean"][
        "all phantoms"
    ]["1"]
    assert row["methods"][BOTH_STAGES]["mAP"]["mean"] == pytest.approx(0.405)
    half = 12.706 * np.std([0.4, 0.41], ddof=1) / np.sqrt(2)  # t of one degree of freedom
    assert row["methods"][BOTH_STAGES]["mAP"]["high"] == pytest.approx(0.405 + half, rel=1e-4)
    assert row["selection_gain"]["training_free"]["mAP"]["difference"] == pytest.approx(0.305)
    assert row["selection_gain"]["stage2"]["mAP"]["verdict"] == "no difference shown"


def test_more_shots_are_a_section_of_their_own_with_both_intervals(benchmark, tiny_clip, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "MORE_SHOTS", (1,))
    monkeypatch.setattr(benchmark, "MORE_TRAIN", 60)
    methods = {name: ON_FEATURES[name] for name in ("prototypes", "zero-shot signs")}
    benchmark.large_pool.cache_clear()
    cell = benchmark.measured(benchmark.data_set("chest", benchmark.MORE), benchmark.MORE, 1, tiny_clip, methods)
    benchmark.large_pool.cache_clear()
    found = benchmark.more([json.loads(json.dumps(cell))])
    row = found["1"]["prototypes"]["mAP"]
    assert row["mean"] == pytest.approx(
        np.mean([r["multilabel"]["macro"]["ap"] for r in cell["results"]["prototypes"]])
    )
    assert row["patients"][0] < row["mean"] < row["patients"][1]
    assert row["sdmad_minus"]["difference"] == pytest.approx(found["1"][BOTH_STAGES]["mAP"]["mean"] - row["mean"])
    text = "\n".join(benchmark_page.more_lines(found))
    assert f"{row['mean']:.3f} [" in text and "K = 1" in text and benchmark_page.more_lines({}) == []


def test_kept_and_dropped_signs_are_counted_by_their_truth(benchmark):
    data = benchmark.data_set("chest", "50 % wrong")
    member, texts = data.bank.membership()[1:], data.bank.texts
    true = np.array([[t in CHEST.bank.signs_of(c) for t in texts] for c in data.bank.categories]) & (member == 1)
    counts = benchmark.sign_counts([np.where(true, 1.0, 0), member], data)
    wrong = int(member.sum() - true.sum())
    assert wrong == true.sum()  # half of each list
    assert counts == {"kept": 3 * wrong, "kept_true": 2 * wrong, "dropped": wrong, "dropped_true": 0}


@pytest.mark.parametrize("name", MODALITIES)
def test_the_large_banks_are_valid_and_have_thirty_signs_a_category(name):
    bank = script.phantom_bank(MODALITIES[name], script.LARGE)
    assert bank.categories == MODALITIES[name].kept_out and bank.provenance.kind == "language model"
    assert all(len(bank.signs_of(category)) == 30 for category in bank.categories)


def test_draws_of_another_table_are_refused(benchmark):
    data = benchmark.data_set("chest")
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
