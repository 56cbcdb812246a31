"""A table of images and labels, and few-shot draws from it.

The support set is drawn by patient: no patient gives two images of one draw, nor is in both train and test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError, warn
from .labels import Labels, labels_by_name
from .names import Names, is_finding, plain, suggest

META = ("patient_id", "age", "sex", "view", "site", "split", "signs")
"""Columns of a labels.csv that describe an image and are not categories."""

SPLITS = ("train", "val", "test")
"""Values of the column `split`."""

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
PARTS |= {"test": "test", "testing": "test"}
"""Each way to write them, as `plain` leaves it."""

SUBGROUP_COLUMNS = ("view", "site", "sex")
"""Columns whose values are also scored apart: a model can read the view instead of the disease."""


@dataclass(frozen=True, repr=False)
class ImageTable:
    """N images with their labels.

    images: N paths or arrays. labels: Y, (N, C) in {0, 1}; a row of zeros is a normal image.
    meta: for each known column of META, N strings.
    """

    images: tuple
    labels: np.ndarray
    categories: tuple[str, ...]
    meta: dict[str, tuple[str, ...]]

    def __repr__(self) -> str:  # counts: a notebook that is passed on shows no patient's name
        shown = ", ".join(f"{name} {count}" for name, count in zip(self.categories, self.labels.sum(0), strict=True))
        return f"ImageTable({len(self)} images: {shown}; columns: {', '.join(self.meta) or 'none'})"

    def __post_init__(self) -> None:
        if np.ndim(self.labels) == 2 and np.shape(self.labels)[1] == len(self.categories):
            named = np.asarray(self.labels).view(Labels)
            named.categories = tuple(self.categories)
            object.__setattr__(self, "labels", named)

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: Sequence[int] | np.ndarray) -> ImageTable:
        """Some of the rows, in the order given."""
        index = np.asarray(index, dtype=int)
        meta = {name: tuple(column[i] for i in index) for name, column in self.meta.items()}
        return replace(self, images=tuple(self.images[i] for i in index), labels=self.labels[index], meta=meta)

    def restricted(self, categories: Sequence[str]) -> ImageTable:
        """Only some of the categories, without rows that show none of them but another: neither positive nor normal."""
        if unknown := [c for c in categories if c not in self.categories]:
            raise DataError(f"{unknown[0]!r} is not a category of the data, which have {', '.join(self.categories)}")
        columns = [self.categories.index(c) for c in categories]
        keep = (self.labels[:, columns].sum(1) > 0) | (self.labels.sum(1) == 0)
        table = self.rows(np.flatnonzero(keep))
        return replace(table, labels=table.labels[:, columns], categories=tuple(categories))

    def matching(self, categories: Sequence[str]) -> ImageTable:
        """As `restricted` to those that the table has, else a DataError; case, `_` and `-` do not count."""
        spelled = {plain(c): c for c in categories}
        table = replace(self, categories=tuple(spelled.get(plain(c), c) for c in self.categories))
        if not (found := [c for c in categories if c in table.categories]):
            raise DataError(f"the data have none of the categories {', '.join(categories)}; choose another sign bank")
        return table.restricted(found)

    def by_name(self, categories: Sequence[str]) -> ImageTable:
        """With the columns spelled and ordered as these categories, which have to be all of them."""
        return replace(self, labels=labels_by_name(self.labels, categories), categories=tuple(categories))

    def part(self, name: str) -> ImageTable:
        """The rows whose `split` is train, val or test; a DataError where the table has no split column."""
        if "split" not in self.meta:
            raise DataError(f"the table has no split column; write one to have a part {name!r}")
        return self.rows(np.flatnonzero(np.asarray(self.meta["split"]) == name))

    def part_or(self, usual: str, name: str | None = None) -> ImageTable:
        """The rows of the split `name`; where it is None those of `usual`, or all rows if the table has no split.

        Both are train, val, test, or "all" for every row. A split without rows is a DataError.
        """
        if (name or usual) == "all" or (name is None and "split" not in self.meta):
            return self
        if not len(part := self.part(name or usual)):
            raise DataError(f"the data have no {name or usual} images; choose another split")
        return part

    @property
    def has_patients(self) -> bool:
        """Whether rows say whose image they are; if not, images of one person may part in a split."""
        return "patient_id" in self.meta

    def patients(self) -> np.ndarray:
        """(N,) patient of each row; without a patient column every image counts as a patient of its own."""
        if self.has_patients:
            return np.asarray(self.meta["patient_id"])
        return np.asarray([f"row {i}" for i in range(len(self))])


def table_of_classes(
    where,
    images: Sequence,
    names: Sequence[str],
    labels: np.ndarray,
    normal: str | None,
    categories: Names,
    others: Names,
    meta: dict[str, tuple[str, ...]],
) -> ImageTable:
    """A table of labels (N, K) in {0, 1} of K named classes: those of `categories`, in their order, if there are any.

    `normal` is the class of normal images. Further classes may be the findings of an included bank and `others`: images
    that show these alone are left out, with a remark. Any other class is a DataError.
    """
    column = {name: i for i, name in enumerate(names) if name != normal}
    keep = np.full(len(labels), True)
    if categories is not None:
        known = {plain(c): c for c in categories}
        own = {known[plain(name)]: i for name, i in column.items() if plain(name) in known}
        beside = [name for name in column if plain(name) not in known]
        missing = [c for c in categories if c not in own]
        if unknown := [name for name in beside if not own or not is_finding(name, others, missing)]:
            hint = f"{suggest(unknown[0], categories)} (normal= names the normal class, others= further findings)"
            raise DataError(f"{where}: class {unknown[0]!r} is no category; {hint}")
        keep = (labels[:, [column[name] for name in beside]].sum(1) == 0) | (labels[:, list(own.values())].sum(1) > 0)
        if not keep.all():
            alone = f"images show other findings alone ({', '.join(beside)}) and are left out"
            warn(f"{where}: {(~keep).sum()} {alone}")
        column = {c: own[c] for c in categories if c in own}
    if not column:
        raise DataError(f"{where}: the only class is {normal!r}; add images of the categories to detect")
    y = np.ascontiguousarray(labels[:, list(column.values())], dtype=np.int64)
    return ImageTable(tuple(images), y, tuple(column), meta).rows(np.flatnonzero(keep))


def split_train_test(
    table: ImageTable, seed: int = 0, drop_copies: bool | None = False
) -> tuple[ImageTable, ImageTable]:
    """Train and test rows: the `split` column is obeyed (`val` is in neither), else patients are halved at random.

    `drop_copies` leaves train images out that are in test too, pixel for pixel; None does not look.

    Raises:
        DataError: one side would be empty, or a picture is on both and `drop_copies` is False.
    """
    from .copies import without_those_of  # it reads images, which know this table

    if "split" in table.meta:
        train, test = table.part("train"), table.part("test")
    else:
        first = _dealt(*_shown_by_patient(table), 2, np.random.default_rng(seed)) == 1
        train, test = table.rows(np.flatnonzero(first)), table.rows(np.flatnonzero(~first))
    if not len(train) or not len(test):
        raise DataError(f"the split leaves no {'train' if not len(train) else 'test'} images; give both")
    return (train if drop_copies is None else without_those_of(train, test, drop_copies)), test


def _shown_by_patient(table: ImageTable) -> tuple[np.ndarray, np.ndarray]:
    """(P, C + 1) in {0, 1} what each of P patients shows, normal last, and (N,) the patient of each row."""
    patients, of = np.unique(table.patients(), return_inverse=True)
    labels = np.column_stack([table.labels, table.labels.sum(1) == 0])
    shown = np.zeros((len(patients), labels.shape[1]), dtype=int)
    np.maximum.at(shown, of, labels)
    return shown, of


def _dealt(shown: np.ndarray, of: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) part of each row: patients who show the same stand together, the rarest apart, and are dealt out in turn."""
    shown = shown[:, np.argsort(-shown.sum(0), kind="stable")]
    order = rng.permutation(len(shown))
    part = np.empty(len(shown), dtype=int)
    part[order[np.lexsort(shown[order].T)]] = np.arange(len(shown)) % parts
    return part[of]


