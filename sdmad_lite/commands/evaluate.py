"""`sdmad evaluate`: score a detector by the three protocols on images that it has not seen."""

from __future__ import annotations

import argparse

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

    from ..evaluation.protocols import PROTOCOLS
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
    result = with_intervals(opened.results["detector"], opened.scores["detector"], table, cut, args)
    for line in remarks:
        remark(args, f"note: {line}")
    data = {"detector": args.detector, "images": len(table), **{p: result[p] for p in PROTOCOLS}}
    data |= {"patients": len(np.unique(table.patients())), "remarks": remarks, "notice": NOTICE}
    if args.out:
        write_text(args.out, json.dumps(data, indent=1, allow_nan=False) + "\n")
    rows = [["protocol", "category", "AUROC", "AP", "positives", "negatives"]]
    for protocol in PROTOCOLS:
        for name, row in result[protocol].items():
            negatives = str(row.get("negatives", ""))
            rows.append([protocol, name, _cell(row, "auroc"), _cell(row, "ap"), str(row["positives"]), negatives])
    macro = result["multilabel"]["macro"]
    more = ", ".join(f"{name.replace('_', ' ')} {_cell(macro, name)}" for name in ("f1", "exact_match", "ranking_loss"))
    return Answer(data, f"{aligned(rows)}\n\nmultilabel, macro: {more}\n{len(table)} images\n{NOTICE}")


def unseen(args: argparse.Namespace, table, color: bool):
    """The table without what the detector was fitted on, and what there is to say about it.

    Raises:
        DataError: images of the support set are among them and were not excluded.
    """
    from ..evaluation.seen_images import overlap

    found = overlap(args.detector, table, color)
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


def with_intervals(result: dict, scores: np.ndarray, table, cut: np.ndarray, args: argparse.Namespace) -> dict:
    """`protocols.evaluate` with `<figure>_interval`: 95 % percentile bootstrap over patients.

    [ours] It speaks of other patients for the same detector; `sdmad run` gives intervals over support draws.
    A figure gets an interval where at least nine resamples in ten have it.
    """
    from sklearn import config_context
    from tqdm import tqdm

    from ..evaluation.protocols import evaluate as score

    patients = np.unique(table.patients(), return_inverse=True)[1]
    rows_of = np.split(np.argsort(patients, kind="stable"), np.cumsum(np.bincount(patients))[:-1])
    rng, drawn = np.random.default_rng(args.seed), []
    for _ in tqdm(range(args.resamples), desc="resamples", disable=args.quiet, leave=False):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])
        with config_context(assume_finite=True, skip_parameter_validation=True):  # checked once, on all images
            drawn.append(score(scores[rows], table.labels[rows], table.categories, cut))
    out: dict = {}
    for protocol, named_rows in result.items():
        for name, row in named_rows.items():
            new = out.setdefault(protocol, {}).setdefault(name, dict(row))
            for figure, value in row.items():
                values = [d[protocol][name].get(figure) for d in drawn]
                values = [v for v in values if v is not None]
                if isinstance(value, float):
                    enough = drawn and len(values) >= 0.9 * len(drawn)
                    new[f"{figure}_interval"] = np.percentile(values, [2.5, 97.5]).tolist() if enough else None
    return out


def _cell(row: dict, figure: str) -> str:
    if row.get(figure) is None:
        return "n/a"
    interval = row.get(f"{figure}_interval")
    return f"{row[figure]:.3f}" + (" [{:.3f}, {:.3f}]".format(*interval) if interval else "")
