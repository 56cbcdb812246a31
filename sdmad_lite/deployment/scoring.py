"""Score an archive: any number of images to one table, in steady memory, by any number of processes.

    summary = score_archive(detector, "radiographs/", "scores.parquet")

A run that was killed goes on when it is called again, a broken image is a row with an error. Started by `torchrun` or
accelerate's launchers, the processes share the work. One row per image [ours], since that is what one looks up,
joins with other columns by the image and sorts; a category is three clicks away in any table program.

For teaching and research; not for clinical use.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor
from tqdm import tqdm

from ..alignment.activations import record_activations
from ..alignment.adapters import installed
from ..alignment.processes import Processes
from ..errors import BackboneError, DataError, OutputError
from ..files import NOTICE
from .archive import Batches, listed, loader
from .parts import Parts, begin

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data import ImageTable
    from ..detector import SDMAD

PART = 1024
"""Images in a part: what is lost at most when a process is killed, and all that it keeps of the rows."""


@dataclass(frozen=True)
class Summary:
    """What `score_archive` did; the same in every process, but for `process`."""

    out: Path
    images: int
    errors: int
    """Rows with an error instead of scores."""
    resumed: int
    """Parts that were there from an earlier run."""
    parts: tuple[int, ...]
    """Parts that each process made in this run: one number for a single process."""
    process: int
    """Number of this process, from 0."""


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
    rows_per_part: int = PART,
    progress: bool = True,
) -> Summary:
    """Score images into a table with a row each: image, error, and for each category its probability and decision.

    The columns of a category are `<category>`, a probability, and `<category>_called`, 1 where it reaches the
    category's threshold, else 0. Both are empty where the image could not be read, and `error` says why. The
    rows stand in the order of the source. Neither the number of processes nor of workers changes any bit on a CPU with
    the same number of threads; another batch size changes probabilities by less than 1e-5, bf16 by some 1e-2.

    Args:
        detector: a fitted SDMAD.
        source: a table, paths (or arrays), or a folder, searched at any depth for images and sorted by path.
        out: file to write: .parquet, .csv or .jsonl. An earlier one is replaced when all is scored.
        root: the paths of a table or list are written relative to this folder; those of a folder always are.
        batch_size: images at once; 128 on an accelerator and 32 on a CPU if left out. Where the memory is too small,
            the batch is halved until it fits.
        workers: processes that read images, beside this one; 0 for none. If left out, up to 8 for an accelerator,
            and 1 for a CPU that has cores for it.
        resume: go on with the parts of an earlier run that did not end; False starts anew.
        explain: add for each category the parts that sum to its logit: each selected sign's, `<category> | <sign>`,
            `<category> | image evidence` and `<category> | bias`.
        bf16: compute in bfloat16 where that is safe (autocast): faster on a GPU, less exact.
        rows_per_part: images in a part, for a run that is killed loses the one in work.
        progress: whether to show a bar.

    Raises:
        CheckpointError: the parts there belong to another detector, other settings or another list of images.
        OutputError: `out` cannot be written; the parts stay, and a later run goes on. DataError: there are no images.
    """
    detector._fitted()
    out, device = Path(out), detector.backbone.device
    limits = {"batch_size": (batch_size, 1), "workers": (workers, 0), "rows_per_part": (rows_per_part, 1)}
    for name, (value, least) in limits.items():
        if value is not None and value < least:
            raise DataError(f"{name} is {value}: it must be at least {least}")
    processes = Processes(device)
    images, root, kept = listed(source, root)
    schema = columns(detector, explain)
    identity = {
        "detector": fingerprint(detector),
        "set of options": f"{explain} {bf16} {detector.bank.color} {schema.names}",
    }
    processes.from_main(lambda: begin(out, images, identity, rows_per_part, resume))
    parts = Parts.of(out)
    missing = parts.missing()
    processes.wait()  # all have seen the same parts, before the first new one is written
    mine = missing[processes.index :: processes.count]
    batches = Batches(parts, root, kept, detector.backbone.preprocess, detector.bank.color)
    loaded = loader(batches, mine, device, batch_size, workers, processes.count)
    total, hidden = sum(map(parts.size, mine)), not progress or not processes.main
    with tqdm(total=total, desc="images", unit="image", disable=hidden) as bar, reading(detector, bf16) as read:
        rows: list[dict] = []  # of the part in work, no more
        for part, names, problems, pixels in loaded:
            scored = _scored(detector, *read(pixels), explain) if len(pixels) else {}
            rows.append({"image": names, "error": problems, **scored})
            if sum(len(row["image"]) for row in rows) == parts.size(part):
                parts.write(part, _table(rows, schema), processes.index)
                rows = []
            bar.update(len(names))
    processes.wait()
    told = json.loads(processes.from_main(lambda: json.dumps(parts.join(about(detector, explain))).encode()))
    made = Counter(told["makers"][part] for part in missing)
    return Summary(
        out,
        parts.count,
        told["errors"],
        len(parts) - len(missing),
        tuple(made[i] for i in range(processes.count)),
        processes.index,
    )


@contextmanager
def reading(detector: SDMAD, bf16: bool = False) -> Iterator[Callable[[Tensor], tuple[np.ndarray, np.ndarray]]]:
    """Inside the block the adapters stand in the model; it gives the function that `SDMAD.features` is, for pixels.

    The function takes prepared pixels (N, 3, H, W) and returns z (N, S) and h (N, d). Where they do not fit into the
    memory, it halves the batch, and keeps to the smaller one.

    Raises:
        BackboneError: one image alone does not fit.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    backbone, most = detector.backbone, sys.maxsize
    text = detector.sign_embeddings_.T

    def read(pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        nonlocal most
        zs, hs, start = [], [], 0
        while start < len(pixels):
            piece = pixels[start : start + most]
            heard.clear()
            try:
                with torch.no_grad(), torch.autocast(backbone.device.type, torch.bfloat16, enabled=bf16):
                    u = backbone.image_features(piece.to(backbone.device, non_blocking=True)).float().cpu()
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                u = None
            if u is None:  # out of the except block, which keeps the activations alive
                if len(piece) == 1:
                    raise BackboneError(f"one image alone does not fit into the memory of {backbone.device}; use a CPU")
                most = len(piece) // 2
                clear_device_cache()
                continue
            zs.append((u @ text).double().numpy())
            hs.append(heard.pop().cpu().double().numpy())
            start += len(piece)
        return np.concatenate(zs), np.concatenate(hs)

    with installed(backbone, detector.adapters_), record_activations(backbone) as heard:
        yield read


def _terms(detector: SDMAD) -> list[tuple[str, int, int | None]]:
    """What sums to the logits: (column, category, sign), where -1 is the image evidence and None the bias."""
    out = []
    for c, category in enumerate(detector.bank.categories):
        out += [(f"{category} | {detector.bank.texts[s]}", c, int(s)) for s in np.flatnonzero(detector.weights_[c])]
        out += [(f"{category} | image evidence", c, -1), (f"{category} | bias", c, None)]
    return out


def columns(detector: SDMAD, explain: bool = False) -> pa.Schema:
    """The columns of the table that `score_archive` writes.

    Raises:
        OutputError: two of them have one name.
    """
    import pyarrow as pa

    fields = [("image", pa.string()), ("error", pa.string())]
    for category in detector.bank.categories:
        fields += [(category, pa.float64()), (f"{category}_called", pa.int8())]
    fields += [(name, pa.float64()) for name, _, _ in _terms(detector)] if explain else []
    names = [name for name, _ in fields]
    if twice := [name for name in names if names.count(name) > 1]:
        raise OutputError(f"two columns would be called {twice[0]!r}; rename that category in the bank")
    return pa.schema(fields)


def _scored(detector: SDMAD, z: np.ndarray, h: np.ndarray, explain: bool) -> dict[str, np.ndarray]:
    """Columns of scored images, from z (N, S) and h (N, d)."""
    probability = expit(detector.logits(z, h))
    out: dict[str, np.ndarray] = {}
    for c, category in enumerate(detector.bank.categories):
        out[category] = probability[:, c]
        out[f"{category}_called"] = (probability[:, c] >= detector.thresholds_[c]).astype(np.int8)
    if explain:
        by_image = detector.image_logits(h)
        for name, c, s in _terms(detector):
            if s is None:
                out[name] = np.full(len(z), detector.bias_[c])
            else:
                out[name] = by_image[:, c] if s < 0 else detector.scale_[c] * detector.weights_[c, s] * z[:, s]
    return out


def _table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    """Rows of a part; where an image has an error, every other column is empty."""
    import pyarrow as pa

    names, problems = ([value for row in rows for value in row[key]] for key in ("image", "error"))
    bad = np.array([problem is not None for problem in problems])
    arrays = [pa.array(names, pa.string()), pa.array(problems, pa.string())]
    for field in list(schema)[2:]:
        values = np.zeros(len(names), dtype=field.type.to_pandas_dtype())
        values[~bad] = np.concatenate([row[field.name] for row in rows if field.name in row] or [[]])
        arrays.append(pa.array(values, field.type, mask=bad))
    return pa.Table.from_arrays(arrays, schema=schema)


def fingerprint(detector: SDMAD) -> str:
    """Hash of all that decides a score."""
    detector._fitted()
    digest = hashlib.sha256(detector.backbone.fingerprint.encode() + detector.bank.model_dump_json().encode())
    state = {**detector.adapters_.state_dict(), "text_features": detector.sign_embeddings_}
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    digest.update(repr([adapter.lam for adapter in detector.adapters_.values()]).encode())
    for name in ("weights_", "scale_", "bias_", "image_weights_", "image_bias_", "thresholds_"):
        digest.update(np.ascontiguousarray(getattr(detector, name), dtype=np.float64))
    return digest.hexdigest()


def about(detector: SDMAD, explain: bool) -> dict:
    """What a reader of the table should know."""
    thresholds = dict(zip(detector.bank.categories, detector.thresholds_.tolist(), strict=True))
    return {"notice": NOTICE, "detector": fingerprint(detector), "thresholds": thresholds, "explain": explain}
