"""What the commands share: their arguments, the data and detectors that these name, and how an answer is shown."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from ..signs.bank import shipped_banks

if TYPE_CHECKING:
    from ..data import ImageTable
    from ..detector import SDMAD


@dataclass(frozen=True)
class Answer:
    """Result of a command.

    data: plain values, printed by --json. text: the same for people. code: exit code, 1 where a check found something.
    """

    data: dict
    text: str
    code: int = 0


def output_options() -> argparse.ArgumentParser:
    """--json and --quiet, which may stand before or after the command."""
    options = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    options.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    options.add_argument("--quiet", action="store_true", help="no progress bars and no remarks on stderr")
    return options


def add_command(commands, name: str, function: Callable, what: str, example: str) -> argparse.ArgumentParser:
    """A subparser with its help, its example and the function that it runs."""
    command = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[output_options()],
    )
    command.set_defaults(run=function)
    return command


def add_data(command: argparse.ArgumentParser, split: str | None, required: bool = True) -> None:
    """--data and what says how to read it; `split` names the rows that are used unless told otherwise."""
    command.add_argument(
        "--data",
        required=required,
        help="a folder with labels.csv or with a subfolder per class (images may be DICOM), or a .npz file",
    )
    command.add_argument("--dataset", metavar="NAME", help="--data holds this public set, see 'sdmad data list'")
    command.add_argument("--normal", metavar="CLASS", help="class of the normal images (default: recognised)")
    command.add_argument("--names", help="comma-separated names of the classes of a .npz, by number")
    if split:
        choices = ("train", "val", "test", "all")
        what = f"rows to use, where the data have a split (default {split})"
        command.add_argument("--split", choices=choices, help=what)
    command.set_defaults(usual_split=split)


def add_signs(command: argparse.ArgumentParser, required: bool = True) -> None:
    """--signs."""
    shipped = ", ".join(shipped_banks())
    command.add_argument("--signs", required=required, help=f"sign bank: a JSON file, or {shipped}")


def add_backbone(command: argparse.ArgumentParser) -> None:
    """--backbone, --pretrained and --device."""
    command.add_argument("--backbone", default="embedded", help="'embedded' or an open_clip name (default embedded)")
    command.add_argument("--pretrained", help="weights for another open_clip name: tag, file or 'random'")
    add_device(command)


def add_device(command: argparse.ArgumentParser) -> None:
    """--device."""
    command.add_argument("--device", help="cpu, cuda, ... (default: an accelerator if there is one)")


def remark(args: argparse.Namespace, text: str) -> None:
    """A line on stderr, which --quiet leaves out."""
    if not args.quiet:
        print(text, file=sys.stderr)


def read_table(args: argparse.Namespace, categories: Sequence[str], others: str = "refuse") -> ImageTable:
    """The rows of --data that --split asks for, with those of the categories that the data have.

    Args:
        others: what becomes of further categories, which data have where a detector was fitted on some of them:
            "refuse"; "leave out", with a remark, images that show nothing but those; or "keep" all as it stands,
            where labels do not count.
    """
    from ..data import load_data
    from ..data.names import plain

    if args.dataset:
        from sdmad_datasets import load_dataset

        table, others = load_dataset(args.dataset, args.data), "keep" if others == "keep" else "leave out"
    else:
        names = [name.strip() for name in args.names.split(",")] if args.names else None
        listed = Path(args.data).suffix.lower() == ".npz"  # its classes have only numbers
        table = load_data(args.data, categories if listed or others == "refuse" else None, args.normal, names)
    if others == "leave out":
        before, known = len(table), {plain(c): c for c in categories}
        table = replace(table, categories=tuple(known.get(plain(c), c) for c in table.categories))
        table = table.restricted([c for c in categories if c in table.categories])
        if not table.categories:
            raise DataError(
                f"{args.data}: has none of the categories {', '.join(categories)}; choose another sign bank or detector"
            )
        if len(table) < before:
            remark(args, f"left out: {before - len(table)} images that show other findings alone")
    return only_split(args, table) if args.usual_split else table


def only_split(args: argparse.Namespace, table: ImageTable) -> ImageTable:
    """Rows of the split that was asked for; all rows where the data have none."""
    split = args.split or args.usual_split
    if split == "all" or ("split" not in table.meta and not args.split):
        return table
    if "split" not in table.meta:
        raise DataError(f"--split {split}: {args.data} has no split column; leave the option out, or write one")
    part = table.part(split)
    if not len(part):
        raise DataError(f"{args.data}: has no {split} images; say which to use with --split")
    return part


def load_detector(args: argparse.Namespace) -> SDMAD:
    """The detector that --detector names."""
    from ..detector import SDMAD

    return SDMAD.load(args.detector, device=args.device)


def named(option: str, text: str, known: Sequence[str], what: str) -> list[str]:
    """Comma-separated names, each of which has to be known."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise DataError(f"{option}: {name!r} is not {what}; it has {', '.join(known)}")
    return names


def at_least(args: argparse.Namespace, **limits: int) -> None:
    """Refuse a number under its limit, by the option's name."""
    for name, least in limits.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise DataError(f"--{name.replace('_', '-')} is {value}: it must be at least {least}")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text in columns; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def show(answer: Answer, as_json: bool) -> None:
    """Print an answer, if there is one: of several processes only the first has it."""
    if as_json and answer.data:
        print(json.dumps(answer.data, indent=1, ensure_ascii=False, allow_nan=False))
    elif answer.text and not as_json:
        print(answer.text)
    sys.stdout.flush()
