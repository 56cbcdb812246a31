"""Pictures of lessons at the edge: very few points, nothing trained."""

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from sdmad_course import pictures
from sdmad_lite.errors import DataError, SDMADWarning


@pytest.fixture(autouse=True)
def torch_keeps_its_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["umap", "pca"])
@pytest.mark.parametrize("points", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("alike", [False, True])
def test_few_points_are_drawn_and_it_is_said_where_umap_cannot(method, points, alike):
    embeddings = np.random.default_rng(0).normal(size=(points, 8)).astype("float32") * (not alike)
    said = pytest.warns(SDMADWarning, match=f"of {points} there are .: drawn by PCA")
    with said if method == "umap" and (alike or points < 4) else nullcontext():
        flat = pictures.project(embeddings, method)
    assert flat.shape == (points, 2) and np.isfinite(flat).all()


def test_without_a_home_what_umap_compiles_is_kept_elsewhere(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    pictures.project(np.random.default_rng(0).normal(size=(5, 8)))
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_dir()


def test_the_distances_of_three_points_stay():
    points = pictures.project(np.array([[0.0, 0, 0], [3, 0, 0], [0, 4, 0]]), "pca")
    np.testing.assert_allclose([np.linalg.norm(points[i] - points[i - 1]) for i in range(3)], [4, 3, 5])


@pytest.mark.parametrize(
    ("embeddings", "method", "said"),
    [
        (np.ones((0, 8)), "umap", r"give finite numbers \(N, D\), not float64 of shape \(0, 8\)"),
        (np.ones(8), "pca", r"of shape \(8,\)"),
        (np.full((5, 2), np.nan), "umap", "give finite numbers"),
        (np.ones((5, 2)), "tsne", "'tsne' is neither 'umap' nor 'pca'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(embeddings, method, said):
    with pytest.raises(DataError, match=said):
        pictures.project(embeddings, method)


def test_where_nothing_was_trained_there_is_no_loss_to_draw():
    with pytest.raises(DataError, match="no step was trained"):
        pictures.plot_history([])
