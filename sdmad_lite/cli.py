"""Command line: `sdmad`, or `python -m sdmad_lite`; the commands are in `commands.py`, and docs/cli.md shows each.

Exit codes: 0 fine; 1 a check found something; 2 bad input, with `error: ...` on stderr; 130 stopped by Ctrl-C, with
nothing half-written; 141 the reader of stdout went away. Results go to stdout, progress and remarks to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

import sdmad_lite as sd

from .errors import SDMADError, SDMADWarning
from .files import NOTICE, is_main

if TYPE_CHECKING:
    from .data import ImageTable

app = typer.Typer(
    help=f"Few-shot multi-anomaly detection in medical images by radiological signs. {NOTICE}",
    epilog="'sdmad COMMAND --help' shows the options of a command and an example.",
    add_completion=False,
    rich_markup_mode=None,
)
signs_app = typer.Typer(help="Sign banks: have one written by a language model, check one.", rich_markup_mode=None)
app.add_typer(signs_app, name="signs")

output = SimpleNamespace(json=False, quiet=False)
"""What --json and --quiet say; set anew by each call of the program."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from . import commands  # it adds them to the program

    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # --json and --quiet may stand before or after the command: bring them before it
        run_app(commands.app, "sdmad", sorted(words, key=lambda word: word not in ("--json", "--quiet")))
        return 0
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        print("\nstopped; nothing is half-written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `sdmad ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it at exit stays quiet
        return 141
    except typer.TyperException as error:  # wrong options
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "sdmad"
        message = f"{error.format_message().rstrip('.')}; see '{where} --help'"
    except SDMADError as error:
        message = str(error)
    print(f"error: {message}", file=sys.stderr)  # out of the except block, where progress bars are closed
    return 2


def run_app(program: typer.Typer, name: str, words: list[str]) -> None:
    """Run a command. Unlike calling the program, it sets no hook of the interpreter and lets every error pass."""
    group = typer.main.get_command(program)
    said, other = set(), warnings.showwarning

    def show(message, category, *where, **more):
        if not issubclass(category, SDMADWarning):
            other(message, category, *where, **more)
        elif str(message) not in said:
            said.add(str(message))
            remark(f"note: {message}")

    with group.make_context(name, words) as context, warnings.catch_warnings():
        warnings.simplefilter("always", SDMADWarning)
        warnings.showwarning = show
        group.invoke(context)


def answer(data: dict, text: str, code: int = 0) -> None:
    """End a command: the first process prints text for people, or with --json the plain values of `data`."""
    if is_main():
        print(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) if output.json else text, flush=True)
    if code:
        raise typer.Exit(code)


def remark(text: str) -> None:
    """A line on stderr, which --quiet leaves out."""
    if not output.quiet:
        print(text, file=sys.stderr)


def command(program: typer.Typer, name: str, example: str) -> Callable[[Callable], Callable]:
    """Add the function below as a command, whose help ends in the example."""
    return program.command(name, epilog=f"\b\nexample:\n  {example}")


def print_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        print(f"sdmad {sd.__version__}", flush=True)
        raise typer.Exit


@app.callback()
def options(
    as_json: Annotated[bool, Option("--json", help="print the result as one JSON object on stdout")] = False,
    quiet: Annotated[bool, Option("--quiet", help="no progress bars and no remarks on stderr")] = False,
    version: Annotated[bool, Option("--version", callback=print_version, is_eager=True, help="print it")] = False,
) -> None:
    """Take the options that every command knows."""
    output.json, output.quiet = as_json, quiet


def read_table(data, dataset, normal, names, categories, split=None, usual="all", others="refuse") -> ImageTable:
    """The rows of --data that --split asks for, or the usual ones where the data have a split.

    Categories beside these: "refuse"; "leave out" images that show nothing else; or "keep", where labels do not count.
    """
    if dataset:
        table, others = sd.load_dataset(dataset, data), "keep" if others == "keep" else "leave out"
    else:
        listed = Path(data).suffix.lower() == ".npz"  # its classes have only numbers
        table = sd.load_data(
            data, categories if listed or others == "refuse" else None, normal, parts_of(names) or None
        )
    if others == "leave out":
        before, table = len(table), table.matching(categories)
        if len(table) < before:
            remark(f"left out: {before - len(table)} images that show other findings alone")
    return table.part_or(usual, split)


def chosen(table: ImageTable, categories: str | None) -> ImageTable:
    """The table with the --categories, all where none is named."""
    return table.restricted(parts_of(categories)) if categories else table


def parts_of(text: str | None) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",")] if text else []
