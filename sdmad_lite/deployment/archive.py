"""The images of an archive, read by several processes in steady memory.

`listed` names the images of a folder, table or list, one at a time; `loader` reads those of some parts, a batch at a
time. A broken image is an error beside its name and never the end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import ImageTable, read_image, walk_images
from ..errors import DataError, SDMADError
from .parts import Parts


def listed(source, root: str | Path | None) -> tuple[Iterator[str | list], Path | None, Sequence | None]:
    """Names of the images, one at a time; the folder that they are relative to; and the images if in memory."""
    if isinstance(source, (str, Path)):
        folder = Path(source)
        if not folder.is_dir():
            raise DataError(f"{folder}: is not a folder; give a folder of images, a table or a list of paths")
        return (str(path.relative_to(folder)) for path in walk_images(folder)), folder, None
    images = source.images if isinstance(source, ImageTable) else source
    root = None if root is None else Path(root)
    kept = images if isinstance(images, Sequence) else None
    return (_name(i, image, root, kept) for i, image in enumerate(images)), root, kept


def _name(number: int, image, root: Path | None, kept: Sequence | None) -> str | list:
    """A path as it is written, or the place and fingerprint of an image in memory."""
    if isinstance(image, (str, Path)):
        return str(image if root is None else os.path.relpath(image, root))
    if kept is None:
        raise DataError(f"image {number} is not a path; give images in memory as a list")
    try:
        return [number, hashlib.sha256(np.ascontiguousarray(image)).hexdigest()]
    except (TypeError, ValueError):  # no image; reading it will say so, in its row
        return [number, type(image).__name__]


class Batches(Dataset):
    """Reads one batch, in whichever process: (part, start, stop) to names, errors or None, and pixels of the good."""

    def __init__(self, parts: Parts, root: Path | None, kept: Sequence | None, preprocess: Callable, color: bool):
        self.parts, self.root, self.kept = parts, root, kept
        self.preprocess, self.color = preprocess, color

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, list[str], list[str | None], Tensor]:
        names, problems, pixels = [], [], []
        for image in self.parts.images(*key):
            stored = isinstance(image, list)
            # a file's name may hold bytes that are no text
            names.append(f"image {image[0]}" if stored else image.encode(errors="backslashreplace").decode())
            try:
                found = self.kept[image[0]] if stored else image if self.root is None else self.root / image
                pixels.append(self.preprocess(read_image(found, self.color)))
                problems.append(None)
            except SDMADError as error:
                problems.append(str(error))
            except Exception as error:  # whatever it is, it is this image's row and not the end of the archive
                problems.append(f"{names[-1]}: cannot be prepared ({type(error).__name__}: {error}); look at the file")
        return key[0], names, problems, torch.stack(pixels) if pixels else torch.empty(0)


class _Order:
    """Keys of all batches of some parts; a batch never spans two, so that its neighbours are always the same."""

    def __init__(self, parts: Parts, mine: Sequence[int], batch_size: int):
        self.parts, self.mine, self.batch_size = parts, mine, batch_size

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        for part in self.mine:
            ends = [*range(0, self.parts.size(part), self.batch_size), self.parts.size(part)]
            yield from ((part, start, stop) for start, stop in pairwise(ends))

    def __len__(self) -> int:
        return sum(-(-self.parts.size(part) // self.batch_size) for part in self.mine)


def _unchanged(batch):
    return batch


def loader(batches: Batches, mine, device, batch_size: int | None, workers: int | None, processes: int) -> DataLoader:
    cpu = device.type == "cpu"
    order = _Order(batches.parts, mine, batch_size or (32 if cpu else 128))
    if workers is None:
        cores = (os.process_cpu_count if hasattr(os, "process_cpu_count") else os.cpu_count)() or 1
        workers = min(1 if cpu else 8, max(0, cores // processes - 1))
    return DataLoader(
        batches,
        sampler=order,
        batch_size=None,
        num_workers=min(workers, len(order)),
        collate_fn=_unchanged,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader draws a number, which would move the caller's random state
    )
