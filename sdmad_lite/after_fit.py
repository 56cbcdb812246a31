"""Commands for after the fit: who pays, what to decide, another hospital, a memory of confirmed cases."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from .cli import answer, app, command, output
from .errors import SDMADError
from .files import NOTICE
from .options import (
    MAX_SEED,
    Cases,
    DropCopies,
    ExcludeSupport,
    FewImages,
    Fitted,
    Images,
    Judged,
    Part,
    Source,
    files_of,
    parts_of,
)

KINDS = "absent", "present"


@command(app, "subgroups", "sdmad subgroups --detector build/detector --data data_samples/chest --by sex,site,sex+site")
def subgroups(
    judged: Judged,
    source: Part,
    by: Annotated[str | None, Option(help="columns, + for crossings (default: sex, age, site, as there are)")] = None,
    least: Annotated[int, Option(min=1, help="patients that a group must have for a figure")] = 10,
) -> None:
    """Who pays: figures and errors by sex, age, site and crossings, with intervals, on images not seen before."""
    from .deployment.subgroups import by_group, columns_to_group
    from .show.answers import groups_text

    table, scores, thresholds, _ = judged.scores(source)
    if not (asked := parts_of(by) or columns_to_group(table)):
        raise SDMADError(f"{source.data}: no column sex, age, site or view to group by; name another with --by")
    draws, seed = judged.resamples, judged.seed
    rows = by_group(scores, table, thresholds, asked, least=least, resamples=draws, random_state=seed)
    told = {"detector": judged.detector, "images": len(table), "by": asked, "groups": [asdict(row) for row in rows]}
    answer(told | {"notice": NOTICE}, f"{groups_text(rows)}\n{len(table)} images\n{NOTICE}")


@command(
    app,
    "decide",
    "sdmad decide --detector build/detector --data data_samples/chest data_samples/chest/images/0001.png",
)
def decide(
    fitted: Fitted,
    source: Images,
    images: FewImages = None,
    level: Annotated[float, Option(help="share of images whose set is to hold the truth")] = 0.9,
    prevalence: Annotated[float | None, Option(help="of each category (default: that of the support set)")] = None,
    estimate: Annotated[bool, Option("--estimate", help="prevalence: the likeliest for these images")] = False,
    miss: Annotated[float, Option(min=0, help="what a miss costs, in false alarms")] = 1.0,
    folds: Annotated[int, Option(min=2, help="that the support set is cross-fitted in")] = 5,
) -> None:
    """Decide: calibrated probability, and present, absent, unsure, unlike both or too few to say, of each category.

    With --data, where the images that it was fitted on lie, that is learnt from them by cross-fitting and kept with the
    detector; afterwards --data can be left out. Without images it says what can be promised.
    """
    from .deployment.decisions import Decisions, cost_threshold, cross_fit, promised_cover
    from .evaluation.seen_images import seen
    from .show.answers import decisions_text, promises_text

    source.check()
    if estimate and (prevalence is not None or not images):
        raise SDMADError("--estimate: needs images, and no --prevalence beside it")
    detector, progress = fitted.load(), not output.quiet
    if source.data:
        support = seen(fitted.detector, source.table(detector.bank.categories))
        decisions = cross_fit(detector, support, folds, progress)
        decisions.save(fitted.detector)
    else:
        decisions = Decisions.load(fitted.detector, detector)
    few, shares, rows = files_of(images), decisions.shares(prevalence), []
    if few:
        logits = detector.decision_function(list(few.values()), progress=progress)
        shares = decisions.prevalence(logits)[:, 0] if estimate else shares
        found = decisions.probabilities(logits, shares), decisions.answers(logits, level)
        for name, *columns in zip(few, *found, strict=True):
            for category, p, word in zip(decisions.categories, *columns, strict=True):
                row = {"image": name, "category": category, "probability": float(p), "answer": str(word)}
                rows.append(row | {"alarm": bool(p >= cost_threshold(miss))})
    promised = {
        name: {kind: {"images": n, "cover": promised_cover(n, level)} for kind, n in zip(KINDS, counts, strict=True)}
        for name, counts in zip(decisions.categories, decisions.counts.tolist(), strict=True)
    }
    told = {"detector": fitted.detector, "level": level, "promises": promised, "decisions": rows}
    told |= {"prevalence": dict(zip(decisions.categories, shares.tolist(), strict=True)), "notice": NOTICE}
    answer(told, f"{decisions_text(rows)}{promises_text(promised, level)}\n{NOTICE}")


@command(
    app, "sites", "sdmad sites --detector build/detector --data data_samples/chest --site data_samples/chest --shots 4"
)
def sites(
    fitted: Fitted,
    source: Source,
    site: Annotated[str, Option(help="data of the other hospital; --data are those of home, both read alike")],
    shots: Annotated[int, Option(min=1, help="labelled images of each category to learn from, of either")] = 4,
    resamples: Annotated[int, Option(min=1, help="of patients, for intervals")] = 200,
    seed: Annotated[int, Option(min=0, max=MAX_SEED, help="of the halves, shots and resamples")] = 0,
    exclude_support: ExcludeSupport = False,
    drop_copies: DropCopies = False,
) -> None:
    """Another hospital: three remedies side by side, before and after, at both sites."""
    from .deployment.sites import compare_sites
    from .evaluation.seen_images import unseen
    from .show.answers import remedies_text

    detector = fitted.load()
    home, away = (replace(source, data=data).table(detector.bank.categories) for data in (source.data, site))
    rows = compare_sites(
        detector,
        home,
        away,
        shots=shots,
        resamples=resamples,
        random_state=seed,
        drop_copies=drop_copies,
        unseen=lambda table: unseen(fitted.detector, table, exclude_support),
    )
    answer({"figures": [asdict(row) for row in rows], "notice": NOTICE}, f"{remedies_text(rows)}\n{NOTICE}")


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
