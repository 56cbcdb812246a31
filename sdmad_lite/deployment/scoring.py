"""Score an archive: any number of images to one table, in steady memory, by any number of processes. [ours]

The table is a folder of Parquet parts, which pandas, pyarrow, Polars and Spark read as one. A part that stands is done,
as long as its images are the same by content: a run that was killed goes on with the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_start_method
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from scipy.special import expit
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import __version__
from ..data import as_images, read_image, read_images, walk_images
from ..errors import BackboneError, CheckpointError, DataError, OutputError, SDMADError, needs, noting, renote
from ..files import NOTICE, is_main, new_file, new_folder, write_text
from ..running import Processes
from ..settings import AtLeastOne, Count, Settings
from ..storage import contents

if TYPE_CHECKING:
    from ..data import ImageTable
    from ..detector import SDMAD

ABOUT = "_about.json"
"""Beside the parts, what they belong to; readers of Parquet pass over a name with an underscore."""
IMAGES = b"images"
"""In the schema of a part, the hash of what it belongs to and of what its images are."""


@dataclass(frozen=True)
class ScoringConfig(Settings):
    """How an archive is scored. No setting but bf16 changes a score by more than rounding."""

    batch_size: AtLeastOne | None = None  # images at once: 128 on an accelerator and 32 on a CPU; halved until they fit
    workers: Count | None = None  # further processes that read images, for each process; by the machine if left out
    rows_per_part: AtLeastOne = 1024  # what a killed process loses at most, and all rows that one keeps in memory
    bf16: bool = False  # whether to compute in bfloat16 by autocast
    progress: bool = True  # whether to show a bar


@dataclass(frozen=True)
class ArchiveSummary:
    """What `score_archive` did, the same in every process."""

    out: Path
    images: int
    errors: int  # images that could not be read
    resumed: int  # parts of an earlier run
    made: int  # parts of this one


@noting()
def score_archive(
    detector: SDMAD,
    source: ImageTable | Iterable | str | Path,
    out: str | Path,
    *,
    root: str | Path | None = None,
    explain: bool = False,
    resume: bool = True,
    config: ScoringConfig | None = None,
) -> ArchiveSummary:
    """Score images into a folder of Parquet parts: the rows of `score_table`, in the order of the source.

    Args:
        source: a folder, searched at any depth for images and sorted by path; or a table or list of images.
        out: folder of the parts. One of an earlier run is continued, or with resume=False replaced.
        root: the paths of a table or list are written relative to this folder; those of a folder always are.
        explain: whether to add the parts of each logit.

    Raises:
        CheckpointError: the parts there belong to another detector, other options or other images.
        OutputError: the parts cannot be written, or the folder holds something else.
        DataError: there is no image. MissingExtraError: pyarrow is not installed.
    """
    pa, parquet, config = needs("pyarrow", "archive"), needs("pyarrow.parquet", "archive"), config or ScoringConfig()
    folder, images, processes = Path(out), listed(source, root), Processes(detector.backbone.device)
    options = {"version": __version__, "explain": explain, "bf16": config.bf16, "rows per part": config.rows_per_part}
    whole = about(detector) | options | {"images": len(images), "list of images": _digest(name for name, _ in images)}
    numbers, size = range(len(images)), config.rows_per_part
    parts = {folder / f"part-{i // size:05}.parquet": numbers[i : i + size] for i in range(0, len(images), size)}
    columns = {n: pa.from_numpy_dtype(values.dtype) for n, values in scores(detector, torch.empty(0), explain).items()}
    schema = pa.schema({"image": pa.string(), "error": pa.string()} | columns)
    processes.from_main(lambda: _enter(folder, whole, resume, parts, images))
    by = json.dumps(whole)
    missing = [file for file, part in parts.items() if _finished(file, len(part)) is None]
    processes.wait()  # until all know what is missing; then each makes every count-th part of it
    mine = missing[processes.index :: processes.count]
    with detector.installed():
        rows = _rows(detector, images, [parts[file] for file in mine], explain, config)
        for file in mine:
            made, hashes = zip(*islice(rows, len(parts[file])), strict=True)
            table = pa.Table.from_pylist(made, schema.with_metadata({IMAGES: _digest((by, *hashes))}))
            with new_file(file) as temporary:
                parquet.write_table(table, temporary, write_page_checksum=True)
    processes.wait()
    done = [_finished(file, len(part)) for file, part in parts.items()]
    if None in done:
        raise OutputError(f"{folder}: a part is gone or damaged; run again, it alone is made anew")
    errors = sum(count for count, _ in filter(None, done))
    return ArchiveSummary(folder, len(images), errors, len(parts) - len(missing), len(missing))


@noting()
def score_table(
    detector: SDMAD, source, *, root=None, explain=False, config: ScoringConfig | None = None
) -> list[dict[str, Any]]:
    """A row for each of some images, column -> value; for the arguments and errors see `score_archive`.

    `image` is the path, or the number of an image in memory; `error` why it could not be scored, else None; for each
    category `<category>` is a probability in [0, 1], and `<category>_detected` 1 where that reaches its threshold,
    else 0. With `explain` come the parts that sum to the category's logit: `<category> | <sign>` for each selected
    sign, `<category> | image evidence` and `<category> | bias`. Where there is an error all these are None.
    """
    images, config = listed(source, root), config or ScoringConfig(workers=0, progress=False)
    with detector.installed():
        return [row for row, _ in _rows(detector, images, [range(len(images))], explain, config)]


def listed(source, root: str | Path | None = None) -> list[tuple[str, Any]]:
    """(name, image) of each: the path relative to `root`, or "image 7" of one in memory, and what `read_image` takes.

    Raises a DataError where there is no image, or the source is no folder, table or list.
    """
    if isinstance(source, (str, Path)) and not os.path.isfile(source):
        # a string is a tenth of a Path
        root, source = source, [str(path) for path in walk_images(source, within=source)]
        if not source:
            raise DataError(f"{root}: holds no image; name files, or a folder that holds some")
    named = []
    for number, image in enumerate(as_images(source)[0]):
        name = f"image {number}"
        if isinstance(image, (str, Path)):
            name = str(image) if root is None else os.path.relpath(image, root)
        named.append((name, image))
    return named


def about(detector: SDMAD) -> dict[str, Any]:
    """What belongs beside scores: notice, hash of all that the detector is, thresholds by category."""
    detector.check_fitted()
    state, tensors = contents(detector)
    thresholds = dict(zip(detector.bank.categories, detector.thresholds_.tolist(), strict=True))
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode() + save(tensors)).hexdigest()
    return {"notice": NOTICE, "detector": digest, "thresholds": thresholds}


def scores(detector: SDMAD, pixels: Tensor, explain: bool = False, bf16: bool = False) -> dict[str, np.ndarray]:
    """Of prepared pixels (N, 3, H, W) the columns of `score_table`, name -> (N,); call it in `detector.installed()`.

    Raises:
        BackboneError: one image alone does not fit into the memory. OutputError: two columns would have one name.
    """
    cosines, activations = _features(detector, pixels, bf16)
    probability, weights = expit(detector.logits(cosines, activations)), detector.weights_
    columns: list[tuple[str, np.ndarray]] = []
    for category, p, threshold in zip(detector.bank.categories, probability.T, detector.thresholds_, strict=True):
        columns += [(category, p), (f"{category}_detected", (p >= threshold).astype(np.int8))]
    for c, category in enumerate(detector.bank.categories if explain else ()):
        by_sign = detector.contributions(cosines)[:, c]
        columns += [(f"{category} | {detector.bank.texts[s]}", by_sign[:, s]) for s in np.flatnonzero(weights[c])]
        columns += [(f"{category} | image evidence", detector.image_logits(activations)[:, c])]
        columns += [(f"{category} | bias", np.full(len(cosines), detector.base_[c]))]
    names = ["image", "error", *(name for name, _ in columns)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise OutputError(f"two columns would be called {twice[0]!r}; rename that category in the bank")
    return dict(columns)


def _features(detector: SDMAD, pixels: Tensor, bf16: bool) -> tuple[np.ndarray, ...]:
    """Cosines (N, S) and activations (N, d) of pixels, by halves where they do not fit into the memory."""
    if not len(pixels):
        return np.zeros((0, len(detector.bank.texts))), np.zeros((0, detector.image_weights_.shape[1]))
    device = detector.backbone.device
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return detector.features_of_pixels(pixels.to(device, non_blocking=True))
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise BackboneError(f"one image alone does not fit into the memory of {device}; use a CPU") from None
    # here and not above, where the error still holds what was computed
    halves = [_features(detector, half, bf16) for half in pixels.tensor_split(2)]
    return tuple(map(np.concatenate, zip(*halves, strict=True)))


def _content(image) -> str:
    """SHA-256 of an image, whatever its name: of a file's bytes, or of pixels in memory; "" of what is neither."""
    if isinstance(image, (str, Path)):
        if not os.path.isfile(image):
            return ""
        with open(image, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    pixels = np.asarray(image)
    return "" if pixels.dtype == object else hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="backslashreplace")).hexdigest()


