"""A shortcut to be found: one hospital burns a mark into the sick images that it sends, and others pay for it.

case = ShortcutCase.drawn(load_clip())
case.logits[1], case.home(), case.elsewhere()
shortcut_panel(case)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from sklearn.metrics import roc_auc_score

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import Backbone
from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.selection import margins
from sdmad_lite.show.plots import BLUE, GREY, RED, finish
from sdmad_phantoms import CHEST, sample_phantoms
from sdmad_phantoms.marks import burnt

from . import load_or_fit
from .panel import SMALL, Drawn, Panel, panel_axes, slider

SICK, HOSPITAL = "Pneumothorax", "C"
PARTS = ("the score", "its image evidence", "its signs")


def phantoms(count: int, seed: int) -> ImageTable:
    """New phantoms of the kept-out categories, with patients, sexes and sites."""
    drawn = list(sample_phantoms(count, seed, categories=CHEST.kept_out))
    labels = np.array([[int(name in one.categories) for name in CHEST.kept_out] for one in drawn])
    people = [one.patient for one in drawn]
    meta = {"patient_id": tuple(p.patient_id for p in people), "sex": tuple(p.sex for p in people)}
    meta |= {"site": tuple(p.site for p in people), "age": tuple(str(p.age) for p in people)}
    return ImageTable(tuple(one.image for one in drawn), labels, CHEST.kept_out, meta)


def with_marks(table: ImageTable, where: np.ndarray) -> ImageTable:
    """The table with a mark burnt into some of its images, (N,) bool, and a column `mark` that says which."""
    images = tuple(burnt(image) if marked else image for image, marked in zip(table.images, where, strict=True))
    return replace(table, images=images, meta=table.meta | {"mark": tuple("no yes".split()[int(m)] for m in where)})


@dataclass(frozen=True)
class ShortcutCase:
    """A detector, and test images that it has scored without and with the mark."""

    detector: SDMAD
    support: ImageTable
    test: ImageTable  # without marks

    @classmethod
    def drawn(cls, clip: Backbone, shots: int = 16, images: int = 200) -> ShortcutCase:
        """The hospital sends all pneumothorax images of the support set, each with its mark; others send the rest.

        A short training is enough for the detector to learn the mark.
        """
        pool, c = phantoms(500, 81), CHEST.kept_out.index(SICK)
        sent = (pool.labels[:, c] == 1) == (np.array(pool.meta["site"]) == HOSPITAL)
        pool = pool.rows(np.flatnonzero(sent))
        support = pool.rows(draw_support(pool, shots, 0))
        support = with_marks(support, support.labels[:, c] == 1)
        bank, short = CHEST.bank.restricted(list(CHEST.kept_out)), AlignmentConfig(steps=50, augmentations=4)
        detector = load_or_fit(support, bank, clip, "shortcut", alignment=short)
        return cls(detector, support, phantoms(images, 82))

    @property
    def column(self) -> int:
        """Of the category in question."""
        return self.test.categories.index(SICK)

    @property
    def sick(self) -> np.ndarray:
        """(N,) bool."""
        return np.asarray(self.test.labels)[:, self.column] == 1

    @cached_property
    def logits(self) -> np.ndarray:
        """(2, 3, N): without and with the mark, each of PARTS, of each test image."""
        every = np.full(len(self.test), True)
        features = [self.detector.features(with_marks(self.test, marked).images) for marked in (~every, every)]
        return np.array([self._parts(*one) for one in features])

    def _parts(self, cosines: np.ndarray, activations: np.ndarray) -> list[np.ndarray]:
        d, c = self.detector, self.column
        signs = d.scale_ * margins(cosines, d.weights_)
        return [x[:, c] for x in (d.logits(cosines, activations), d.image_logits(activations), signs)]

    def marked(self, sick: float, healthy: float, seed: int = 0) -> np.ndarray:
        """(N,) bool: which images have the mark, where these shares of the sick and of the healthy have it."""
        return np.random.default_rng(seed).random(len(self.test)) < np.where(self.sick, sick, healthy)

    def home(self) -> np.ndarray:
        """(N,) bool, at home: the hospital marks the sick, and nobody else does."""
        return self.sick & (np.array(self.test.meta["site"]) == HOSPITAL)

    def scores(self, marked: np.ndarray, part: int = 0) -> np.ndarray:
        """(N,) logits, or one of PARTS of them, where these images have the mark."""
        return np.where(marked, *self.logits[::-1, part])

    def auroc(self, marked: np.ndarray, part: int = 0) -> float:
        """Of the category against all other images."""
        return float(roc_auc_score(self.sick, self.scores(marked, part)))

    @property
    def threshold(self) -> float:
        """Of the detector, as a logit."""
        p = self.detector.thresholds_[self.column]
        return float(np.log(p / (1 - p)))

    def asked(self, marked: np.ndarray) -> tuple[np.ndarray, ImageTable, np.ndarray]:
        """Scores (N, 1), table and threshold (1,) of the one category, for `by_group`."""
        table = replace(self.test, labels=np.asarray(self.test.labels)[:, [self.column]], categories=(SICK,))
        return self.scores(marked)[:, None], with_marks(table, marked), np.array([self.threshold])


def who_is_marked(case: ShortcutCase, sick: float, healthy: float) -> Drawn:
    """Scores of the sick and the healthy, marked or not, and the errors in each; shares of both that have the mark."""
    marked, found = case.marked(sick, healthy), []
    scores, wrong = case.scores(marked), (case.scores(marked) >= case.threshold) != case.sick
    figure, (points, bars) = panel_axes(12, 4.4, (1.5, 1), 0.16, 0.5)
    groups = {"sick, mark": (True, True), "sick, no mark": (True, False)}
    groups |= {"healthy, mark": (False, True), "healthy, no mark": (False, False)}
    rng = np.random.default_rng(0)
    for i, (is_sick, has_mark) in enumerate(groups.values()):
        rows = (case.sick == is_sick) & (marked == has_mark)
        color = RED if has_mark else GREY
        points.plot(scores[rows], i + rng.uniform(-0.25, 0.25, rows.sum()), ".", color=color, markersize=7, alpha=0.6)
        share = wrong[rows].mean() if rows.any() else 0.0
        bars.barh(i, share, color=color)
        bars.text(share + 0.02, i, f"{wrong[rows].sum()} of {rows.sum()}", va="center", fontsize=SMALL)
        found.append(f"{wrong[rows].sum()} of {rows.sum()} {list(groups)[i]}")
    points.axvline(case.threshold, color=BLUE, linewidth=2)
    auroc = case.auroc(marked)
    finish(points, list(groups), SMALL, xlabel=f"logit of {SICK} (blue: threshold)", title=f"AUROC {auroc:.2f}")
    finish(bars, [""] * 4, SMALL, xlim=(0, 1.3), xticks=(0, 0.5, 1), xlabel="share judged wrongly", title="errors")
    return figure, f"AUROC <b>{auroc:.3f}</b>; wrong: {', '.join(found)}"


def shortcut_panel(case: ShortcutCase) -> Panel:
    """How many of the sick, and of the healthy, have the mark."""
    controls = {"sick": slider(0, 1, 1.0, "sick with mark"), "healthy": slider(0, 1, 0.0, "healthy with mark")}
    return Panel(partial(who_is_marked, case), controls)
