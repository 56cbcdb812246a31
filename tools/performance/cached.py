"""The stages after the encoders, from cached embeddings: selection, protocols, panels.

    python tools/performance/cached.py

10,000 images, 100 signs, 20 categories, on one core. Signs are selected on a support set of 16 positives of each
category and 16 normal images, in the views that stage 1 leaves; all three protocols, with decisions, score all 10,000
images. Both together are asked for in under 5 s. A panel is what one move of a slider costs.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: one core

from collections.abc import Callable

import numpy as np
import torch
from common import record, seconds, spread
from scipy.special import expit

from sdmad_course.image_panels import EmbeddingCase, embedding_explorer
from sdmad_course.pictures import project
from sdmad_course.score_panels import BoardCase, protocol_board
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.evaluation.protocols import PROTOCOLS, evaluate
from sdmad_lite.selection import SignSelector, best_f1_thresholds
from sdmad_lite.show.plots import to_png

SIGNS, CATEGORIES, SHOTS, WIDTH, ROUNDS = 100, 20, 16, 512, 5
ASKED = 5.0


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class Cached:
    """Embeddings as the encoders would have left them: an image leans towards the signs of what it shows."""

    def __init__(self, images: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.categories = [f"category {c}" for c in range(CATEGORIES)]
        self.membership = np.eye(CATEGORIES + 1)[np.arange(SIGNS) % (CATEGORIES + 1)].T  # (C+1, S), row 0 is normal
        self.v = unit(rng.normal(size=(SIGNS, WIDTH)))
        self.support_labels = np.concatenate([np.repeat(np.eye(CATEGORIES, dtype=int), SHOTS, 0), _none(SHOTS)])
        self.support = np.stack(
            [self._seen(self.support_labels, rng) for _ in range(AlignmentConfig().augmentations)]
        )  # (views, N, D)
        self.labels = (rng.random((images, CATEGORIES)) < 0.08).astype(int)
        self.u = self._seen(self.labels, rng)

    def _seen(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        shown = np.column_stack([labels.sum(1) == 0, labels]) @ self.membership
        return unit(shown @ self.v + rng.normal(size=(len(labels), WIDTH)))

    def select(self) -> None:
        """Stage 2 and thresholds, on the support set."""
        z = self.support @ self.v.T
        self.selector = SignSelector().fit(z, self.support_labels, self.membership)
        self.thresholds = best_f1_thresholds(expit(self.selector.transform(z[0])), self.support_labels, 8.0)

    def protocols(self) -> None:
        """Scores of all images, and the three protocols."""
        self.scores = expit(self.selector.transform(self.u @ self.v.T))
        self.results = evaluate(self.scores, self.labels, self.categories, self.thresholds)

    def board(self) -> None:
        """One picture of the protocol board."""
        case = BoardCase(self.scores, self.labels, self.categories, self.thresholds)
        to_png(protocol_board(case, self.categories[0], PROTOCOLS[0], 0.5)[0], quick=True)

    def layout(self) -> None:
        """The plane of the embedding explorer, by PCA."""
        self.points = project(self.u, "pca")

    def explorer(self) -> None:
        """One picture of the embedding explorer, coloured by a sign."""
        texts = [f"sign {s}" for s in range(SIGNS)]
        pictures = [np.zeros((8, 8), np.uint8)] * len(self.u)
        maps = {"PCA": (self.points, self.points)}
        case = EmbeddingCase(maps, self.labels, self.categories, self.u @ self.v.T, texts, pictures, {})
        to_png(embedding_explorer(case, "sign: sign 1", 0, "PCA")[0], quick=True)


def _none(count: int) -> np.ndarray:
    return np.zeros((count, CATEGORIES), dtype=int)


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    for images in (1_000, 10_000, 100_000):
        cached = Cached(images)
        stages: dict[str, Callable] = {"select signs": cached.select, "three protocols": cached.protocols}
        if images <= 10_000:
            stages |= {"board panel": cached.board, "PCA": cached.layout, "explorer panel": cached.explorer}
        times: dict[str, list[float]] = {name: [] for name in stages}
        for turn in range(ROUNDS + 1):
            for name, stage in stages.items():
                times[name] += [seconds(stage)][: turn > 0]  # the first turn warms up
        both = [a + b for a, b in zip(times["select signs"], times["three protocols"], strict=True)]
        figures[f"{images:,} images, seconds"] = {name: spread(each) for name, each in times.items()} | {
            "signs and protocols together": spread(both)
        }
    figures["asked for at 10,000 images, seconds"] = ASKED
    record("cached", "cpu", figures)


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help writes nothing
    main()
