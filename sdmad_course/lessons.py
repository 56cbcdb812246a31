"""What rooms and dashboard start from: one modality's task, its detector, and the cases of the panels.

    lesson = Lesson("chest")
    lesson.support, lesson.validation, lesson.detector
    lesson.board_panel()

Each part is made when it is first asked for. The task is that of the categories which the embedded CLIP never saw.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from sdmad_lite.alignment import installed
from sdmad_lite.clip.backbone import Backbone, as_device, load_clip
from sdmad_lite.data import ImageTable, read_image
from sdmad_lite.detector import SDMAD
from sdmad_lite.selection import support_auroc
from sdmad_lite.signs.bank import SignBank
from sdmad_phantoms import modality_named, sample_phantoms

from . import keep, load_or_fit, load_or_project, samples, support_and_validation
from .image_panels import BreakCase, EmbeddingCase, break_panel, embedding_panel
from .panel import Panel
from .pictures import project
from .score_panels import BoardCase, board_panel
from .sign_panels import ExplorerCase, SignCase, explorer_panel, signs_kept_panel
from .wrong_signs import with_wrong_signs


def versions(seed: int = 0) -> str:
    """Of what a notebook runs on, in one line."""
    import torch

    return f"Python {sys.version.split()[0]}, torch {torch.__version__}, device {as_device()}, seed {seed}"


def random_clip() -> Backbone:
    """The embedded CLIP with random weights: what it finds is chance."""
    logging.disable(logging.WARNING)  # open_clip warns that nothing was loaded, which is what we want
    try:
        return load_clip(pretrained="random")
    finally:
        logging.disable(logging.NOTSET)


def drawn_signs(bank: SignBank, table: ImageTable) -> list[frozenset[str]]:
    """For each image of a sample set the texts of the bank's signs that it truly shows."""
    text = {sign.id: sign.text for sign in bank.signs}
    return [frozenset(text[name] for name in row.split() if name in text) for row in table.meta["signs"]]


def clear_example(table: ImageTable, color: bool = False) -> int:
    """An image with most categories, and of those the one with most contrast in its middle: no score is looked at."""
    most = np.flatnonzero(table.labels.sum(1) == table.labels.sum(1).max()).tolist()

    def contrast(row: int) -> float:
        pixels = np.asarray(read_image(table.images[row], color).convert("L"), float)
        down, across = (size // 4 for size in pixels.shape)
        return float(pixels[down:-down, across:-across].std())

    return max(most, key=contrast)


@dataclass
class Lesson:
    """The kept-out categories of one modality, a support draw of `shots`, and everything that rooms look at."""

    modality: str = "chest"
    shots: int = 16
    seed: int = 0

    def __post_init__(self):
        self.full_bank, self.full_train, _ = samples(self.modality)
        names = list(modality_named(self.modality).kept_out)
        self.bank, self.train = self.full_bank.restricted(names), self.full_train.restricted(names)
        self.support, self.validation = support_and_validation(self.train, self.shots, self.seed)
        self.name = f"kept_out_{self.shots}"  # of its detector under OUTPUTS

    @cached_property
    def clip(self) -> Backbone:
        """The embedded CLIP."""
        return load_clip()

    @cached_property
    def detector(self) -> SDMAD:
        """Both stages, kept in `OUTPUTS` for the next room."""
        return load_or_fit(self.support, self.bank, self.clip, self.name, self.seed)

    def keep(self, detector: SDMAD) -> None:
        """Take a detector that was just fitted on `support`, for the panels and for the next room."""
        keep(detector, self.support, self.name)
        self.detector = detector

    @cached_property
    def dirty_bank(self) -> SignBank:
        """The bank with half of each category's signs wrong."""
        return with_wrong_signs(self.full_bank, 0.5, self.seed).restricted(list(self.bank.categories))

    @cached_property
    def frozen_on_dirty(self) -> SDMAD:
        """Stage 2 alone on the dirty bank."""
        return SDMAD.training_free(self.dirty_bank, backbone=self.clip, augmentations=4).fit_table(self.support)

    @cached_property
    def example(self) -> int:
        """`clear_example` of the validation images."""
        return clear_example(self.validation, self.bank.color)

    @cached_property
    def explorer(self) -> ExplorerCase:
        """Signs of an image, with the truth."""
        shown = drawn_signs(self.bank, self.validation)
        return ExplorerCase(self.detector, self.validation.images, self.validation.labels, shown)

    @cached_property
    def signs_case(self) -> SignCase:
        """Signs kept, on the frozen model and the dirty bank: there is something to find."""
        model, validation = self.frozen_on_dirty, self.validation
        auroc = support_auroc(model.cosines(self.support.images), self.support.labels, model.membership)
        return SignCase(model.cosines(validation.images), validation.labels, self.dirty_bank, auroc, model.weights_)

    @cached_property
    def board(self) -> BoardCase:
        """Protocols."""
        scores = expit(self.detector.logits(*self.explorer.features))
        return BoardCase(scores, self.validation.labels, self.bank.categories, self.detector.thresholds_)

    @cached_property
    def embeddings(self) -> EmbeddingCase:
        """Validation images before and after stage 1, by UMAP and PCA."""
        images, color = self.validation.images, self.bank.color
        before = self.clip.encode_images(images, color=color).numpy()
        with installed(self.clip, self.detector.adapters_):
            after = self.clip.encode_images(images, color=color).numpy()
        layouts = {"UMAP": (load_or_project(before), load_or_project(after))}
        layouts["PCA"] = project(before, "pca"), project(after, "pca")
        pictures = [np.asarray(read_image(image, color, strict=False)) for image in images]
        attributes = {name: self.validation.meta[name] for name in ("site", "sex")}
        cosines, _ = self.explorer.features
        labels, names = self.validation.labels, self.bank.categories
        return EmbeddingCase(layouts, labels, names, cosines, self.bank.texts, pictures, attributes)

    def explorer_panel(self) -> Panel:
        """Signs of an image."""
        return explorer_panel(self.explorer, self.example)

    def signs_kept_panel(self) -> Panel:
        """Signs kept."""
        return signs_kept_panel(self.signs_case)

    def board_panel(self) -> Panel:
        """Protocols."""
        return board_panel(self.board)

    def embedding_panel(self) -> Panel:
        """Embeddings."""
        return embedding_panel(self.embeddings, self.example)

    def break_panel(self) -> Panel:
        """Break it."""
        category = self.bank.categories[int(np.argmax(self.validation.labels[self.example]))]
        return break_panel(BreakCase(self.detector, self.validation.images), self.example, category)


def fresh_phantoms(count: int, seed: int, modality: str = "chest", machine: str | None = None) -> ImageTable:
    """Newly drawn images, of people in no sample set, to look at as one pleases.

    Of `count` images those are left that show a kept-out category or nothing, as in the sample set. The same seed with
    another `machine` gives the same patients.
    """
    kind = modality_named(modality)
    drawn = list(sample_phantoms(count, seed=seed, modality=modality, machine=machine))
    labels = np.array([[name in phantom.categories for name in kind.bank.categories] for phantom in drawn], dtype=int)
    columns = {
        "patient_id": [phantom.patient.patient_id for phantom in drawn],
        "sex": [phantom.patient.sex for phantom in drawn],
        "site": [phantom.patient.site for phantom in drawn],
        "signs": [" ".join(phantom.signs) for phantom in drawn],
    }
    meta = {name: tuple(values) for name, values in columns.items()}
    table = ImageTable(tuple(phantom.image for phantom in drawn), labels, tuple(kind.bank.categories), meta)
    return table.restricted(list(kind.kept_out))
