"""`sdmad evaluate`: score a detector by the three protocols on images that it has not seen."""

from __future__ import annotations

import argparse
from dataclasses import asdict

import numpy as np

from ..errors import DataError
from ..files import NOTICE
from .common import Answer, add_command, add_data, add_device, aligned, at_least, load_detector, read_table, remark


def add(commands) -> None:
    """Describe the command."""
    command = add_command(
        commands,
        "evaluate",
        evaluate,
        "score a detector by three protocols, with intervals, on images that it has not seen",
        "sdmad evaluate --detector build/detector --data data_samples/chest",
    )
    command.add_argument("--detector", required=True, help="folder that 'sdmad fit' or SDMAD.save wrote")
    add_data(command, split="test")
    command.add_argument(
        "--exclude-support", action="store_true", help="leave out images and patients that the detector was fitted on"
    )
    command.add_argument(
        "--resamples", type=int, default=200, help="of patients, for intervals; 0 for none (default 200)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the resamples (default 0)")
    command.add_argument("--out", help="JSON file to write as well")
    add_device(command)


def evaluate(args: argparse.Namespace) -> Answer:
    """The command."""
    import json

    from ..evaluation.protocols import PROTOCOLS, bootstrap, figure_text
    from ..evaluation.sealed import SealedTest
    from ..files import write_text

    at_least(args, resamples=0, seed=0)
    detector = load_detector(args)
    table = read_table(args, detector.bank.categories, others="leave out")
    table, remarks = unseen(args, table, detector.bank.color)
    if missing := [c for c in detector.bank.categories if c not in table.categories]:
        remarks.append(f"not scored, the data have no column for them: {', '.join(missing)}")
    if not table.has_patients:
        remarks.append(
            "the data name no patients: intervals take every image for another patient and may be too narrow"
        )
    if not table.labels.any() or table.labels.all():
        raise DataError(f"{args.data}: the images show none or all of the categories; give some with and some without")
    columns = [detector.bank.categories.index(c) for c in table.categories]
    cut = detector.thresholds_[columns]
    opened = SealedTest(table).open(
        {"detector": lambda images: detector.predict_proba(images, progress=not args.quiet)[:, columns]},
        {"detector": cut},
    )
    given = opened.scores["detector"], table.labels, table.categories, cut, table.patients()
    result = bootstrap(*given, args.resamples, args.seed, progress=not args.quiet)
    for line in remarks:
        remark(args, f"note: {line}")
    data = {"detector": args.detector, "images": len(table), **asdict(result)}
    data |= {"patients": len(np.unique(table.patients())), "remarks": remarks, "notice": NOTICE}
    if args.out:
        write_text(args.out, json.dumps(data, indent=1, allow_nan=False) + "\n")
    rows = [["protocol", "category", "AUROC", "AP", "positives", "negatives"]]
    for protocol in PROTOCOLS:
        for name, row in result.rows(protocol):
            cells = [figure_text(*(getattr(end, figure) for end in row)) for figure in ("auroc", "ap")]
            rows.append([protocol, name, *cells, str(row[0].positives), str(getattr(row[0], "negatives", ""))])
    macro = [(name, [getattr(end, name) for end in result.macro()]) for name in ("f1", "exact_match", "ranking_loss")]
    more = ", ".join(f"{name.replace('_', ' ')} {figure_text(*ends)}" for name, ends in macro)
    return Answer(data, f"{aligned(rows)}\n\nmultilabel, macro: {more}\n{len(table)} images\n{NOTICE}")


def unseen(args: argparse.Namespace, table, color: bool):
    """The table without what the detector was fitted on, and what there is to say about it.

    Raises:
        DataError: images of the support set are among them and were not excluded.
    """
    from ..evaluation.seen_images import find_seen

    found = find_seen(args.detector, table, color)
    if found is None:
        return table, [f"{args.detector} does not say what it was fitted on; overlap with these images is unchecked"]
    count, patients = int(found.images.sum()), int((found.patients & ~found.images).sum())
    if args.exclude_support:
        keep = np.flatnonzero(~(found.images | found.patients))
        if not len(keep):
            raise DataError(f"{args.data}: the detector was fitted on all of these images or patients; give others")
        return table.rows(keep), [f"{len(table) - len(keep)} images of the support set's patients are left out"]
    if count:
        first = table.images[int(np.argmax(found.images))]
        name = f", {first} first" if not isinstance(first, np.ndarray) else ""
        raise DataError(
            f"{args.data}: the detector was fitted on {count} of these images{name}; give other images, "
            "or leave these out with --exclude-support"
        )
    if patients:
        return table, [f"{patients} images are of patients of the support set; leave them out with --exclude-support"]
    return table, []