def _read(batch: list, preprocess: Callable, color: bool, strict: bool) -> tuple[list, Tensor, dict[str, dict]]:
    """Of some (name, image): (row begun, `_content`) of each, pixels of those without error, and what is noted."""
    rows, pixels = [], []
    with noting(say=False) as noted:
        for name, image in batch:
            row, content = {"image": name, "error": None}, ""
            try:
                content = _content(image)  # the file is then read again, from the memory of the system
                pixels.append(preprocess(read_image(image, color, strict)))
            except SDMADError as error:
                row["error"] = str(error)
            except Exception as error:  # whatever it is, it is this image's row and not the end of the archive
                row["error"] = f"cannot be prepared ({error!r}); look at the file"
            # a file's name may hold bytes that are no text
            row = {key: text and text.encode(errors="backslashreplace").decode() for key, text in row.items()}
            rows.append((row, content))
    return rows, torch.stack(pixels) if pixels else torch.empty(0), noted


def _workers(asked: int | None, device: str) -> int:
    """How many further processes read images; where none can be started, the default is 0 and more are refused."""
    main, limit = getattr(sys.modules["__main__"], "__file__", None), 1024
    with suppress(ImportError):  # Windows has none
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    why = f"only {limit} files may be open at once, raise it with 'ulimit -n 1024'" if 0 <= limit < 64 else ""
    with suppress(OSError):
        if main and get_start_method() != "fork" and not re.search(r"if +__name__ *==", Path(main).read_text("utf-8")):
            why = f"each would run {main} anew; put what it does below: if __name__ == '__main__':"
    if why and asked:
        raise DataError(f"workers is {asked}: {why}, or give 0")
    spare = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1
    return min(1 if device == "cpu" else 8, max(0, spare)) * (not why) if asked is None else asked


