"""Command line: `sdmad`, or `python -m sdmad_lite`; the commands are in `commands.py`, and docs/cli.md shows each.

Exit codes: 0 fine; 1 a check found something; 2 bad input, with `error: ...` on stderr; 130 stopped by Ctrl-C or
SIGTERM, with nothing half-written; 141 the reader of stdout went away. Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from inspect import Parameter, Signature, signature
from types import SimpleNamespace
from typing import Annotated, Any

import typer
from typer import Option

import sdmad_lite as sd

from .errors import SDMADError, SDMADWarning, noting
from .files import NOTICE, is_main, stopped_cleanly

app = typer.Typer(
    help=f"Few-shot multi-anomaly detection in medical images by radiological signs. {NOTICE}",
    epilog="'sdmad COMMAND --help' shows the options of a command and an example.",
    add_completion=False,
    rich_markup_mode=None,
)
signs_app = typer.Typer(help="Sign banks: have one written by a language model, check one.", rich_markup_mode=None)
app.add_typer(signs_app, name="signs")

WRONG_USE: Any = getattr(typer, "TyperException", None) or import_module("click").ClickException
"""The second of typer up to 0.25, which Flower asks for."""

output = SimpleNamespace(json=False, quiet=False, remarks=[])
"""What --json and --quiet say, and what was remarked; set anew by each call of the program."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from . import commands  # noqa: F401  # it adds them to the program

    words = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):  # what a terminal of cp1252 or ASCII has no letter for stands as \u80f8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # --json and --quiet may stand before or after the command: bring them before it
        with stopped_cleanly():
            run_app(app, "sdmad", sorted(words, key=lambda word: word not in ("--json", "--quiet")))
        return 0
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        print("\nstopped; nothing is half-written", file=sys.stderr)
        return 130
    except OSError as error:  # what reads and writes files says it in its own words; this is stdout, or the system
        if sys.stdout and not error.filename:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it at exit stays quiet
        if isinstance(error, BrokenPipeError):  # `sdmad ... | head`
            return 141
        message = f"{error.filename or 'the output'}: {error.strerror}; make room, or close other programs"
    except WRONG_USE as error:  # wrong options
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "sdmad"
        message = f"{error.format_message().rstrip('.')}; see '{where} --help'"
    except SDMADError as error:
        message = str(error)
    print(f"error: {message}", file=sys.stderr)  # out of the except block, where progress bars are closed
    return 2


def run_app(program: typer.Typer, name: str, words: list[str]) -> None:
    """Run a command. Unlike calling the program, it sets no hook of the interpreter and lets every error pass."""
    group, other = typer.main.get_command(program), warnings.showwarning
    chosen: Any = group
    for word in words:
        chosen = getattr(chosen, "commands", {}).get(word, chosen)

    def show(message, kind, *where, **more):
        if issubclass(kind, SDMADWarning):
            return remark(in_options(str(message), chosen))
        other(message, kind, *where, **more)

    with group.make_context(name, words) as context, warnings.catch_warnings():
        warnings.simplefilter("always", SDMADWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        try:
            with noting():
                group.invoke(context)
        except SDMADError as error:
            error.args = (in_options(str(error), chosen),)
            raise


def in_options(text: str, command: Any) -> str:
    """A message in the words of the command line: `normal='x'` is `--normal x` where the command has that option."""
    options = {option.name: option for option in command.params}

    def say(match: re.Match) -> str:
        name, value = match.groups()
        if name not in options:
            return match[0]
        value = "''" if value == "[]" else value
        off = options[name].secondary_opts if value == "False" else []
        shown = "" if value in (None, "...", "True", "False") else f" {value}"
        return (off or options[name].opts or options[name].secondary_opts)[0] + (
            shown if shown == " ''" else shown.replace("'", "")
        )

    for function, option in {"load_dataset": "dataset", "load_clip": "backbone"}.items():
        if option in options:
            text = re.sub(rf"{function}\('([^']+)'[^)]*\)", rf"--{option} \1", text)
    return re.sub(r"(?<![^\s(])([a-z_]+)=('[^']*'|\[\]|True|False|\.\.\.|\w+)?", say, text)


def answer(data: dict, text: str, code: int = 0) -> None:
    """End a command: the first process prints text for people, or with --json the plain values of `data`."""
    if is_main():
        data = data | {"remarks": output.remarks}
        ascii = not str(getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
        print(json.dumps(data, indent=1, ensure_ascii=ascii, allow_nan=False) if output.json else text, flush=True)
    if code:
        raise typer.Exit(code)


def remark(text: str) -> None:
    """A line on stderr, once, which --quiet leaves out; --json has them all."""
    if text not in output.remarks:
        output.remarks.append(text)
        print(*[] if output.quiet else [f"note: {text}\n"], file=sys.stderr, end="")


def command(program: typer.Typer, name: str, example: str) -> Callable[[Callable], Callable]:
    """Add the function below as a command, whose help ends in the example.

    Each field of a parameter that is a dataclass becomes an option of its own.
    """

    def add(function: Callable) -> Callable:
        parameters = signature(function, eval_str=True).parameters
        kinds: dict[str, Any] = {n: one.annotation for n, one in parameters.items() if is_dataclass(one.annotation)}
        fields = {name: signature(kind, eval_str=True).parameters for name, kind in kinds.items()}

        def run(**given: Any) -> None:
            parts = {name: kind(**{field: given.pop(field) for field in fields[name]}) for name, kind in kinds.items()}
            function(**parts, **given)

        flat = [option for name, one in parameters.items() for option in fields.get(name, {name: one}).values()]
        run.__signature__ = Signature([option.replace(kind=Parameter.KEYWORD_ONLY) for option in flat])  # type: ignore
        run.__doc__ = function.__doc__
        program.command(name, epilog=f"\b\nexample:\n  {example}")(run)
        return function

    return add


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
    output.json, output.quiet, output.remarks = as_json, quiet, []
