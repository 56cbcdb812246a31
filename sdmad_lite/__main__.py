"""Command line: `python -m sdmad_lite run --data DIR --signs FILE --shots 16 --seed 0 --out DIR`.

Fits SD-MAD on support sets from a folder of images with a labels.csv, scores the test images by the
three protocols beside other methods, and writes metrics.json, signs.json, report.html and the detector.
For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .data import load_folder, split_train_test
from .errors import DataError, SDMADError
from .files import new_folder
from .signs import load_bank, shipped_banks


def run(args: argparse.Namespace) -> None:
    """The `run` command."""
    from .backbone import load_clip
    from .experiment import OURS, eligible, run_experiment
    from .report import write_report

    if args.draws < 1:
        raise DataError(f"--draws is {args.draws}: it must be at least 1")
    if args.seed < 0:
        raise DataError(f"--seed is {args.seed}: it must be at least 0")
    bank = load_bank(args.signs)
    table = load_folder(args.data, bank.categories)
    if args.categories:
        table = table.restricted(_named(args.categories, table.categories))
    train, test = split_train_test(table, args.seed)
    left_out = {} if args.categories else eligible(train, test, args.shots, args.min_positives)
    kept = [c for c in table.categories if c not in left_out]
    for category, why in left_out.items():
        print(f"left out: {category} ({why})")
    if not kept:
        raise DataError(f"{args.data}: no category has enough positives; lower --shots or --min-positives")
    train, test = train.restricted(kept), test.restricted(kept)
    unused = len(table) - len(train) - len(test)
    if not any(0 < positives < len(test) for positives in test.labels.sum(0)):
        raise DataError(f"{args.data}: the test images show none or all of {', '.join(kept)}; nothing can be scored")
    backbone = load_clip(args.backbone, args.pretrained, args.device)
    seeds = range(args.seed, args.seed + args.draws)
    with new_folder(args.out, "metrics.json") as folder:
        experiment = run_experiment(train, test, bank.restricted(kept), backbone, args.shots, seeds, progress=True)
        write_report(folder, experiment, Path(args.data).resolve().name, len(train), left_out, unused)
    macro = experiment.mean(OURS)["multilabel"]["macro"]
    interval = " [{:.3f}, {:.3f}]".format(*macro["ap_interval"]) if macro["ap_interval"] else ""
    print(f"mAP {macro['ap']:.3f}{interval} over {macro['categories']} categories, {args.draws} draws")
    print("For teaching and research; not for clinical use.")
    print(f"report: {Path(args.out).resolve() / 'report.html'}")


def _named(text: str, known: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise DataError(f"--categories: {name!r} is not a column of the data; it has {', '.join(known)}")
    return names


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, or 2 after bad input."""
    parser = argparse.ArgumentParser(prog="python -m sdmad_lite", description=__doc__.split("\n\n")[1])
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "run",
        help="fit, select, evaluate and report on a folder of images",
        epilog="example: python -m sdmad_lite run --data data_samples/chest --signs chest_phantoms --out report",
    )
    command.add_argument("--data", required=True, help="folder with labels.csv and images")
    command.add_argument("--signs", required=True, help=f"sign bank: a JSON file, or {', '.join(shipped_banks())}")
    command.add_argument("--out", required=True, help="folder to write; an earlier report there is replaced")
    command.add_argument("--shots", type=int, default=16, help="positives per category (default 16)")
    command.add_argument("--seed", type=int, default=0, help="of the first support draw (default 0)")
    command.add_argument("--draws", type=int, default=5, help="support draws (default 5)")
    command.add_argument("--categories", help="comma-separated columns to use (default: all with enough positives)")
    command.add_argument(
        "--min-positives",
        type=int,
        default=15,
        help="positives that a category needs in train and in test (default 15)",
    )
    command.add_argument("--backbone", default="embedded", help="'embedded' or an open_clip name")
    command.add_argument("--pretrained", help="weights for another open_clip name: tag, file or 'random'")
    command.add_argument("--device", help="cpu, cuda, ... (default: an accelerator if there is one)")
    command.set_defaults(run=run)
    args = parser.parse_args(argv)
    try:
        args.run(args)
        return 0
    except SDMADError as error:
        message = str(error)
    print(f"error: {message}", file=sys.stderr)  # out of the except block, where progress bars are closed
    return 2


if __name__ == "__main__":
    sys.exit(main())
