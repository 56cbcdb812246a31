"""`sdmad predict`: for each image and category the probability, the decision, and the signs that made it.

Without --out a few images are explained on stdout, a row for each image and category. With --out each image is a row
with its probabilities, and a broken one a row with an error: `scoring.score_archive` writes any number of them to a
folder of Parquet parts, to be continued after a stop; a .csv or .jsonl file is for what fits into memory. A .json
file holds what --json prints.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import NOTICE, is_main, world
from .common import Answer, add_command, add_data, add_device, aligned, at_least, load_detector, read_table, remark

FORMATS = (".parquet", ".csv", ".jsonl")
"""With a row for each image."""

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
    command.add_argument("--out", help="to write: .parquet (a folder), .csv or .jsonl, a row per image; or .json")
    command.add_argument("--format", choices=("table", "csv"), default="table", help="of stdout (default table)")
    command.add_argument("--maps", metavar="DIR", help="folder of heat maps, a picture per image and category detected")
    command.add_argument("--scores-only", action="store_true", help="leave the parts of the signs out of --out")
    command.add_argument("--restart", action="store_true", help="score all of --out again, whatever a stopped run left")
    command.add_argument("--batch-size", type=int, help="images at a time (default 32, on an accelerator 128)")
    command.add_argument("--workers", type=int, help="processes that read images for --out (default: by the machine)")
    add_device(command)


def predict(args: argparse.Namespace) -> Answer:
    """The command."""
    at_least(args, batch_size=1, workers=0)
    ending = Path(args.out).suffix.lower() if args.out else None
    if args.out and ending not in (*FORMATS, ".json"):
        raise DataError(f"--out {args.out}: end it in {', '.join(FORMATS)} or .json")
    if not args.images and not args.data:
        raise DataError("predict: no image is given; name files or folders, or a data set with --data")
    detector = load_detector(args)
    source, root = given_images(args, detector.bank.categories)
    if ending in FORMATS and not args.maps:
        return _archive(args, detector, source, root)
    named = _named(source, root)
    rows = score(detector, named, args)
    if args.maps:
        draw_maps(args.maps, detector, named, rows)
    data = {"detector": args.detector, "images": len(named), "predictions": rows, "notice": NOTICE}
    if ending in FORMATS:
        return _archive(args, detector, source, root)
    if args.out:
        from ..files import write_text

        write_text(args.out, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        data = {name: value for name, value in data.items() if name != "predictions"}
        data["out"] = str(Path(args.out).resolve())
        return Answer(data, f"{len(named)} images: {data['out']}\n{NOTICE}")
    if args.format == "csv":
        remark(args, NOTICE)
    return Answer(data, _csv(rows) if args.format == "csv" else _table(rows))


def given_images(args: argparse.Namespace, categories) -> tuple[object, Path | None]:
    """What `score_archive` takes: a folder, a table or a list of images, and the folder that names are relative to.

    The labels of --data do not count here; a folder without labels.csv is searched for images at any depth.
    """
    from ..data import walk_images

    given = [Path(image) for image in args.images]
    if args.data:
        folder = Path(args.data)
        if given:
            raise DataError("predict: give images or --data, not both")
        if folder.is_dir() and not args.dataset and not (folder / "labels.csv").exists():
            return folder, folder
        table = read_table(args, categories, others="keep")
        return table, folder if folder.is_dir() else None
    found = []
    for path in given:
        inside = list(walk_images(path)) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: holds no image; name files, or a folder that holds some")
        found += inside
    return found, None


def _named(source, root: Path | None) -> dict[str, object]:
    """Name -> image, for a few images."""
    from ..deployment.scoring import listed

    return dict(listed(source, root))


def _archive(args: argparse.Namespace, detector, source, root: Path | None) -> Answer:
    """Exit code 1 where an image could not be read, for a single process."""
    from ..deployment.scoring import about, score_archive, score_table

    shown = {"root": root, "explain": not args.scores_only, "progress": not args.quiet}
    if Path(args.out).suffix.lower() == ".parquet":
        run = {"batch_size": args.batch_size, "workers": args.workers, "resume": not args.restart}
        done = score_archive(detector, source, args.out, **run, **shown)
        images, errors = done.images, done.errors
    elif is_main():
        rows = score_table(detector, source, **shown)
        images, errors = len(rows), sum(row["error"] is not None for row in rows)
        _write_rows(Path(args.out), rows, about(detector))
    if not is_main():  # the first of several processes speaks for all
        return Answer({}, "")
    out = str(Path(args.out).resolve())
    text = f"{images} images: {out}\n"
    if errors:
        text += f"{errors} of them could not be read: see the column error\n"
    data = {"detector": args.detector, "images": images, "errors": errors, "out": out, "notice": NOTICE}
    code = int(errors > 0 and world()[1] == 1)  # a launcher would take it for a failure and stop the others
    return Answer(data, text + NOTICE, code)


def _write_rows(out: Path, rows: list[dict], about: dict) -> None:
    """As .csv or .jsonl, and beside it what belongs to the scores."""
    from ..files import new_file, write_text

    with new_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        if out.suffix.lower() == ".csv":
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(out.with_name(out.name + ".about.json"), json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def score(detector, named: dict[str, object], args: argparse.Namespace) -> list[dict]:
    """A row for each image and category; contributions, image evidence and bias sum to the logit."""
    from tqdm import tqdm

    from ..explain import explanation_of

    size = args.batch_size or 32
    names, images, rows = list(named), list(named.values()), []
    for start in tqdm(range(0, len(images), size), desc="images", disable=args.quiet, leave=False):
        z, h = detector.features(images[start : start + size])
        for name, cosines, evidence in zip(names[start : start + size], z, h, strict=True):
            rows += [_row(name, e) for e in explanation_of(detector, cosines, evidence)]
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
    from ..show.plots import plot_sign_maps, to_png

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
        content = json.dumps({"maps": index, "notice": NOTICE}, indent=1, ensure_ascii=False)
        (temporary / "maps.json").write_text(content, encoding="utf-8")


def _csv(rows: list[dict]) -> str:
    """Signs in one cell, "text +1.23; text -0.12"."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "detected": int(row["detected"]), "signs": _signs(row, len(row["signs"]))})
    return stream.getvalue().rstrip("\n")


def _signs(row: dict, most: int) -> str:
    return "; ".join(f"{sign['text']} {sign['contribution']:+.2f}" for sign in row["signs"][:most])


def _table(rows: list[dict]) -> str:
    lines = [["image", "category", "probability", "threshold", "decision", "signs that speak most for it"]]
    for row in rows:
        decision = "detected" if row["detected"] else ""
        numbers = [f"{row['probability']:.3f}", f"{row['threshold']:.3f}"]
        lines.append([row["image"], row["category"], *numbers, decision, _signs(row, 2)])
    maps = [f"heat map: {row['map']}" for row in rows if row["map"]]
    return "\n".join([aligned(lines), *maps, NOTICE])
