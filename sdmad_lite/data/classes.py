"""A folder with one subfolder per class, optionally below train/, val/ and test/, or each with these in it.

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
from .names import NORMAL, Names, check_others, find_normal, plain, spelled
from .paths import check_no_link, reading
from .table import PARTS, ImageTable, table_of_classes


def load_classes(
    folder: str | Path, categories: Names = None, normal: str | None = None, others: Names = None
) -> ImageTable:
    """Read a folder with a subfolder per class, or with folders train, val and test that hold them, sorted by path.

    Images may lie deeper. The arguments are as in `load_data`.

    Raises:
        DataError: no class folder, an empty one, an unknown name, no normal class, an image that is normal and not, or
            a link out of the folder.
    """
    folder = Path(folder)
    files = list(_walk(folder))
    one = spelled(folder, sorted({name for _, name, _ in files}), categories or ())
    names = sorted(set(one.values()))
    ask = categories is None or len(categories) > 0  # else nothing is asked of the labels
    check_others(folder, names, others if ask else ())
    none = find_normal(folder, names, normal, categories) if ask else None
    if none is None and normal != "" and ask:
        raise DataError(
            f"{folder}: no class folder is recognised as normal; the folders are {', '.join(names)}. Say which "
            f"with normal=, or rename it to one of {', '.join(NORMAL[:5])}; normal='' says that there is none, "
            "which is enough to evaluate"
        )
    shown: dict[Path, set[str]] = defaultdict(set)  # the classes of an image, by the first file of its bytes
    splits: dict[Path, str] = {}
    for (split, name, _), first in zip(files, _same_bytes(folder, files), strict=True):
        splits[first] = split
        shown[first].add(one[name])
        if none in shown[first] and len(shown[first]) > 1:
            other = min(shown[first] - {none})
            raise DataError(f"{first}: is in {none} and, byte for byte, in {other}; remove one of them")
    paths = sorted(shown)
    meta = {"split": tuple(splits[path] for path in paths)} if all(splits.values()) else {}
    if not ask:
        return ImageTable(tuple(paths), np.zeros((len(paths), 0), np.int64), (), meta)
    if several := [str(path) for path in paths if len(shown[path]) > 1]:
        note("in several class folders byte for byte, read as showing each class", *several)
    labels = np.array([[name in shown[path] for name in names] for path in paths], dtype=np.int64)
    return table_of_classes(folder, paths, names, labels, none, categories, others, meta)


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
            for path in paths:
                yield PARTS.get(plain(level.name if splits else path.relative_to(one).parts[0]), ""), one.name, path


def _same_bytes(folder: Path, files: Sequence[tuple[str, str, Path]]) -> list[Path]:
    """For each file the first one of the same part and content. Only files of equal size are read."""
    with reading(folder, "change its permissions"):
        sizes = [path.stat().st_size for *_, path in files]
        count = Counter(sizes)
        contents = [
            (split, size, hashlib.sha256(path.read_bytes()).digest() if count[size] > 1 else b"")
            for (split, _, path), size in zip(files, sizes, strict=True)
        ]
    first: dict[tuple[str, int, bytes], Path] = {}
    return [first.setdefault(content, path) for content, (*_, path) in zip(contents, files, strict=True)]
