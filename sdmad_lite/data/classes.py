"""A folder with one subfolder per class, optionally below train/, val/ and test/.

One image counts once. Files of the same bytes are the same image: in the folders of two categories it shows
both. The same file name alone means nothing, since many sets number the images of each class anew.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from .images import IMAGE_ENDINGS, walk_images
from .names import NORMAL, find_normal, plain, to_categories
from .paths import check_no_link, reading
from .table import SPLITS, ImageTable

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
PARTS |= {"test": "test", "testing": "test"}
"""Names of folders above the classes, and the part of the split that each is."""


def load_classes(
    folder: str | Path,
    categories: Sequence[str] | None = None,
    normal: str | None = None,
    drop_copies: bool = False,
) -> ImageTable:
    """Read a folder with a subfolder per class, or with folders train, val and test that hold them, sorted by path.

    Images may lie deeper. `categories` and `normal` are as in `load_data`. An image that stands in several parts of the
    split is refused, or with `drop_copies` kept in the last of train, val, test that has it.

    Raises:
        DataError: no class folder, an empty one, an unknown name, no normal class, an image that is
            normal and not, or in two parts of the split, or a link out of the folder.
    """
    folder = Path(folder)
    files = list(_walk(folder))
    names = sorted({name for _, name, _ in files})
    normal_name = find_normal(folder, names, normal, categories)
    if normal_name is None and normal != "":
        raise DataError(
            f"{folder}: no class folder is recognised as normal; the folders are {', '.join(names)}. Say which "
            f"with normal=, or rename it to one of {', '.join(NORMAL[:5])}; normal='' says that there is none"
        )
    # by the first file of the same bytes: path and classes in each part of the split
    copies: dict[Path, dict[str, tuple[Path, set[str]]]] = defaultdict(dict)
    for (split, name, path), same in zip(files, _same_bytes(folder, [path for *_, path in files]), strict=True):
        copies[same].setdefault(split, (path, set()))[1].add(name)
    doubled = [[(path.relative_to(folder), split) for split, (path, _) in parts.items()] for parts in copies.values()]
    doubled = [parts for parts in doubled if len(parts) > 1]
    if doubled and not drop_copies:
        a, b = (f"{path} ({split})" for path, split in doubled[0][:2])
        raise DataError(
            f"{folder}: {len(doubled)} images stand in several parts of the split, such as {a} and {b}; remove one of "
            "each, or load_classes(..., drop_copies=True)"
        )
    lasts = ((parts, max(parts, key=["", *SPLITS].index)) for parts in copies.values())
    rows = sorted((*parts[split], split) for parts, split in lasts)
    for path, shown, _ in rows:
        if normal_name in shown and len(shown) > 1:
            other = min(shown - {normal_name})
            raise DataError(f"{path}: is in {normal_name} and, byte for byte, in {other}; remove one of them")
    labels = np.array([[name in shown for name in names] for _, shown, _ in rows])
    found, y = to_categories(folder, names, labels, normal_name, categories)
    splits = tuple(split for *_, split in rows)
    return ImageTable(tuple(path for path, *_ in rows), y, found, {"split": splits} if any(splits) else {})


def subfolders(folder: Path) -> list[Path]:
    """Those that may be classes, sorted; a link to a folder is refused."""
    with reading(folder, "change its permissions"):
        found = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith((".", "__"))]
    for path in found:
        check_no_link(path)
    return found


def _walk(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """(part of the split or "", class, path) of every image."""
    top = subfolders(folder)
    splits = [path for path in top if plain(path.name) in PARTS]
    if splits and len(splits) < len(top):
        other = next(path.name for path in top if path not in splits)
        raise DataError(
            f"{folder}: {other!r} stands beside {splits[0].name!r}; put the classes below the split or alone"
        )
    for split, level in [(PARTS[plain(path.name)], path) for path in splits] or [("", folder)]:
        classes = subfolders(level)
        if not classes:
            raise DataError(f"{level}: has no subfolder; make one for each class, with its images")
        for one in classes:
            path = None
            for path in walk_images(one, within=folder):
                yield split, one.name, path
            if path is None:
                raise DataError(f"{one}: holds no image ({', '.join(IMAGE_ENDINGS)}); add some or remove it")


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
