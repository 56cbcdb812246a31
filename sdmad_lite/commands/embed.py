"""`sdmad embed`: embeddings of images and signs, before and after the adapters, for one's own plots."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DataError, SDMADError
from ..files import new_file
from .common import Answer, add_backbone, add_command, add_data, load_detector, read_table


def add(commands) -> None:
    """Describe the command."""
    command = add_command(
        commands,
        "embed",
        embed,
        "write embeddings of images and signs, before and after the adapters",
        "sdmad embed --detector build/detector --data data_samples/chest --out build/embeddings.npz",
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--detector", help="folder that 'sdmad fit' or SDMAD.save wrote")
    which.add_argument("--signs", help="sign bank; the frozen model alone, nothing after adapters")
    add_data(command, split="all")
    command.add_argument("--out", required=True, help="file to write: .npz (arrays) or .parquet (a row per embedding)")
    add_backbone(command)


def embed(args: argparse.Namespace) -> Answer:
    """The command."""
    from ..alignment import installed
    from ..clip.backbone import load_clip
    from ..signs.bank import load_bank

    out = Path(args.out)
    if out.suffix not in WRITERS:
        raise DataError(f"--out {args.out}: end it in .npz or .parquet, the two forms there are")
    if args.detector and (args.backbone != "embedded" or args.pretrained):
        raise SDMADError("--backbone: a detector names its own backbone; leave --backbone and --pretrained out")
    detector = load_detector(args) if args.detector else None
    bank = detector.bank if detector else load_bank(args.signs)
    backbone = detector.backbone if detector else load_clip(args.backbone, args.pretrained, args.device)
    table = read_table(args, bank.categories, others="leave out")
    given = {"images": table.images, "color": bank.color, "progress": not args.quiet}
    arrays = {"image": backbone.encode_images(**given), "sign": backbone.encode_texts(bank.texts)}
    if detector:
        with installed(backbone, detector.adapters_):
            arrays["image_adapted"] = backbone.encode_images(**given)
        arrays["sign_adapted"] = detector.sign_embeddings_
    arrays = {name: value.float().numpy() for name, value in arrays.items()}
    with new_file(out) as temporary:
        WRITERS[out.suffix](temporary, arrays, image_ids(table.images, args.data), table, bank)
    data = {
        "out": str(out.resolve()),
        "images": len(table),
        "signs": len(bank.texts),
        "width": arrays["image"].shape[1],
        "arrays": sorted(arrays),
    }
    return Answer(data, f"{len(table)} images and {len(bank.texts)} signs, {data['width']} numbers each: {data['out']}")


def image_ids(images, source: str) -> list[str]:
    """A name for each image: its path below the data, or its row."""
    base = Path(source)
    return [
        (Path(image).relative_to(base) if Path(image).is_relative_to(base) else Path(image)).as_posix()
        if isinstance(image, (str, Path))
        else f"row {i}"
        for i, image in enumerate(images)
    ]


def _npz(path: Path, arrays: dict, ids: list[str], table, bank) -> None:
    import numpy as np

    with path.open("wb") as stream:
        np.savez_compressed(
            stream,
            **arrays,
            image_id=np.array(ids),
            labels=table.labels,
            categories=np.array(table.categories),
            sign_text=np.array(bank.texts),
            membership=bank.membership(),
            membership_rows=np.array(["normal", *bank.categories]),
        )


def _parquet(path: Path, arrays: dict, ids: list[str], table, bank) -> None:
    """A row per image and sign: kind, id, its categories, and a list of numbers before and after the adapters."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shown = [[c for c, y in zip(table.categories, row, strict=True) if y] for row in table.labels]
    owners = [list(sign.categories) for sign in bank.signs] + [["normal"]] * len(bank.normal_signs)
    columns = {
        "kind": ["image"] * len(ids) + ["sign"] * len(bank.texts),
        "id": ids + bank.texts,
        "categories": shown + owners,
        "frozen": [*arrays["image"], *arrays["sign"]],
    }
    if "image_adapted" in arrays:
        columns["adapted"] = [*arrays["image_adapted"], *arrays["sign_adapted"]]
    pq.write_table(pa.table(columns), path)


WRITERS = {".npz": _npz, ".parquet": _parquet}
