"""Labels that know their columns: matched to the categories by name, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, warn
from .names import plain, suggest

PATHS = ("image", "path")
"""Columns of a table that hold images, not labels; in the form that `plain` leaves."""


class Labels(np.ndarray):
    """Y (N, C) of a table, which knows its categories as long as only rows are taken from it."""

    categories: tuple[str, ...] = ()

    def __getitem__(self, index):
        part = super().__getitem__(index)
        if isinstance(part, Labels) and part.shape[1:] == self.shape[1:] and not isinstance(index, tuple):
            part.categories = self.categories
        return part


def labels_by_name(labels, categories: Sequence[str], what: str = "labels", remark: bool = False) -> np.ndarray:
    """Columns of labels, or of scores, in the order of `categories`.

    Args:
        labels: of a table, a DataFrame, a Series with a name, a dict of columns, a structured array: matched by name.
            An array or list without names is taken as it is, which `remark` says where the order matters.

    Raises:
        DataError: a category has no column, a column is no category, or a cell is no number.
    """
    columns = _columns(labels)
    if columns is None:
        try:
            values = np.asarray(labels.toarray() if hasattr(labels, "toarray") else labels)  # sparse
        except ValueError:
            raise DataError(f"{what}: rows differ in length; give one number for each category in each") from None
        except (TypeError, RuntimeError) as error:  # a tensor of a GPU, or one with a gradient
            raise DataError(f"{what}: cannot be read as an array ({error}); give one of numpy") from None
        if remark and values.ndim == 2 and values.shape[1] == len(categories) > 1:
            order = f"its columns are taken in the order {', '.join(categories)}"
            warn(f"{what}: an array without names: {order}; a DataFrame or a dict of columns is matched by name")
        return values
    columns = [pair for pair in columns if plain(pair[0]) not in {*PATHS} - {*map(plain, categories)}]
    by_plain = {plain(name): column for name, column in columns}
    names = [str(name) for name, _ in columns]
    if len(by_plain) < len(columns):
        raise DataError(f"{what}: a column stands twice among {', '.join(names)}; remove one")
    if missing := [c for c in categories if plain(c) not in by_plain]:
        raise DataError(f"{what}: no column {missing[0]!r}; the columns are {', '.join(names)}")
    if unknown := [name for name in names if plain(name) not in map(plain, categories)]:
        raise DataError(f"{what}: column {unknown[0]!r} is no category; {suggest(unknown[0], categories)}")
    found = [_numbers(by_plain[plain(c)], f"{what}, column {c}") for c in categories]
    if len({len(column) for column in found}) > 1:
        raise DataError(f"{what}: the columns differ in length; give a number for each image in each")
    return np.column_stack(found)


def support_labels(labels, categories: Sequence[str], count: int) -> np.ndarray:
    """Labels Y (N, C) of `count` images as integers, if stages 1 and 2 can learn from them.

    Raises:
        DataError: wrong shape or values, no normal image, or a category without a positive; see `labels_by_name` too.
    """
    labels, expected = labels_by_name(labels, categories, remark=True), (count, len(categories))
    if labels.shape != expected:
        raise DataError(f"labels: shape {labels.shape}, expected {expected} (images, categories of the bank)")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels: only 0 and 1 are allowed")
    for name, positives in zip(categories, labels.sum(0), strict=True):
        if positives == 0:
            raise DataError(f"labels: category {name!r} has no positive image; add one or restrict the bank")
    if not (labels.sum(1) == 0).any():
        raise DataError("labels: no normal image (a row of zeros); add at least one, scores are measured against it")
    return labels.astype(np.int64)


def _columns(labels: Any) -> list[tuple[Any, Any]] | None:
    """Name and values of each column; None where there are no names. What is a table is told by what it can do."""
    if isinstance(labels, Labels):
        return list(zip(labels.categories, np.asarray(labels).T, strict=True)) if labels.categories else None
    names = getattr(labels, "column_names", None)  # pyarrow
    if names is None:
        names = getattr(getattr(labels, "dtype", None), "names", None)  # a structured array
    if names is None:
        names = getattr(labels, "columns", None)  # pandas, Polars
    if names is None and isinstance(labels, Mapping):
        names = labels
    if names is not None:
        found = [(name, labels[name]) for name in names]
        return None if all(isinstance(name, (int, np.integer)) for name, _ in found) else found
    name = getattr(labels, "name", None) if hasattr(labels, "to_numpy") else None  # a Series
    return None if name is None else [(name, labels)]


def _numbers(column: Any, what: str) -> np.ndarray:
    values = np.asarray(column)
    try:
        return values if values.dtype.kind in "iubf" else values.astype(float)
    except (TypeError, ValueError):
        raise DataError(f"{what}: holds cells that are no numbers; give 0 and 1") from None


def check_index(images: Any, labels: Any) -> None:
    """Refuse rows of pandas in another order than the images: by the index of both, or by names of files in it."""
    if not hasattr(labels, "iloc"):
        return
    index = list(labels.index)
    named = all(isinstance(name, str) for name in index)
    if hasattr(images, "iloc"):
        there = list(images.index)
    elif (
        named
        and isinstance(images, (Sequence, np.ndarray))
        and all(isinstance(image, (str, PathLike)) for image in images)
    ):
        index, there = [Path(name).stem for name in index], [Path(image).stem for image in images]
    else:
        return
    if index != there and (hasattr(images, "iloc") or set(index) == set(there)):
        row = next((i for i, pair in enumerate(zip(index, there, strict=False)) if pair[0] != pair[1]), 0)
        raise DataError(f"labels: the index differs from that of the images, row {row} first; give both in one order")
