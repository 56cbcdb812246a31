"""Commands of a memory of confirmed cases. `commands.py` has the others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

import sdmad_lite as sd

from .cli import answer, app, command, output
from .errors import SDMADError
from .files import NOTICE
from .options import Detector, Device, FewImages, Part, files_of

if TYPE_CHECKING:
    from .deployment.memory import Memory

memory_app = typer.Typer(
    help="A memory of confirmed cases: a detector learns while it works, without training.", rich_markup_mode=None
)
app.add_typer(memory_app, name="memory")
File = Annotated[str, Option("--memory", help="SQLite file of the cases; 'add' makes it where there is none")]
Who = Annotated[str, Option(help="the person who answers for this entry")]
SIGN = "of the --finding: what is visible; repeat it for more"


def example(what: str, more: str = "") -> str:
    """A command line for the help."""
    return f"sdmad memory {what} --memory build/cases.db --detector build/detector {more}".rstrip()


def opened(memory: str, detector: str, device: str | None, new: bool = False) -> Memory:
    """The memory in a file, of the detector in a folder."""
    from .deployment.memory import Memory

    if not (new or Path(memory).exists()):
        raise SDMADError(f"{memory}: no such memory; 'sdmad memory add' makes one")
    return Memory(memory, sd.SDMAD.load(detector, device=device))


@command(memory_app, "add", example("add", "--data data_samples/chest --split test --who 'Dr A. Reader'"))
def add(
    memory: File,
    detector: Detector,
    source: Part,
    who: Who,
    finding: Annotated[str | None, Option(help="all images show this, which the detector did not know")] = None,
    sign: Annotated[list[str] | None, Option(help=SIGN)] = None,
    self_made: Annotated[bool, Option("--self-made", help="its own decisions, unconfirmed; scores may fall")] = False,
    device: Device = None,
) -> None:
    """Add confirmed cases to the memory, or a new finding by three images or more and a few signs."""
    if bool(finding) != bool(sign) or (finding and self_made):
        raise SDMADError("--finding: goes with one --sign or more, and without --self-made")
    cases = opened(memory, detector, device, new=True)
    table = source.table(() if finding or self_made else cases.detector().bank.categories)
    if finding:
        numbers = cases.add_finding(finding, sign or [], table.images, who=who)
    else:
        numbers = cases.add(table.images, None if self_made else table.labels, who=who, self_made=self_made)
    told = {"memory": str(Path(memory).resolve()), "entries": numbers, "cases": len(cases), "notice": NOTICE}
    answer(told, f"entries {numbers[0]} to {numbers[-1]}, {len(cases)} cases: {told['memory']}\n{NOTICE}")


@command(memory_app, "score", example("score", "data_samples/chest/images/0000.png"))
def score(
    memory: File,
    detector: Detector,
    images: FewImages = None,
    out: Annotated[str | None, Option(help="folder of the detector that has learnt, for all other commands")] = None,
    device: Device = None,
) -> None:
    """Score images with what the cases have taught, or write the detector that has learnt."""
    from .show.answers import explained_rows, explained_table

    if bool(images) == bool(out):
        raise SDMADError("memory score: give images, or --out for the detector; one of the two")
    learnt = opened(memory, detector, device).detector()
    if out:
        told = {"detector": str(learnt.save(out).resolve()), "notice": NOTICE}
        return answer(told, f"{NOTICE}\ndetector: {told['detector']}")
    found = explained_rows(learnt, files_of(images), not output.quiet)
    answer({"predictions": found, "notice": NOTICE}, f"{explained_table(found)}\n{NOTICE}")


@command(memory_app, "log", example("log"))
def log(memory: File, detector: Detector, device: Device = None) -> None:
    """List the entries, those that were rolled back too, and say whether the cases drift; exit code 1 if they do."""
    from .show.answers import log_text

    cases = opened(memory, detector, device)
    (evidence, alarm), standing = cases.drift(), {entry.id for entry in cases.file.standing}
    told = [asdict(entry) | {"stands": entry.id in standing} for entry in cases.file.log]
    text = f"drift: cases come otherwise since before entry {alarm.id}" if alarm else "drift: none"
    found = {"entries": told, "drift": alarm and alarm.id, "evidence": evidence.tolist()}
    answer(found, f"{log_text(told)}\n{text}", int(alarm is not None))


@command(memory_app, "rollback", example("rollback", "--to 0 --who 'Dr A. Reader'"))
def rollback(
    memory: File,
    detector: Detector,
    who: Who,
    to: Annotated[int, Option(min=0, help="entry after which all is as it was then; 0 for the start")],
    device: Device = None,
) -> None:
    """Be as after an earlier entry. Nothing is removed, and a rollback can be taken back in the same way."""
    cases = opened(memory, detector, device)
    cases.rollback(to, who=who)
    told = {"memory": str(Path(memory).resolve()), "cases": len(cases)}
    answer(told, f"{len(cases)} cases stand: {told['memory']}")
