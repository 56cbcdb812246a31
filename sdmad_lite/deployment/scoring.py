"""Score an archive: any number of images to one table, in steady memory, by any number of processes. [ours]

The table is a folder of Parquet parts, which pandas, pyarrow, Polars and Spark read as one. A part that stands is done:
a run that was killed goes on with the next. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from scipy.special import expit
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data import as_images, read_image, walk_images
from ..errors import BackboneError, CheckpointError, DataError, OutputError, SDMADError, needs
from ..files import NOTICE, is_main, new_file, new_folder, write_text
from ..running import Processes

if TYPE_CHECKING:
    from ..data import ImageTable
    from ..detector import SDMAD

ABOUT = "_about.json"
"""Beside the parts, what they belong to; readers of Parquet pass over a name with an underscore."""


@dataclass(frozen=True)
class ArchiveSummary:
    """What `score_archive` did, the same in every process: `errors` counts images, `resumed` the parts of an earlier
    run, and `made` those of this one."""

    out: Path
    images: int
    errors: int
    resumed: int
    made: int


def score_archive(
    detector: SDMAD,
    source: ImageTable | Iterable | str | Path,
    out: str | Path,
    *,
    root: str | Path | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    resume: bool = True,
    explain: bool = False,
    bf16: bool = False,
    rows_per_part: int = 1024,
    progress: bool = True,
) -> ArchiveSummary:
    """Score images into a folder of Parquet parts: the rows of `score_table`, in the order of the source.

    Args:
        source: a folder, searched at any depth for images and sorted by path; or a table or list of images.
        out: folder of the parts. One of an earlier run is continued, or with resume=False replaced.
        root: the paths of a table or list are written relative to this folder; those of a folder always are.
        batch_size: images at once, 128 on an accelerator and 32 on a CPU if left out; halved until they fit.
        workers: further processes that read images, for each process; by the machine if left out.
        explain: whether to add the parts of each logit. bf16: whether to compute in bfloat16 by autocast.
        rows_per_part: what is lost at most when a process is killed, and all rows that it keeps in memory.

    Raises:
        CheckpointError: the parts there belong to another detector, other options or another list of images.
        OutputError: the parts cannot be written, or the folder holds something else.
        DataError: there is no image, or a number is out of range. MissingExtraError: pyarrow is not installed.
    """
    pa, parquet = needs("pyarrow", "archive"), needs("pyarrow.parquet", "archive")
    limits = {"batch_size": (batch_size, 1), "rows_per_part": (rows_per_part, 1), "workers": (workers, 0)}
    for name, (value, least) in limits.items():
        if value is not None and value < least:
            raise DataError(f"{name} is {value}: give at least {least}")
    folder, images, processes = Path(out), listed(source, root), Processes(detector.backbone.device)
    options = {"explain": explain, "bf16": bf16, "rows per part": rows_per_part}
    whole = about(detector) | options | {"images": len(images), "list of images": _digest(images)}
    numbers, starts = range(len(images)), range(0, len(images), rows_per_part)
    parts = {folder / f"part-{n:05}.parquet": numbers[i : i + rows_per_part] for n, i in enumerate(starts)}
    columns = {n: pa.from_numpy_dtype(values.dtype) for n, values in scores(detector, torch.empty(0), explain).items()}
    schema = pa.schema({"image": pa.string(), "error": pa.string()} | columns)
    _enter(folder, whole, resume, processes)
    missing = [file for file, part in parts.items() if _errors(file, len(part)) is None]
    processes.wait()  # until all know what is missing; then each makes every count-th part of it
    mine = missing[processes.index :: processes.count]
    with detector.installed():
        rows = _rows(detector, images, [parts[file] for file in mine], explain, bf16, batch_size, workers, progress)
        for file in mine:
            table = pa.Table.from_pylist(list(islice(rows, len(parts[file]))), schema)
            with new_file(file) as temporary:
                parquet.write_table(table, temporary, write_page_checksum=True)
    processes.wait()
    errors = [_errors(file, len(part)) for file, part in parts.items()]
    if None in errors:
        raise OutputError(f"{folder}: a part is gone or damaged; run again, it alone is made anew")
    return ArchiveSummary(folder, len(images), sum(filter(None, errors)), len(parts) - len(missing), len(missing))


def score_table(detector: SDMAD, source, *, root=None, explain=False, progress=False) -> list[dict[str, Any]]:
    """A row for each of some images, column -> value; for the arguments and errors see `score_archive`.

    `image` is the path, or the number of an image in memory; `error` why it could not be scored, else None; for each
    category `<category>` is a probability in [0, 1], and `<category>_detected` 1 where that reaches its threshold,
    else 0. With `explain` come the parts that sum to the category's logit: `<category> | <sign>` for each selected
    sign, `<category> | image evidence` and `<category> | bias`. Where there is an error all these are None.
    """
    images = listed(source, root)
    with detector.installed():
        return list(_rows(detector, images, [range(len(images))], explain, False, None, 0, progress))


def listed(source, root: str | Path | None = None) -> list[tuple[str, Any]]:
    """(name, image) of each: the path relative to `root`, or "image 7" of one in memory, and what `read_image` takes.

    Raises a DataError where there is no image, or the source is no folder, table or list.
    """
    if isinstance(source, (str, Path)):
        root, source = source, [str(path) for path in walk_images(source)]  # a string is a tenth of a Path
        if not source:
            raise DataError(f"{root}: holds no image; name files, or a folder that holds some")
    named = []
    for number, image in enumerate(as_images(source)[0]):
        name = f"image {number}"
        if isinstance(image, (str, Path)):
            name = str(image) if root is None else os.path.relpath(image, root)
        named.append((name, image))
    return named


def _digest(images: list[tuple[str, Any]]) -> str:
    digest = hashlib.sha256()
    for name, image in images:
        pixels = image.tobytes() if hasattr(image, "tobytes") else b""  # of an array or PIL image
        digest.update(os.fsencode(name) + b"\n" + pixels)
    return digest.hexdigest()


def about(detector: SDMAD) -> dict[str, Any]:
    """What belongs beside scores: notice, hash of all in the detector that decides them, thresholds by category."""
    detector.check_fitted()
    fitted = ("sign_embeddings_", "weights_", "scale_", "bias_", "image_weights_", "image_bias_", "thresholds_")
    tensors = {name: torch.as_tensor(getattr(detector, name)) for name in fitted} | detector.adapters_.state_dict()
    digest = hashlib.sha256(save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}))
    for setting in (detector.backbone.fingerprint, detector.bank.model_dump_json(), repr(detector.adapters)):
        digest.update(setting.encode())
    thresholds = dict(zip(detector.bank.categories, detector.thresholds_.tolist(), strict=True))
    return {"notice": NOTICE, "detector": digest.hexdigest(), "thresholds": thresholds}


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
    by_image = detector.image_logits(activations)
    for c, category in enumerate(detector.bank.categories if explain else ()):
        by_sign = detector.scale_[c] * weights[c] * cosines  # (N, S)
        columns += [(f"{category} | {detector.bank.texts[s]}", by_sign[:, s]) for s in np.flatnonzero(weights[c])]
        columns += [(f"{category} | image evidence", by_image[:, c])]
        columns += [(f"{category} | bias", np.full(len(cosines), detector.bias_[c]))]
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


def _read(batch: list[tuple[str, Any]], preprocess: Callable, color: bool) -> tuple[list[dict], Tensor]:
    """(name, image) of some to the beginnings of their rows, and pixels of those without an error."""
    rows, pixels = [], []
    for name, image in batch:
        row = {"image": name, "error": None}
        try:
            pixels.append(preprocess(read_image(image, color)))
        except SDMADError as error:
            row["error"] = str(error)
        except Exception as error:  # whatever it is, it is this image's row and not the end of the archive
            row["error"] = f"cannot be prepared ({error!r}); look at the file"
        # a file's name may hold bytes that are no text
        rows.append({key: text and text.encode(errors="backslashreplace").decode() for key, text in row.items()})
    return rows, torch.stack(pixels) if pixels else torch.empty(0)


def _rows(detector, images, parts, explain, bf16, batch_size, workers, progress) -> Iterator[dict[str, Any]]:
    """A row for each image of some parts, which are ranges of numbers."""
    device = detector.backbone.device.type
    size = batch_size or (32 if device == "cpu" else 128)
    # a batch never spans two parts, so that its neighbours, and with them the last bits, are always the same
    batches = [part[start : start + size] for part in parts for start in range(0, len(part), size)]
    if workers is None:
        spare = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1
        workers = min(1 if device == "cpu" else 8, max(0, spare))
    loader = DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=partial(_read, preprocess=detector.backbone.preprocess, color=detector.bank.color),
        num_workers=min(workers, len(batches)),
        pin_memory=device == "cuda",
        generator=torch.Generator(),  # the loader draws a number, which would move the caller's random state
    )
    for rows, pixels in tqdm(loader, desc="batches of images", disable=not (progress and is_main())):
        columns = scores(detector, pixels, explain, bf16)
        scored = zip(*(values.tolist() for values in columns.values()), strict=True)
        for row in rows:
            yield row | (dict.fromkeys(columns) if row["error"] else dict(zip(columns, next(scored), strict=True)))


def _enter(folder: Path, whole: dict[str, Any], resume: bool, processes: Processes) -> None:
    """Make the folder of parts, or refuse one of another run. All processes must see it, and see the same images."""

    def make() -> None:
        if not (resume and (folder / ABOUT).exists()):
            with new_folder(folder, ABOUT) as temporary:
                write_text(temporary / ABOUT, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")

    processes.from_main(make)
    try:
        found = dict(json.loads((folder / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / ABOUT}: cannot be read ({error}); remove its folder to start anew") from None
    if other := " and another ".join(name for name in whole if found.get(name) != whole[name]):
        raise CheckpointError(f"{folder}: belongs to another {other}; give the same, another folder, or resume=False")
    for left in folder.glob(".part-*") if processes.main else ():  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)


def _errors(file: Path, rows: int) -> int | None:
    """How many of so many rows have an error; None where the part is not there, or not whole."""
    try:
        with needs("pyarrow.parquet", "archive").ParquetFile(file, page_checksum_verification=True) as opened:
            table = opened.read()
        return table.num_rows - table["error"].null_count if table.num_rows == rows else None
    except Exception:  # damage makes a reader raise nearly anything
        return None
