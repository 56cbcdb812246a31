"""Score an archive: any number of images to one table, in steady memory, by any number of processes. [ours]

    summary = score_archive(detector, "radiographs/", "scores.parquet")
    pandas.read_parquet("scores.parquet")

The table is a folder of Parquet parts, which pandas, pyarrow, Polars and Spark read as one. A part that stands is done:
a run that was killed goes on with the next. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from scipy.special import expit
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data import as_images, read_image, walk_images
from ..errors import BackboneError, CheckpointError, DataError, OutputError, SDMADError, needs
from ..files import NOTICE, is_main, new_file, new_folder, world, write_text

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

    Neither the number of processes nor of workers changes any bit on a CPU with the same number of threads; another
    batch size changes probabilities by less than 1e-5, bf16 by some 1e-2.

    Args:
        detector: a fitted SDMAD.
        source: a folder, searched at any depth for images and sorted by path; or a table or list of images.
        out: folder of the parts. One of an earlier run is continued.
        root: the paths of a table or list are written relative to this folder; those of a folder always are.
        batch_size: images at once; 128 on an accelerator and 32 on a CPU if left out. Where the memory is too small,
            it is halved until it fits.
        workers: further processes that read images, for each process; by the machine if left out.
        resume: false scores everything again. explain: whether to add the parts of each logit.
        bf16: compute in bfloat16 by autocast.
        rows_per_part: what is lost at most when a process is killed, and all rows that it keeps in memory.

    Raises:
        CheckpointError: the parts there belong to another detector, other options or another list of images.
        OutputError: the parts cannot be written, or the folder holds something else.
        DataError: there is no image, or a number is out of range. MissingExtraError: pyarrow is not installed.
    """
    pa, parquet = needs("pyarrow", "archive"), needs("pyarrow.parquet", "archive")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
        ("rows_per_part", rows_per_part, 1),
    ):
        if value is not None and value < least:
            raise DataError(f"{name} is {value}: give at least {least}")
    images, device = listed(source, root), detector.backbone.device
    options = {"explain": explain, "bf16": bf16, "rows per part": rows_per_part}
    whole = about(detector) | options | {"images": len(images), "list of images": _digest(images)}
    numbers, starts = range(len(images)), range(0, len(images), rows_per_part)
    parts = {Path(out, f"part-{n:05}.parquet"): numbers[i : i + rows_per_part] for n, i in enumerate(starts)}
    with scorer(detector, explain, bf16) as score:
        columns = {name: pa.from_numpy_dtype(values.dtype) for name, values in score(torch.empty(0)).items()}
        schema = pa.schema({"image": pa.string(), "error": pa.string()} | columns)

        # the first process says which parts are missing; of these each process makes every count-th
        missing = _from_first(device, lambda: _begun(Path(out), whole, parts, resume))
        _check(Path(out), whole)  # all see the same folder and the same images
        index, count = world()
        mine = {file: parts[file] for file in missing[index::count]}
        rows = _rows(detector, score, images, [*mine.values()], batch_size, workers, progress)
        for file, part in mine.items():
            table = pa.Table.from_pylist(list(islice(rows, len(part))), schema)
            with new_file(file) as temporary:
                parquet.write_table(table, temporary, write_page_checksum=True)

    errors = _from_first(device, lambda: {file: _errors(file, len(part)) for file, part in parts.items()})
    if gone := [file for file in parts if errors[file] is None]:
        raise OutputError(f"{gone[0]}: is gone or damaged; run again, it alone is made anew")
    return ArchiveSummary(Path(out), len(images), sum(errors.values()), len(parts) - len(missing), len(missing))


def score_table(detector: SDMAD, source, *, root=None, explain=False, progress=False) -> list[dict[str, Any]]:
    """A row for each of some images, column -> value; for the arguments and errors see `score_archive`.

    `image` is the path, or the number of an image in memory; `error` why it could not be scored, else None; for each
    category `<category>` is a probability in [0, 1], and `<category>_detected` 1 where that reaches its threshold,
    else 0. With `explain` come the parts that sum to the category's logit: `<category> | <sign>` for each selected
    sign, `<category> | image evidence` and `<category> | bias`. Where there is an error all these are None.
    """
    images = listed(source, root)
    with scorer(detector, explain) as score:
        return list(_rows(detector, score, images, [range(len(images))], None, 0, progress))


