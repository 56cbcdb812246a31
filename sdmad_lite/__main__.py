"""Command line: `sdmad`, or `python -m sdmad_lite`; docs/cli.md has every command with an example.

Exit codes: 0 fine; 1 a check found something; 2 bad input, with `error: ...` on stderr; 130 stopped by Ctrl-C, with
nothing half-written; 141 the reader of stdout went away. Results go to stdout, progress and remarks to stderr.
For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__
from .commands import data, embed, evaluate, fit, predict, run, signs
from .commands.common import output_options, show
from .errors import SDMADError
from .files import is_main


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(
        prog="sdmad",
        description="Few-shot multi-anomaly detection in medical images by radiological signs. "
        "For teaching and research; not for clinical use.",
        epilog="'sdmad COMMAND --help' shows the options of a command and an example.",
        parents=[output_options()],
    )
    top.add_argument("--version", action="version", version=f"sdmad {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for module in (run, signs, fit, predict, evaluate, embed, data):
        module.add(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv, argparse.Namespace(json=False, quiet=False))
    try:
        answer = args.run(args)
        if is_main():
            show(answer, args.json)
        return answer.code
    except SDMADError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("\nstopped; nothing is half-written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `sdmad ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it at exit stays quiet
        return 141
    print(f"error: {message}", file=sys.stderr)  # out of the except block, where progress bars are closed
    return 2


if __name__ == "__main__":
    sys.exit(main())