def patient_folds(table: ImageTable, folds: int = 5, seed: int = 0) -> np.ndarray:
    """(N,) the fold of each row: a patient is in one fold, and without it every category has positives left.

    There are as many folds as asked for, or as the rarest category has patients.

    Raises:
        DataError: a category, or the normal images, come from one patient, or every split leaves one out.
    """
    shown, of = _shown_by_patient(table)
    for name, count in zip([*table.categories, "normal"], shown.sum(0), strict=True):
        if count < 2:
            raise DataError(f"{count} patients with {name!r}: folds leave each out in turn; give two or more")
    rng, folds = np.random.default_rng(seed), int(min(folds, shown.sum(0).min()))
    labels = np.column_stack([table.labels, table.labels.sum(1) == 0])
    best, most = np.zeros(len(table), int), 1.0
    for fold in (_dealt(shown, of, folds, rng) for _ in range(20)):
        share = max((labels[fold == k].sum(0) / labels.sum(0)).max() for k in range(folds))
        best, most = (fold, share) if share < most else (best, most)
    if most == 1:
        raise DataError("folds: each of them would hold all images of a category; give more patients")
    return best


def check_split(where, table: ImageTable, remedy: str = "keep each patient in one split") -> None:
    """Refuse patients that stand in two parts of the split: a DataError that counts them and names two images."""
    splits, first = table.meta.get("split", ()), dict[str, int]()
    torn: dict[str, tuple[int, int]] = {}  # patient -> the first two rows in different parts
    for row, (patient, split) in enumerate(zip(table.patients(), splits, strict=False)):
        if splits[first.setdefault(patient, row)] != split:
            torn.setdefault(patient, (first[patient], row))
    if torn:
        one, other = (
            f"row {r}" if isinstance(table.images[r], np.ndarray) else table.images[r] for r in min(torn.values())
        )
        raise DataError(f"{where}: patients in two parts of the split: {len(torn)}, first {one} and {other}; {remedy}")


