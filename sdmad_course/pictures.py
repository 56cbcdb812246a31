"""Pictures that lessons alone draw: memberships, cosines, losses and weights of signs, and points in the plane."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from matplotlib.figure import Figure

from sdmad_lite.detector import SelectedSign
from sdmad_lite.errors import DataError, warn
from sdmad_lite.files import user_cache
from sdmad_lite.show.plots import BLUE, DARK, FOR, LARGE, PALETTE, PINK, SMALL, finish, new_figure


def plot_membership(member: np.ndarray, categories: Sequence[str], texts: Sequence[str]) -> Figure:
    """M (C+1, S) as a chart of dots: which sign speaks for which category."""
    names = ["normal", *categories]
    figure = new_figure(0.42 * len(names) + 4.2, 0.24 * len(texts) + 1.8)
    axis = figure.subplots()
    shared = member[1:].sum(0) > 1
    for row, column in zip(*np.nonzero(member.T), strict=True):
        axis.plot(column, row, "s", color=PINK if shared[row] else BLUE, markersize=8)
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=SMALL)
    axis.set_yticks(range(len(texts)), texts, fontsize=SMALL)
    axis.invert_yaxis()
    axis.grid(alpha=0.25)
    axis.set_title(f"{int(shared.sum())} of {len(texts)} signs are shared (pink)", fontsize=LARGE)
    return figure


def plot_similarity(matrix: np.ndarray, names: Sequence[str], title: str, blocks: Sequence[int] = ()) -> Figure:
    """A square matrix of cosines, always on the scale from -0.5 to 1; `blocks`: sizes of groups, with lines between."""
    figure = new_figure(0.3 * len(names) + 4.6, 0.3 * len(names) + 1.4)
    axis = figure.subplots()
    picture = axis.imshow(matrix, cmap="cividis", vmin=-0.5, vmax=1)
    axis.set_xticks(range(len(names)), [str(i + 1) for i in range(len(names))], fontsize=SMALL)
    axis.set_yticks(range(len(names)), [f"{name}  {i}" for i, name in enumerate(names, 1)], fontsize=SMALL)
    for end in np.cumsum(blocks)[:-1] - 0.5:
        axis.axhline(end, color="white", linewidth=2)
        axis.axvline(end, color="white", linewidth=2)
    axis.set_title(title, fontsize=LARGE)
    figure.colorbar(picture, ax=axis, label="cosine", shrink=0.7)
    return figure


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    """A folder that goes with this process."""
    return tempfile.TemporaryDirectory(prefix="sdmad_")


EXACT = 4096
"""Points from which on UMAP searches for the nearest ones instead of comparing all."""


def _nearest(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosine distances (N, count) of the points nearest to each, itself first, as UMAP finds them.

    Its own function for that is half of what it compiles at its first call.
    """
    from sklearn.metrics import pairwise_distances
    from umap.distances import cosine

    distances = pairwise_distances(np.asarray(x, np.float32, "C"), metric=cosine)
    rows = np.ascontiguousarray(distances.argsort(1, kind="stable")[:, :count])
    return rows, np.take_along_axis(distances, rows, 1)


def project(embeddings: np.ndarray, method: str = "umap", seed: int = 0) -> np.ndarray:
    """Embeddings (N, D) to points in the plane (N, 2), by "umap" (seconds) or "pca" (at once).

    UMAP's first call in a process also compiles for 5 s. It needs four different points; of fewer, PCA is drawn.

    Raises:
        DataError: no points, numbers that are not finite, or another method.
    """
    x = np.asarray(embeddings)
    if method not in ("umap", "pca"):
        raise DataError(f"method: {method!r} is neither 'umap' nor 'pca'")
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise DataError(f"embeddings: give finite numbers (N, D), not {x.dtype} of shape {x.shape}")
    if method == "umap" and (different := len(np.unique(x, axis=0))) >= 4:
        if user_cache() is None:  # what numba compiles needs a place, or UMAP is not imported
            os.environ.setdefault("NUMBA_CACHE_DIR", _scratch().name)
        from umap import UMAP

        near = min(15, len(x) - 1)
        known = _nearest(x, near) if len(x) < EXACT else (None, None)
        threads = torch.get_num_threads()
        # a map alone is wanted, so that no search is kept for points that come later; UMAP warns of that
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            how = {"metric": "cosine", "random_state": seed, "n_jobs": 1, "precomputed_knn": known}
            points = UMAP(n_neighbors=near, **how).fit_transform(x)
        torch.set_num_threads(threads)  # numba takes as many as there are cores, for torch too: slow where others work
        return points
    if method == "umap":
        warn(f"UMAP needs 4 different points, of {len(x)} there are {different}: drawn by PCA")
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore", divide="ignore"):  # shares of no variance
        points = PCA(min(2, *x.shape), random_state=seed).fit_transform(x)
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def plot_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """The losses of stage 1, step by step."""
    if not history:
        raise DataError("history: no step was trained, as in the training-free mode; there is no loss to draw")
    names = list(history[0])
    figure = new_figure(3.2 * len(names), 2.6)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name, color in zip(axes, names, PALETTE, strict=False):
        axis.plot([step[name] for step in history], color=color)
        finish(axis, title=name, xlabel="step", ylabel="loss")
    return figure


def plot_signs(rows: Sequence[SelectedSign], category: str) -> Figure:
    """Signs of one category by weight; a dropped one has no bar but its reason."""
    figure = new_figure(9, 0.42 * len(rows) + 1.1)
    axis = figure.subplots()
    for i, row in enumerate(rows):
        axis.barh(i, row.weight, color=FOR)
        if not row.kept:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axis.text(0.005, i, row.reason.split(";")[0], va="center", fontsize=SMALL, color=DARK, bbox=box)
    axis.axvline(1 / len(rows), color="black", linestyle="--", linewidth=1)
    title = f"{category}: {sum(row.kept for row in rows)} of {len(rows)} signs kept"
    finish(axis, [row.text for row in rows], xlabel="weight (dashed: all signs equal)", title=title)
    return figure
