"""`sdmad run`: fit on support draws, score the test images beside other methods, and write a report."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ..errors import DataError
from ..files import NOTICE
from .common import Answer, add_backbone, add_command, add_data, add_signs, at_least, named, read_table, remark


def add(commands) -> None:
    """Describe the command."""
    command = add_command(
        commands,
        "run",
        run,
        "fit, select, evaluate and report on a folder of images",
        "sdmad run --data data_samples/chest --signs chest_phantoms --out build/report",
    )
    add_data(command, split=None)
    add_signs(command)
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
    add_backbone(command)


def run(args: argparse.Namespace) -> Answer:
    """The command."""
    from ..clip.backbone import load_clip
    from ..data import split_train_test
    from ..evaluation.experiment import BOTH_STAGES, eligible, run_experiment
    from ..evaluation.protocols import figure_text
    from ..files import new_folder
    from ..show.report import write_report
    from ..signs.bank import load_bank

    at_least(args, draws=1, seed=0)
    bank = load_bank(args.signs)
    table = read_table(args, bank.categories)
    if args.categories:
        table = table.restricted(named("--categories", args.categories, table.categories, "a column of the data"))
    train, test = split_train_test(table, args.seed)
    left_out = {} if args.categories else eligible(train, test, args.shots, args.min_positives)
    kept = [c for c in table.categories if c not in left_out]
    for category, why in left_out.items():
        remark(args, f"left out: {category} ({why})")
    if not kept:
        raise DataError(f"{args.data}: no category has enough positives; lower --shots or --min-positives")
    train, test = train.restricted(kept), test.restricted(kept)
    unused = len(table) - len(train) - len(test)
    if not any(0 < positives < len(test) for positives in test.labels.sum(0)):
        raise DataError(
            f"{args.data}: the test images show none or all of {', '.join(kept)}; nothing can be scored, give images "
            "with and without them"
        )
    backbone = load_clip(args.backbone, args.pretrained, args.device)
    seeds = range(args.seed, args.seed + args.draws)
    with new_folder(args.out, "metrics.json") as folder:
        experiment = run_experiment(
            train, test, bank.restricted(kept), backbone, args.shots, seeds, progress=not args.quiet
        )
        write_report(folder, experiment, Path(args.data).resolve().name, len(train), left_out, unused)
    macro = experiment.mean(BOTH_STAGES).macro()
    shown = figure_text(*(row.ap for row in macro))
    report = str(Path(args.out).resolve() / "report.html")
    text = f"mAP {shown} over {macro[0].categories} categories, {args.draws} draws\n"
    data = {
        "macro": {end: asdict(row) for end, row in zip(("mean", "low", "high"), macro, strict=True)},
        "left_out": left_out,
        "report": report,
        "notice": NOTICE,
    }
    return Answer(data, f"{text}{NOTICE}\nreport: {report}")
