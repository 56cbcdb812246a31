"""Processes of their own that need not import torch again: each is the fork of a server that has imported it."""

import multiprocessing
import os
import sys
from pathlib import Path

CHILDREN = multiprocessing.get_context("forkserver")  # a fork of the tests' own process could find locks held
CHILDREN.set_forkserver_preload(
    ["torch", "open_clip", "sdmad_lite.commands", "sdmad_lite.deployment", "pyarrow.parquet"]
)


class Command:
    """`sdmad WORDS` at work. What it says on stderr goes to a file, what it says on stdout nowhere."""

    def __init__(self, words, said: Path):
        self.said = said
        self.process = CHILDREN.Process(target=_run, args=([str(word) for word in words], str(said)))
        self.process.start()

    def done(self) -> tuple[int, str]:
        """Its exit code, or the signal that ended it below zero, and what it said."""
        self.process.join()
        return self.process.exitcode, self.said.read_text(encoding="utf-8")


def _run(words: list[str], said: str) -> None:
    from sdmad_lite.cli import main

    for stream, file in ((1, os.devnull), (2, said)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    sys.exit(main(words))
