"""Each stage on a GPU gives what a CPU gives. Skipped without a CUDA device; `tools/gpu_check.py` runs these."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_golden import SAVED

from sdmad_lite import SDMAD, AlignmentConfig, load_clip, score_archive
from sdmad_lite.data import draw_support
from sdmad_lite.deployment.scoring import ScoringConfig, score_table
from sdmad_lite.deployment.tables import write_embeddings
from sdmad_lite.running import RunConfig

DEVICE = "cuda"
SHORT = AlignmentConfig(steps=6, augmentations=2)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]


@pytest.fixture(scope="module")
def support(phantom_table):
    return phantom_table.rows(draw_support(phantom_table, 3, seed=0))


@pytest.fixture(scope="module")
def fit(tiny_clip_name, bank, support):
    """A detector of the tiny CLIP, fitted on a device."""

    def fit(device: str = DEVICE, checkpoint=None, **run) -> SDMAD:
        backbone = load_clip(tiny_clip_name, device=device)
        config = RunConfig(**{"precision": "fp32", **run})
        return SDMAD(bank, backbone=backbone, alignment=SHORT, run=config).fit_table(support, checkpoint=checkpoint)

    return fit


@pytest.fixture(scope="module")
def pair(fit, tiny_clip_name, tmp_path_factory):
    """One detector, where it was fitted and on the CPU."""
    folder = tmp_path_factory.mktemp("gpu") / "detector"
    detector = fit()
    return detector, SDMAD.load(detector.save(folder), load_clip(tiny_clip_name, device="cpu"))


def losses(detector: SDMAD) -> np.ndarray:
    return np.array([list(row.values()) for row in detector.history_])


def agree(one: SDMAD, other: SDMAD, images, atol: float = 1e-3) -> None:
    np.testing.assert_allclose(one.predict_proba(images), other.predict_proba(images), atol=atol)


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-3), ("bf16", 5e-2)])
def test_stage_1_learns_what_it_learns_on_a_cpu(fit, precision, tolerance):
    np.testing.assert_allclose(losses(fit(precision=precision)), losses(fit("cpu")), atol=tolerance)


def test_a_detector_scores_the_same_on_both(pair, phantom_table):
    agree(*pair, phantom_table.images[:8])


def test_a_detector_of_the_embedded_clip_scores_the_same_on_both(phantom_table):
    agree(*(SDMAD.load(SAVED, load_clip(device=device)) for device in (DEVICE, "cpu")), phantom_table.images)


def test_a_stopped_fit_goes_on(fit, pair, phantom_table, tmp_path):
    def stop(step):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=tmp_path, checkpoint_steps=1, after_step=stop)
    steps = []
    again = fit(checkpoint=tmp_path, after_step=steps.append)
    assert steps == [5, 6]
    agree(again, pair[0], phantom_table.images[:8])


@pytest.mark.parametrize("run", [{"cache_gib": 0.0}, {"at_once": 2}])
def test_less_memory_changes_nothing(fit, pair, phantom_table, run):
    agree(fit(**run), pair[0], phantom_table.images[:8])


@pytest.mark.parametrize("run", [{}, {"precision": "bf16"}, {"cache_gib": 0.0}])
def test_no_step_waits_for_the_device(fit, run):
    """Between the steps 2 and 5 whatever would wait raises."""
    modes = {2: "error", 5: "default"}
    try:
        fit(after_step=lambda step: step in modes and torch.cuda.set_sync_debug_mode(modes[step]), **run)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-3), (True, 5e-2)])
def test_an_archive_is_scored(pair, phantom_table, tmp_path, bf16, tolerance):
    images, quick = phantom_table.images[:12], {"workers": 0, "progress": False}
    out = score_archive(pair[0], images, tmp_path / "scores", config=ScoringConfig(rows_per_part=8, bf16=bf16, **quick))
    found = pq.read_table(out.out).to_pydict()
    for number, row in enumerate(score_table(pair[1], images, config=ScoringConfig(**quick))):
        for category in pair[0].bank.categories:
            assert found[category][number] == pytest.approx(row[category], abs=tolerance)


def test_embeddings_are_written(pair, phantom_table, tmp_path):
    table = phantom_table.rows(range(6))
    one, other = (
        write_embeddings(tmp_path / f"{i}.npz", table, d.bank, d.backbone, d, root=None, progress=False)
        for i, d in enumerate(pair)
    )
    for name, values in other.items():
        np.testing.assert_allclose(one[name], values, atol=1e-3)


def test_an_answer_is_explained(pair, phantom_table):
    one, other = (detector.explain(phantom_table.images[0]) for detector in pair)
    for here, there in zip(one[0].signs, other[0].signs, strict=True):
        assert (here.text, here.contribution) == (there.text, pytest.approx(there.contribution, abs=1e-2))
