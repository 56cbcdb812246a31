"""`sdmad predict`: for each image and category the probability, the decision, and the signs that made it."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from pathlib import Path

import numpy as np

from ..errors import DataError
from .common import (
    Answer,
    add_command,
    add_data,
    add_device,
    aligned,
    at_least,
    load_detector,
    new_file,
    notice,
    read_table,
    remark,
)

FORMATS = ("csv", "json", "parquet")
MAPPED = 3
"""Signs with a heat map in one picture."""


def add(commands) -> None:
    """Describe the command."""
    command = add_command(
        commands,
        "predict",
        predict,
        "score images: probability, threshold, decision and selected signs of each category",
        "sdmad predict --detector build/detector data_samples/chest/images/0000.png --maps build/maps",
    )
    command.add_argument("images", nargs="*", metavar="IMAGE", help="image or DICOM file, or a folder of them")
    command.add_argument("--detector", required=True, help="folder that 'sdmad fit' or SDMAD.save wrote")
    add_data(command, split="all", required=False)
    command.add_argument("--out", help="file to write, by its ending: .csv, .json or .parquet")
    command.add_argument("--format", choices=FORMATS, help="form of --out, or of stdout without --out")
    command.add_argument(
        "--maps", metavar="DIR", help="folder of heat maps, one picture for each category detected in an image"
    )
    command.add_argument("--batch-size", type=int, default=64, help="images at a time (default 64)")
    add_device(command)


def predict(args: argparse.Namespace) -> Answer:
    """The command."""
    at_least(args, batch_size=1)
    form = args.format or (Path(args.out).suffix.removeprefix(".").lower() if args.out else None)
    if args.out and form not in FORMATS:
        raise DataError(f"--out {args.out}: end it in .csv, .json or .parquet, or say which with --format")
    if form == "parquet" and not args.out:
        raise DataError("--format parquet: cannot be printed; name a file with --out")
    if not args.images and not args.data:
        raise DataError("predict: no image is given; name files or folders, or a data set with --data")
    detector = load_detector(args)
    named = given_images(args, detector.bank.categories)
    rows = score(detector, named, args)
    if args.maps:
        draw_maps(args.maps, detector, named, rows)
    data = {"detector": args.detector, "images": len(named), "predictions": rows, "notice": notice()}
    if args.out:
        with new_file(args.out) as temporary:
            _write(temporary, form, data)
        data = {name: value for name, value in data.items() if name != "predictions"}
        data["out"] = str(Path(args.out).resolve())
        return Answer(data, f"{len(named)} images: {data['out']}\n{notice()}")
    if form == "csv":
        remark(args, notice())
        return Answer(data, _csv(rows).rstrip("\n"))
    return Answer(data, json.dumps(data, indent=1, ensure_ascii=False) if form == "json" else _table(rows))


def given_images(args: argparse.Namespace, categories) -> dict[str, object]:
    """Name -> image: the files named, those below the folders named, and the rows of --data."""
    from ..data.dicom import is_dicom
    from ..data.images import ENDINGS

    found: dict[str, object] = {}
    for given in args.images:
        path = Path(given)
        if not path.is_dir():
            found[given] = path
            continue
        files = [p for p in sorted(path.rglob("*")) if p.is_file()]
        inside = [p for p in files if p.suffix.lower() in ENDINGS or is_dicom(p)]
        if not inside:
            raise DataError(f"{path}: holds no image; name files, or a folder that holds some")
        found |= {p.as_posix(): p for p in inside}
    if args.data:
        for i, image in enumerate(read_table(args, categories).images):
            found[Path(image).as_posix() if isinstance(image, (str, Path)) else f"{args.data} row {i}"] = image
    return found


def score(detector, named: dict[str, object], args: argparse.Namespace) -> list[dict]:
    """A row for each image and category; contributions, image evidence and bias sum to the logit."""
    from tqdm import tqdm

    from ..explain import explanations

    names, images, rows = list(named), list(named.values()), []
    for start in tqdm(range(0, len(images), args.batch_size), desc="images", disable=args.quiet, leave=False):
        z, h = detector.features(images[start : start + args.batch_size])
        for name, cosines, evidence in zip(names[start : start + args.batch_size], z, h, strict=True):
            rows += [_row(name, e) for e in explanations(detector, cosines, evidence)]
    return rows


def _row(name: str, explanation) -> dict:
    own = sorted((s for s in explanation.signs if s.weight > 0), key=lambda s: -s.contribution)
    return {
        "image": name,
        "category": explanation.category,
        "probability": explanation.probability,
        "threshold": explanation.threshold,
        "detected": explanation.probability >= explanation.threshold,
        "logit": explanation.logit,
        "signs": [{"text": s.text, "weight": s.weight, "contribution": s.contribution} for s in own],
        "normal_signs": float(sum(s.contribution for s in explanation.signs if s.normal)),
        "image_evidence": explanation.image,
        "bias": explanation.bias,
        "map": None,
    }


def draw_maps(folder: str, detector, named: dict[str, object], rows: list[dict]) -> None:
    """Heat maps of the signs that speak most for each detected category; where none is, for the likeliest one."""
    from ..data import read_image
    from ..files import new_folder
    from ..plots import plot_sign_maps, to_png

    texts, index = detector.bank.texts, {}
    categories = len(detector.bank.categories)
    with new_folder(folder, "maps.json") as temporary:
        for number, (name, image) in enumerate(named.items()):
            own = rows[number * categories : (number + 1) * categories]
            shown = [row for row in own if row["detected"]] or [max(own, key=lambda row: row["probability"])]
            maps, picture = detector.sign_maps(image), np.asarray(read_image(image, detector.bank.color))
            for row in shown:
                best = [sign["text"] for sign in row["signs"][:MAPPED]]
                file = f"{number:04d} {Path(name).stem} {row['category']}.png"
                file = re.sub(r"[^\w.-]+", "_", file)
                figure = plot_sign_maps(picture, {text: maps[texts.index(text)] for text in best})
                (temporary / file).write_bytes(to_png(figure))
                row["map"] = str(Path(folder) / file)
                index[file] = {"image": name, "category": row["category"], "signs": best}
        content = json.dumps({"maps": index, "notice": notice()}, indent=1, ensure_ascii=False)
        (temporary / "maps.json").write_text(content, encoding="utf-8")


def _write(path: Path, form: str, data: dict) -> None:
    if form == "csv":
        path.write_text(_csv(data["predictions"]), encoding="utf-8", newline="")
    elif form == "json":
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sign = pa.struct([("text", pa.string()), ("weight", pa.float64()), ("contribution", pa.float64())])
        kinds = {"image": pa.string(), "category": pa.string(), "detected": pa.bool_(), "signs": pa.list_(sign)}
        kinds |= {"map": pa.string()}
        rows = data["predictions"]
        schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in rows[0]], {"notice": data["notice"]})
        pq.write_table(pa.Table.from_pylist(rows, schema), path)


def _csv(rows: list[dict]) -> str:
    """Signs in one cell, "text +1.23; text -0.12"."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "detected": int(row["detected"]), "signs": _signs(row, len(row["signs"]))})
    return stream.getvalue()


def _signs(row: dict, most: int) -> str:
    return "; ".join(f"{sign['text']} {sign['contribution']:+.2f}" for sign in row["signs"][:most])


def _table(rows: list[dict]) -> str:
    lines = [["image", "category", "probability", "threshold", "decision", "signs that speak most for it"]]
    for row in rows:
        decision = "detected" if row["detected"] else ""
        numbers = [f"{row['probability']:.3f}", f"{row['threshold']:.3f}"]
        lines.append([row["image"], row["category"], *numbers, decision, _signs(row, 2)])
    maps = [f"heat map: {row['map']}" for row in rows if row["map"]]
    return "\n".join([aligned(lines), *maps, notice()])