def draw_support(table: ImageTable, shots: int, seed: int) -> np.ndarray:
    """Indices of a support set: `shots` positives of every category and as many normal images.

    Drawn by patient: no patient gives two images. A drawn image that shows several categories counts
    for each of them; the rarest category is served first.

    Raises:
        DataError: a category, or the normal images, come from fewer patients than `shots`.
    """
    if shots < 1:
        raise DataError(f"shots is {shots}: it must be at least 1")
    patients = table.patients()
    labels = np.column_stack([table.labels, table.labels.sum(1) == 0])
    names = [*table.categories, "normal"]
    available = [len(np.unique(patients[labels[:, c] == 1])) for c in range(len(names))]
    for name, count in zip(names, available, strict=True):
        if count < shots:
            if name == "normal" and not count:
                raise DataError("no normal image (a row of zeros); add some, for scores are measured against them")
            remedy = "lower the shots" + ", or name the other categories with categories=" * (name != "normal")
            if not count:
                raise DataError(f"no image shows {name!r}; add some, or name the other categories with categories=")
            raise DataError(f"{name!r} has {count} patients to draw from, but {shots} shots are asked for; {remedy}")
    order = np.random.default_rng(seed).permutation(len(table))
    chosen: list[int] = []
    for c in np.argsort(available, kind="stable"):  # the rarest first
        for i in order[labels[order, c] == 1]:
            if labels[chosen, c].sum() >= shots:
                break
            if patients[i] not in patients[chosen]:
                chosen.append(int(i))
        if (drawn := labels[chosen, c].sum()) < shots:
            raise DataError(
                f"only {drawn} of {shots} shots of {names[c]!r} could be drawn from patients not yet used; "
                "lower the shots"
            )
    return np.asarray(chosen)
