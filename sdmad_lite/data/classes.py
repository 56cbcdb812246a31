"""A folder with one subfolder per class, optionally below train/, val/ and test/.

Files of the same bytes are one image, which shows each class it stands in; the same file name alone means nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError, note
from .images import IMAGE_ENDINGS, PASSED, walk_images
from .names import NORMAL, Names, find_normal, plain, to_categories
from .paths import check_no_link, reading
from .table import SPLITS, ImageTable

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
PARTS |= {"test": "test", "testing": "test"}
"""Names of folders above the classes, and the part of the split that each is."""


def load_classes(
    folder: str | Path, categories: Names = None, normal: str | None = None, drop_copies: bool = False
) -> ImageTable:
    """Read a folder with a subfolder per class, or with folders train, val and test that hold them, sorted by path.

    Images may lie deeper. `categories` and `normal` are as in `load_data`. An image that stands in several parts of the
    split is refused, or with `drop_copies` kept in the last of train, val, test that has it.

    Raises:
        DataError: no class folder, an empty one, an unknown name, no normal class, an image that is
            normal and not, or in two parts of the split, or a link out of the folder.
    """
    folder = Path(folder)
    files = sorted(_walk(folder), key=lambda file: -["", *SPLITS].index(file[0]))  # the last part keeps its copies
    names = sorted({name for _, name, _ in files})
    normal_name = find_normal(folder, names, normal, categories)
    if normal_name is None and normal != "":
        raise DataError(
            f"{folder}: no class folder is recognised as normal; the folders are {', '.join(names)}. Say which "
            f"with normal=, or rename it to one of {', '.join(NORMAL[:5])}; normal='' says that there is none"
        )
    shown: dict[Path, set[str]] = defaultdict(set)  # the classes of an image, by the first file of its bytes
    splits: dict[Path, str] = {}
    doubled: dict[Path, str] = {}
    for (split, name, path), first in zip(files, _same_bytes(folder, [path for *_, path in files]), strict=True):
        if splits.setdefault(first, split) == split:
            shown[first].add(name)
        else:
            doubled[first] = f"{first.relative_to(folder)} ({splits[first]}) and {path.relative_to(folder)} ({split})"
        if normal_name in shown[first] and len(shown[first]) > 1:
            other = min(shown[first] - {normal_name})
            raise DataError(f"{first}: is in {normal_name} and, byte for byte, in {other}; remove one of them")
    if doubled and not drop_copies:
        raise DataError(
            f"{folder}: {len(doubled)} images stand in several parts of the split, such as "
            f"{next(iter(doubled.values()))}; remove one of each, or load_classes(..., drop_copies=True)"
        )
    paths = tuple(sorted(shown))
    labels = np.array([[name in shown[path] for name in names] for path in paths])
    found, y = to_categories(folder, names, labels, normal_name, categories)
    return ImageTable(paths, y, found, {"split": tuple(splits[path] for path in paths)} if any(splits.values()) else {})


def subfolders(folder: Path) -> list[Path]:
    """Those that may be classes, sorted; a link to a folder is refused."""
    with reading(folder, "change its permissions"):
        folders = [p for p in sorted(folder.iterdir()) if p.is_dir()]
    found = [p for p in folders if not p.name.startswith((".", "__"))]
    if len(found) < len(folders):
        note(PASSED, *(str(p) for p in folders if p not in found))
    for path in found:
        check_no_link(path)
    return found


def _walk(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """(part of the split or "", class, path) of every image."""
    top = subfolders(folder)
    splits = [path for path in top if plain(path.name) in PARTS]
    if splits and (others := [path.name for path in top if path not in splits]):
        advice = "put the classes below the split or alone"
        raise DataError(f"{folder}: {others[0]!r} stands beside {splits[0].name!r}; {advice}")
    for level in splits or [folder]:
        if not (classes := subfolders(level)):
            raise DataError(f"{level}: has no subfolder; make one for each class, with its images")
        for one in classes:
            paths = list(walk_images(one, within=folder))
            if not paths:
                raise DataError(f"{one}: holds no image ({', '.join(IMAGE_ENDINGS)}); add some or remove it")
            yield from ((PARTS[plain(level.name)] if splits else "", one.name, path) for path in paths)


def _same_bytes(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """For each path, the first one of the same content. Only files of equal size are read."""
    with reading(folder, "change its permissions"):
        sizes = [path.stat().st_size for path in paths]
        count = Counter(sizes)
        contents = [
            (size, hashlib.sha256(path.read_bytes()).digest() if count[size] > 1 else b"")
            for path, size in zip(paths, sizes, strict=True)
        ]
    first: dict[tuple[int, bytes], Path] = {}
    return [first.setdefault(content, path) for content, path in zip(contents, paths, strict=True)]
