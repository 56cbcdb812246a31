"""What commands answer with: rows for a program, lines for people, heat maps in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data import read_image
from ..deployment.sites import REMEDIES
from ..deployment.subgroups import MACRO, TOO_FEW, GroupFigure
from ..deployment.tables import csv_text
from ..evaluation.intervals import Interval, figure_text
from ..explain import explanation_of
from ..files import NOTICE, new_folder, write_text
from .plots import plot_sign_maps, to_png

if TYPE_CHECKING:
    from ..deployment.sites import SiteFigure
    from ..detector import SDMAD

MAPPED = 3  # signs in one picture of heat maps: the strongest of the category


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def signs_by_category(detector: SDMAD, positives: Mapping[str, int]) -> str:
    """The signs that each category trusts, with their weights, and how many were dropped."""
    lines = []
    for (category, signs), threshold in zip(detector.selected_signs().items(), detector.thresholds_, strict=True):
        lines.append(f"\n{category} ({positives[category]} positives, threshold {threshold:.3f})")
        lines += [f"  {sign.weight:6.3f}  {sign.text}" for sign in signs if sign.kept]
        if dropped := sum(not sign.kept for sign in signs):
            lines.append(f"  {dropped} dropped")
    return "\n".join(lines)


def scores_by_protocol(result: Interval) -> str:
    """AUROC and AP of each category in each protocol, with intervals, and the macro figures of the decisions."""
    rows = [["protocol", "category", "AUROC", "AP", "positives", "negatives"]]
    for protocol in result.mean.protocols():
        for name, row in result.rows(protocol):
            cells = [figure_text(*(getattr(end, figure) for end in row)) for figure in ("auroc", "ap")]
            rows.append([protocol, name, *cells, str(row[0].positives), str(getattr(row[0], "negatives", ""))])
    macro = [(name, [getattr(end, name) for end in result.macro()]) for name in ("f1", "exact_match", "ranking_loss")]
    more = ", ".join(f"{name.replace('_', ' ')} {figure_text(*ends)}" for name, ends in macro)
    return f"{aligned(rows)}\n\nmultilabel, macro: {more}"


def groups_text(rows: Sequence[GroupFigure]) -> str:
    """Means over categories, and each category that differs or is alone; a figure that is unknown says so."""
    lines = [["by", "group", "figure", "category", "patients without/with", "value", "less that of all", ""]]
    alone = len({row.category for row in rows}) == 1
    for row in rows:
        if alone or row.category == MACRO or row.verdict in ("higher", "lower"):
            less = "" if row.difference is None else figure_text(row.difference, *row.difference_interval, form="+.3f")
            cells = [row.by, row.group, row.figure, row.category, "/".join(map(str, row.patients))]
            lines.append([*cells, figure_text(row.value, *row.interval), less, row.verdict])
    return aligned(lines)


def decisions_text(rows: Sequence[Mapping]) -> str:
    """A row for each image and category, and an empty line; nothing where there is none."""
    head = ["image", "category", "probability", "answer", "alarm"]
    cells = [[r["image"], r["category"], f"{r['probability']:.3f}", r["answer"], "alarm" * r["alarm"]] for r in rows]
    return f"{aligned([head, *cells])}\n\n" if rows else ""


def promises_text(promises: Mapping[str, Mapping], level: float) -> str:
    """What `level` comes to for each category, for images with it and without it."""
    lines = [["category", "kind", "images", f"covered, for {level:g} asked (one in 20 below, above)"]]
    for category, kinds in promises.items():
        for kind, of in kinds.items():
            cover = figure_text(*of["cover"]) if of["cover"] else TOO_FEW
            lines.append([category, kind, str(of["images"]), cover])
    return aligned(lines)


def log_text(entries: Sequence[Mapping]) -> str:
    """A row for each entry of a memory, and whether it stands."""
    rows = [["entry", "at", "who", "kind", "about", ""]]
    for e in entries:
        what = ", ".join(e["about"]) or "normal" if e["image"] else str(e["about"])
        off = "" if e["stands"] or e["kind"] == "rollback" else "rolled back"
        rows.append([str(e["id"]), e["at"], e["who"], e["kind"], what, off])
    return aligned(rows)


def remedies_text(rows: Sequence[SiteFigure]) -> str:
    """What each remedy does to each figure at each site, and what it is."""
    lines = [["remedy", "at", "figure", "before", "after", "difference", "verdict"]]
    for row in rows:
        change = figure_text(row.after - row.before, *row.interval, form="+.3f")
        lines.append([row.remedy, row.site, row.figure, f"{row.before:.3f}", f"{row.after:.3f}", change, row.verdict])
    return "\n".join([aligned(lines), *(f"{name}: {what}" for name, what in REMEDIES.items())])


def explained_rows(detector: SDMAD, images: Mapping[str, object], progress: bool = False) -> list[dict]:
    """What `SDMAD.explain` says of each image (name -> image), as plain values: a row for each image and category.

    `signs` are the selected ones, first the one that speaks most for the category. Their contributions, `normal_signs`,
    `image_evidence` and `bias` sum to the logit. `map` is for `write_maps`.
    """
    rows = []
    cosines, activations = detector.features(list(images.values()), progress=progress)
    for name, z, h in zip(images, cosines, activations, strict=True):
        for e in explanation_of(detector, z, h):
            own = sorted((sign for sign in e.signs if sign.weight > 0), key=lambda sign: -sign.contribution)
            row = {"image": name, "category": e.category, "probability": e.probability, "threshold": e.threshold}
            row |= {"detected": e.detected, "logit": e.logit}
            row["signs"] = [{"text": s.text, "weight": s.weight, "contribution": s.contribution} for s in own]
            row["normal_signs"] = float(sum(sign.contribution for sign in e.signs if sign.normal))
            rows.append(row | {"image_evidence": e.image, "bias": e.bias, "map": None})
    return rows


def write_maps(folder: str | Path, detector: SDMAD, images: Mapping[str, object], rows: Sequence[dict]) -> None:
    """Draw where the signs of each detected category are seen; of the likeliest one where none is detected.

    Args:
        folder: to write; an earlier one of this function is replaced. maps.json in it says what each picture shows.
        rows: of `explained_rows`; `map` becomes the path of the picture.

    Raises:
        OutputError: the folder cannot be written, or holds something else.
    """
    texts, index = detector.bank.texts, {}
    with new_folder(folder, "maps.json") as temporary:
        for number, (name, image) in enumerate(images.items()):
            own = [row for row in rows if row["image"] == name]
            maps, picture = detector.sign_maps(image), np.asarray(read_image(image, detector.bank.color, strict=False))
            for row in [r for r in own if r["detected"]] or [max(own, key=lambda r: r["probability"])]:
                best = [sign["text"] for sign in row["signs"][:MAPPED]]
                file = re.sub(r"[^\w.-]+", "_", f"{number:04d} {Path(name).stem} {row['category']}.png")
                figure = plot_sign_maps(picture, {text: maps[texts.index(text)] for text in best})
                (temporary / file).write_bytes(to_png(figure))
                index[file] = {"image": name, "category": row["category"], "signs": best}
                row["map"] = str(Path(folder) / file)
        about = json.dumps({"maps": index, "notice": NOTICE}, indent=1, ensure_ascii=False)
        write_text(temporary / "maps.json", about)


def _signs_in_a_cell(row: Mapping, most: int | None = None) -> str:
    """The first signs of a row: "round opacity +1.23; small dense spot -0.12"."""
    return "; ".join(f"{sign['text']} {sign['contribution']:+.2f}" for sign in row["signs"][:most])


def explained_csv(rows: Sequence[Mapping]) -> str:
    """Rows as CSV, the signs in one cell."""
    cells = [{**row, "detected": int(row["detected"]), "signs": _signs_in_a_cell(row)} for row in rows]
    return csv_text(cells).rstrip("\n")


def explained_table(rows: Sequence[Mapping]) -> str:
    """Rows for people, with the two strongest signs of each category, and where heat maps lie."""
    lines = [
        [
            "image",
            "category",
            "probability",
            "threshold",
            "decision",
            "its strongest signs (0: as in a typical image of it)",
        ]
    ]
    for row in rows:
        cells = [row["image"], row["category"], f"{row['probability']:.3f}", f"{row['threshold']:.3f}"]
        lines.append([*cells, "detected" if row["detected"] else "", _signs_in_a_cell(row, 2)])
    return "\n".join([aligned(lines), *(f"heat map: {row['map']}" for row in rows if row["map"])])
