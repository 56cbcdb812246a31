"""Commands of a memory of confirmed cases. `commands.py` has the others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from .cli import answer, app, command, output
from .errors import SDMADError
from .files import NOTICE
from .options import Cases, FewImages, Part, files_of

memory_app = typer.Typer(
    help="A memory of confirmed cases: a detector learns while it works, without training.", rich_markup_mode=None
)
app.add_typer(memory_app, name="memory")
Who = Annotated[str, Option(help="the person who answers for this entry")]
SIGN = "of the --finding: what is visible; repeat it for more"


def example(what: str, more: str = "") -> str:
    """A command line for the help."""
    return f"sdmad memory {what} --memory build/cases.db --detector build/detector {more}".rstrip()


@command(memory_app, "add", example("add", "--data data_samples/chest --split test --who 'Dr A. Reader'"))
def add(
    of: Cases,
    source: Part,
    who: Who,
    finding: Annotated[str | None, Option(help="all images show this, which the detector did not know")] = None,
    sign: Annotated[list[str] | None, Option(help=SIGN)] = None,
    self_made: Annotated[bool, Option("--self-made", help="its own decisions, unconfirmed; scores may fall")] = False,
) -> None:
    """Add confirmed cases to the memory, or a new finding by three images or more and a few signs."""
    if bool(finding) != bool(sign) or (finding and self_made):
        raise SDMADError("--finding: goes with one --sign or more, and without --self-made")
    cases = of.opened(new=True)
    table = source.table(() if finding or self_made else cases.detector().bank.categories)
    if finding:
        numbers = cases.add_finding(finding, sign or [], table.images, who=who)
    else:
        numbers = cases.add(table.images, None if self_made else table.labels, who=who, self_made=self_made)
    told = {"memory": str(Path(of.memory).resolve()), "entries": numbers, "cases": len(cases), "notice": NOTICE}
    answer(told, f"entries {numbers[0]} to {numbers[-1]}, {len(cases)} cases: {told['memory']}\n{NOTICE}")


@command(memory_app, "score", example("score", "data_samples/chest/images/0000.png"))
def score(
    of: Cases,
    images: FewImages = None,
    out: Annotated[str | None, Option(help="folder of the detector that has learnt, for all other commands")] = None,
) -> None:
    """Score images with what the cases have taught, or write the detector that has learnt."""
    from .show.answers import explained_rows, explained_table

    if bool(images) == bool(out):
        raise SDMADError("memory score: give images, or --out for the detector; one of the two")
    learnt = of.opened().detector()
    if out:
        told = {"detector": str(learnt.save(out).resolve()), "notice": NOTICE}
        return answer(told, f"{NOTICE}\ndetector: {told['detector']}")
    found = explained_rows(learnt, files_of(images), not output.quiet)
    answer({"predictions": found, "notice": NOTICE}, f"{explained_table(found)}\n{NOTICE}")


@command(memory_app, "log", example("log"))
def log(of: Cases) -> None:
    """List the entries, those that were rolled back too, and say whether the cases drift; exit code 1 if they do."""
    from .show.answers import log_text

    cases = of.opened()
    (evidence, alarm), standing = cases.drift(), {entry.id for entry in cases.file.standing}
    told = [asdict(entry) | {"stands": entry.id in standing} for entry in cases.file.log]
    text = f"drift: cases come otherwise since before entry {alarm.id}" if alarm else "drift: none"
    found = {"entries": told, "drift": alarm and alarm.id, "evidence": evidence.tolist()}
    answer(found, f"{log_text(told)}\n{text}", int(alarm is not None))


@command(memory_app, "rollback", example("rollback", "--to 0 --who 'Dr A. Reader'"))
def rollback(
    of: Cases,
    who: Who,
    to: Annotated[int, Option(min=0, help="entry after which all is as it was then; 0 for the start")],
) -> None:
    """Be as after an earlier entry. Nothing is removed, and a rollback can be taken back in the same way."""
    cases = of.opened()
    cases.rollback(to, who=who)
    told = {"memory": str(Path(of.memory).resolve()), "cases": len(cases)}
    answer(told, f"{len(cases)} cases stand: {told['memory']}")