def listed(source, root: str | Path | None = None) -> list[tuple[str, Any]]:
    """(name, image) of each: the path relative to `root`, or "image 7" of one in memory, and what `read_image` takes.

    Raises:
        DataError: there is no image, or the source is no folder, table or list.
    """
    if isinstance(source, (str, Path)):
        root, source = source, [str(path) for path in walk_images(source)]  # a string is a tenth of a Path
        if not source:
            raise DataError(f"{root}: holds no image; give a folder that holds some")
    named = []
    for number, image in enumerate(as_images(source)[0]):
        path = isinstance(image, (str, Path))
        name = image if root is None or not path else os.path.relpath(image, root)
        named.append((_text(name) if path else f"image {number}", image))
    return named


def _text(what: object) -> str:
    """As text that can be written: a file's name may hold bytes that are none."""
    return str(what).encode(errors="backslashreplace").decode()


def _digest(images: list[tuple[str, Any]]) -> str:
    digest = hashlib.sha256()
    for name, image in images:
        pixels = image.tobytes() if hasattr(image, "tobytes") else b""  # of an array or PIL image
        digest.update(name.encode() + b"\n" + pixels)
    return digest.hexdigest()


def about(detector: SDMAD) -> dict[str, Any]:
    """What belongs beside scores: notice, hash of all in the detector that decides them, thresholds by category.

    Raises:
        NotFittedError: the detector is not fitted.
    """
    with detector.installed():
        pass  # raises it
    fitted = ("sign_embeddings_", "weights_", "scale_", "bias_", "image_weights_", "image_bias_", "thresholds_")
    tensors = {name: torch.as_tensor(getattr(detector, name)) for name in fitted} | detector.adapters_.state_dict()
    digest = hashlib.sha256(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    for setting in (detector.backbone.fingerprint, detector.bank.model_dump_json(), repr(detector.adapters)):
        digest.update(setting.encode())
    thresholds = dict(zip(detector.bank.categories, detector.thresholds_.tolist(), strict=True))
    return {"notice": NOTICE, "detector": digest.hexdigest(), "thresholds": thresholds}


@contextmanager
def scorer(detector: SDMAD, explain=False, bf16=False) -> Iterator[Callable[[Tensor], dict[str, np.ndarray]]]:
    """Inside the block the adapters stand in the model; it gives a function from pixels to columns of `score_table`.

    The function takes prepared pixels (N, 3, H, W) and returns name -> (N,). Where they do not fit into the memory it
    halves the batch, and keeps to the smaller one.

    Raises:
        BackboneError: one image alone does not fit. OutputError: two columns would have one name.
    """
    device, most = detector.backbone.device, sys.maxsize
    nothing = np.zeros((0, len(detector.bank.texts))), np.zeros((0, detector.image_weights_.shape[1]))

    def score(pixels: Tensor) -> dict[str, np.ndarray]:
        nonlocal most
        while True:
            found = [nothing]
            try:
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    for piece in pixels.split(most) if len(pixels) else ():
                        found.append(detector.features_of_pixels(piece.to(device, non_blocking=True)))
                return _columns(detector, *map(np.concatenate, zip(*found, strict=True)), explain)
            except RuntimeError as error:
                # the memory of a CPU has no type of error
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
            # out of the except block, whose traceback keeps the activations alive
            most = min(most, len(pixels)) // 2
            torch.cuda.empty_cache()
            if not most:
                raise BackboneError(f"one image alone does not fit into the memory of {device}; use a CPU")

    with detector.installed():
        yield score


def _columns(detector: SDMAD, cosines: np.ndarray, activations: np.ndarray, explain: bool) -> dict[str, np.ndarray]:
    """Of cosines (N, S) and activations (N, d), name -> (N,)."""
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
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise OutputError(f"two columns would be called {twice!r}; rename that category in the bank")
    return dict(columns)


class _Batches(Dataset):
    """Reads images by number, in whichever process: to errors, None where there is none, and pixels of the good."""

    def __init__(self, detector: SDMAD, images: list[tuple[str, Any]]):
        self.preprocess, self.color, self.images = detector.backbone.preprocess, detector.bank.color, images

    def __getitem__(self, numbers: range) -> tuple[list[str | None], Tensor]:
        errors: list[str | None] = []
        pixels = []
        for number in numbers:
            try:
                pixels.append(self.preprocess(read_image(self.images[number][1], self.color)))
                errors.append(None)
            except Exception as error:  # whatever it is, it is this image's row and not the end of the archive
                told = error if isinstance(error, SDMADError) else f"cannot be prepared ({error!r}); look at the file"
                errors.append(_text(told))
        return errors, torch.stack(pixels) if pixels else torch.empty(0)


def _rows(detector, score, images, parts, batch_size, workers, progress) -> Iterator[dict[str, Any]]:
    """A row for each image of some parts, which are ranges of numbers."""
    device, processes = detector.backbone.device.type, int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    size = batch_size or (32 if device == "cpu" else 128)
    # a batch never spans two parts, so that its neighbours, and with them the last bits, are always the same
    batches = [part[start : start + size] for part in parts for start in range(0, len(part), size)]
    if workers is None:
        workers = min(1 if device == "cpu" else 8, max(0, (os.cpu_count() or 1) // processes - 1))
    loader = DataLoader(
        _Batches(detector, images),
        batch_size=None,
        sampler=batches,
        num_workers=min(workers, len(batches)),
        pin_memory=device == "cuda",
        generator=torch.Generator(),  # the loader draws a number, which would move the caller's random state
    )
    hidden = not progress or not is_main()
    with tqdm(total=sum(map(len, parts)), desc="images", unit="image", disable=hidden) as bar:
        for numbers, (errors, pixels) in zip(batches, loader, strict=True):
            columns = score(pixels)
            scored = zip(*(values.tolist() for values in columns.values()), strict=True)
            bar.update(len(numbers))
            for number, error in zip(numbers, errors, strict=True):
                values = [None] * len(columns) if error else next(scored)
                yield {"image": images[number][0], "error": error} | dict(zip(columns, values, strict=True))


def _begun(out: Path, whole: dict[str, Any], parts: dict[Path, range], resume: bool) -> list[Path]:
    """Make the folder, or check that one is there that belongs to the same run; the parts that it lacks."""
    if resume and (out / ABOUT).exists():
        _check(out, whole)
        for left in out.glob(".part-*"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
    else:
        with new_folder(out, ABOUT) as temporary:
            write_text(temporary / ABOUT, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return [file for file, part in parts.items() if _errors(file, len(part)) is None]


def _check(out: Path, whole: dict[str, Any]) -> None:
    try:
        found = json.loads((out / ABOUT).read_text(encoding="utf-8"))
        differs = [name for name in whole if name != "notice" and found.get(name) != whole[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{out / ABOUT}: cannot be read ({error}); remove {out} to start anew. Several machines need one folder"
        ) from None
    if differs:
        other = " and another ".join(differs)
        raise CheckpointError(f"{out}: belongs to another {other}; give the same, another folder, or resume=False")


def _errors(file: Path, rows: int) -> int | None:
    """How many of so many rows have an error; None where the part is not there, or not whole."""
    pa, parquet = needs("pyarrow", "archive"), needs("pyarrow.parquet", "archive")
    try:
        with parquet.ParquetFile(file, page_checksum_verification=True) as opened:
            table = opened.read()
    except (OSError, pa.ArrowException):  # it was not written, or a crash of the machine left it empty
        return None
    return table.num_rows - table["error"].null_count if table.num_rows == rows else None


def _from_first(device: torch.device, decide: Callable[[], Any]) -> Any:
    """What `decide` gives in the first process, in all, when all have come here."""
    if world()[1] == 1:
        return decide()
    accelerate = needs("accelerate", "distributed")
    accelerate.PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1)).wait_for_everyone()
    return accelerate.utils.broadcast_object_list([decide() if is_main() else None])[0]