def _rows(detector, images, parts, explain, config: ScoringConfig) -> Iterator[tuple[dict[str, Any], str]]:
    """A row for each image of some parts, which are ranges of numbers, and what the image is."""
    device = detector.backbone.device.type
    size = config.batch_size or (32 if device == "cpu" else 128)
    # a batch never spans two parts, so that its neighbours, and with them the last bits, are always the same
    batches = [part[start : start + size] for part in parts for start in range(0, len(part), size)]
    color, strict = detector.bank.color, False
    try:  # a few in colour among grey ones are read as grey; where most are, or one is damaged, each is refused
        read_images([image for _, image in images[:: len(images) // 8 + 1]], color)
    except SDMADError:
        strict = True
    loader = DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=partial(_read, preprocess=detector.backbone.preprocess, color=color, strict=strict),
        num_workers=min(_workers(config.workers, device), len(batches)),
        pin_memory=device == "cuda",
        generator=torch.Generator(),  # the loader draws a number, which would move the caller's random state
    )
    for rows, pixels, noted in tqdm(loader, desc="batches of images", disable=not (config.progress and is_main())):
        renote(noted)
        columns = scores(detector, pixels, explain, config.bf16)
        scored = zip(*(values.tolist() for values in columns.values()), strict=True)
        for row, content in rows:
            found = dict.fromkeys(columns) if row["error"] else dict(zip(columns, next(scored), strict=True))
            yield row | found, content


def _enter(folder: Path, whole: dict[str, Any], resume: bool, parts: dict[Path, range], images: list) -> None:
    """Make the folder of parts, or refuse one of another run or of other images. All processes must see it."""
    if not (resume and (folder / ABOUT).exists()):
        with new_folder(folder, ABOUT) as temporary:
            write_text(temporary / ABOUT, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    try:
        found = dict(json.loads((folder / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / ABOUT}: cannot be read ({error}); remove its folder to start anew") from None
    if other := " and another ".join(name for name in whole if found.get(name) != whole[name]):
        raise CheckpointError(f"{folder}: belongs to another {other}; give the same, another folder, or resume=False")
    for left in folder.glob(".part-*"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)
    # what a part was made of is read again: hashing is quick beside scoring, and waits for the disk in threads
    with ThreadPoolExecutor() as pool:
        for file, part in parts.items():
            done = _finished(file, len(part))
            hashes = pool.map(_content, (images[i][1] for i in part if done))
            if done and done[1] != _digest((json.dumps(whole), *hashes)):
                remedy = "remove it to score these, give another folder, or resume=False"
                raise CheckpointError(f"{file}: was made of other images than there are now, or elsewhere; {remedy}")


def _finished(file: Path, rows: int) -> tuple[int, str] | None:
    """Of a part with so many rows how many have an error, and what its images were; None where it is not whole."""
    try:
        with needs("pyarrow.parquet", "archive").ParquetFile(file, page_checksum_verification=True) as opened:
            table = opened.read()
        errors, metadata = table.num_rows - table["error"].null_count, table.schema.metadata or {}
        return (errors, metadata.get(IMAGES, b"").decode()) if table.num_rows == rows else None
    except Exception:  # damage makes a reader raise nearly anything
        return None
