"""Another hospital: what its machine costs a detector, and three remedies side by side. [ours]

    rows = compare_sites(detector, home_table, site_table, shots=4)
    print(remedies_text(rows))  # of show.answers

Half of the patients of each site are there to adapt with, the others to judge by. `exposed`, `centred` and `learnt` are
the remedies, to be used where a row says that they help.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from ..data import ImageTable, as_images, draw_support, read_images, split_train_test, without_those_of
from ..detector import SDMAD
from ..errors import DataError
from ..evaluation.intervals import resampled, verdict, with_interval
from ..evaluation.protocols import evaluate
from ..settings import AtLeastOne, checked
from .learning import learnt
from .moments import Moments

REMEDIES = {
    "exposure": "grey values of the site brought to those of home; unlabelled images",
    "normals": "thresholds moved by normal images of the site; no ranking changes",
    "shots": "a few labelled cases of both sites, learnt in closed form",
}


FIGURES = {"AUROC": ("helps", "harms"), "F1": ("helps", "harms"), "false alarms": ("harms", "helps")}
"""What `site_figures` gives, and what it means where a remedy makes it higher, or lower."""


def site_figures(logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> list[float]:
    """Macro AUROC and F1, and the share of normal images with any alarm; logits and labels (N, C), thresholds (C,)."""
    macro = evaluate(logits, labels, range(len(thresholds)), thresholds).multilabel.macro  # type: ignore[arg-type]
    alarms = (logits >= thresholds)[labels.sum(1) == 0].any(1)
    return [np.nan if f is None else f for f in (macro.auroc, macro.f1, alarms.mean() if len(alarms) else None)]


@dataclass(frozen=True)
class SiteFigure:
    """One figure at one site, before and after a remedy, on the same images."""

    remedy: str
    site: str  # "home" or "site"
    figure: str
    before: float
    after: float
    interval: tuple[float | None, ...]  # 95 % of the difference, over patients; None where too few have it
    verdict: str  # helps, harms, or no difference shown


def exposure_curve(images: Sequence, like: Sequence, color: bool = False) -> np.ndarray:
    """(256, 1), or (256, 3) for colours: which value to put for each, so that values come as often as in `like`."""

    def often(images: Sequence) -> np.ndarray:
        pixels = [np.asarray(image).reshape(-1, 3 if color else 1).T for image in read_images(images, color)]
        counts = np.mean([[np.bincount(plane, minlength=256) / plane.size for plane in one] for one in pixels], axis=0)
        return counts.cumsum(1) - counts / 2

    planes = [np.interp(here, there, range(256)) for here, there in zip(often(images), often(like), strict=True)]
    return np.stack(planes, 1).round().astype(np.uint8)


def exposed(images, curve: np.ndarray) -> list[np.ndarray]:
    """Images with the values of a curve put for theirs, (H, W) or (H, W, 3) uint8."""
    planes, values = np.arange(curve.shape[1]), as_images(images)[0]
    read = [np.asarray(image) for image in read_images(values, len(planes) == 3)]
    return [curve[one.reshape(*one.shape[:2], -1), planes].reshape(one.shape) for one in read]


def centred(detector: SDMAD, normals, home_normals) -> SDMAD:
    """A copy of a detector for a site: the mean logits of its normal images become those of home's."""
    new = copy.copy(detector)
    at_home, here = (detector.decision_function(images).mean(0) for images in (home_normals, normals))
    new.bias_ = detector.bias_ + at_home - here
    return new


def compare_sites(
    detector: SDMAD,
    home: ImageTable,
    site: ImageTable,
    *,
    shots: int = 4,
    resamples: int = 200,
    random_state: int = 0,
    drop_copies: bool = False,
    unseen: Callable[[ImageTable], ImageTable] | None = None,
) -> list[SiteFigure]:
    """Try the three remedies at a site, and those that change the detector at home too.

    Args:
        home, site: labelled images, split as their column `split` says, or halved by patients.
        shots: K labelled images of each category, and of normal ones, from either site.
        drop_copies: leave out of the images to adapt with those that stand among the images that judge, of either site.
        unseen: leaves out of the images that judge what the detector was fitted on, or refuses it.

    Raises:
        DataError: no normal image at a site, or no other, fewer patients of a category than shots, or a picture on both
            sides.
    """
    checked("resamples", resamples, AtLeastOne)  # a remedy is judged by its interval
    parts = {}
    for name, table in {"home": home, "site": site}.items():
        train, judges = split_train_test(table.by_name(detector.bank.categories), random_state, drop_copies)
        parts[name] = train, unseen(judges) if unseen else judges
        for what, of in (("normal image", 0), ("image with a finding", 1)):
            if not all((part.labels.any(1) == of).any() for part in parts[name]):
                raise DataError(f"{name}: no {what} in one half of its patients; add some, of several patients")
    test = {name: part for name, (_, part) in parts.items()}
    adapt = {
        name: without_those_of(train, test["site" if name == "home" else "home"], drop_copies)
        for name, (train, _) in parts.items()
    }
    few = [_few(name, train, shots, random_state) for name, train in adapt.items()]
    cases = np.vstack([np.hstack(detector.features(table.images)) for table in few])
    taught = learnt(detector, Moments.of(cases, np.vstack([table.labels for table in few])))
    normals = [[t.images[i] for i in np.flatnonzero(t.labels.sum(1) == 0)] for t in (adapt["site"], adapt["home"])]
    moved = centred(detector, *normals)
    curve = exposure_curve(adapt["site"].images, adapt["home"].images, detector.bank.color)
    # what each remedy makes of the images that judge it
    features = {name: detector.features(part.images) for name, part in test.items()}
    before = {name: detector.logits(*of) for name, of in features.items()}
    after = {
        ("exposure", "site"): detector.decision_function(exposed(test["site"].images, curve)),
        ("normals", "site"): before["site"] + moved.bias_ - detector.bias_,
        **{("shots", name): taught.logits(*of) for name, of in features.items()},
    }
    rows = []
    for (remedy, name), logits in after.items():
        given = before[name], logits, test[name], logit(detector.thresholds_)
        rows += [SiteFigure(remedy, name, *figure) for figure in _compared(*given, resamples, random_state)]
    return rows


def _few(name: str, train: ImageTable, shots: int, seed: int) -> ImageTable:
    """The labelled images of a site to learn from; each of the categories has to have so many."""
    try:
        return train.rows(draw_support(train, shots, seed))
    except DataError as error:
        raise DataError(f"{name}: {str(error).partition(', or name the other')[0]}") from None


def _compared(before, after, table: ImageTable, thresholds, resamples: int, seed: int) -> Iterator[tuple]:
    """Name, before, after, interval and verdict of each figure, from logits (N, C) on the same images."""
    labels, drawn = np.asarray(table.labels), [np.arange(len(table)), *resampled(table.patients(), resamples, seed)]
    values = np.array([[site_figures(of[rows], labels[rows], thresholds) for of in (before, after)] for rows in drawn])
    for f, (name, words) in enumerate(FIGURES.items()):
        _, *ends = with_interval(values[:, 1, f] - values[:, 0, f])
        yield name, *values[0, :, f].tolist(), tuple(ends), verdict(*words, *ends)
