"""Commands for after the fit: what to decide, and who pays. `commands.py` has the others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import sdmad_lite as sd

from .cli import answer, app, command, output, remark
from .errors import SDMADError
from .files import NOTICE
from .options import Detector, Device, DropCopies, Images, Part, parts_of

Exclude = Annotated[bool, Option("--exclude-support", help="leave out what it was fitted on")]
Resamples = Annotated[int, Option(min=0, help="of patients, for intervals; 0 for none")]
Seed = Annotated[int, Option(min=0, help="of the resamples")]


def scored(detector: str, source: Part, exclude: bool, drop_copies: bool, device: str | None) -> tuple:
    """Detector, table of unseen images with those of its categories that there are, scores, thresholds and copies."""
    from .data import without_copies
    from .evaluation.seen_images import unseen

    fitted = sd.SDMAD.load(detector, device=device)
    known = fitted.bank.categories
    table = unseen(detector, source.table(known, usual="test"), exclude)
    table, copies = without_copies(source.data, table, drop_copies, not output.quiet)
    if missing := [c for c in known if c not in table.categories]:
        remark(f"not scored, the data have no column for them: {', '.join(missing)}")
    if not table.has_patients:
        remark("the data name no patients: intervals take every image for another one and may be too narrow")
    if not table.labels.any() or table.labels.all():
        raise SDMADError(
            f"{source.data}: the images show none or all of the categories; give some with and some without"
        )
    columns = [known.index(c) for c in table.categories]
    scores = fitted.predict_proba(table.images, progress=not output.quiet)[:, columns]
    return table, scores, fitted.thresholds_[columns], copies


@command(app, "subgroups", "sdmad subgroups --detector build/detector --data data_samples/chest --by sex,site,sex+site")
def subgroups(
    detector: Detector,
    source: Part,
    by: Annotated[str | None, Option(help="columns, + for crossings (default: sex, age, site, as there are)")] = None,
    least: Annotated[int, Option(min=1, help="patients that a group must have for a figure")] = 10,
    exclude_support: Exclude = False,
    drop_copies: DropCopies = False,
    resamples: Resamples = 200,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Who pays: figures and errors by sex, age, site and crossings, with intervals, on images not seen before."""
    from .deployment.subgroups import by_group, columns_to_group
    from .show.answers import groups_text

    table, scores, thresholds, _ = scored(detector, source, exclude_support, drop_copies, device)
    if not (asked := parts_of(by) or columns_to_group(table)):
        raise SDMADError(f"{source.data}: no column sex, age, site or view to group by; name another with --by")
    rows = by_group(scores, table, thresholds, asked, least=least, resamples=resamples, random_state=seed)
    told = {"detector": detector, "images": len(table), "by": asked, "groups": [asdict(row) for row in rows]}
    answer(told | {"notice": NOTICE}, f"{groups_text(rows)}\n{len(table)} images\n{NOTICE}")


@command(
    app,
    "decide",
    "sdmad decide --detector build/detector --data data_samples/chest data_samples/chest/images/0001.png",
)
def decide(
    detector: Detector,
    source: Images,
    images: Annotated[list[str] | None, Argument(metavar="[IMAGE]...", help="image, DICOM file or folder")] = None,
    level: Annotated[float, Option(help="share of images whose set is to hold the truth")] = 0.9,
    prevalence: Annotated[float | None, Option(help="of each category (default: that of the support set)")] = None,
    estimate: Annotated[bool, Option("--estimate", help="prevalence: the likeliest for these images")] = False,
    miss: Annotated[float, Option(min=0, help="what a miss costs, in false alarms")] = 1.0,
    folds: Annotated[int, Option(min=2, help="that the support set is cross-fitted in")] = 5,
    device: Device = None,
) -> None:
    """Decide: calibrated probability, and present, absent, unsure, unlike both or too few to say, of each category.

    With --data, where the images that it was fitted on lie, that is learnt from them by cross-fitting and kept with the
    detector; afterwards --data can be left out. Without images it says what can be promised.
    """
    from .deployment.decisions import Decisions, cost_threshold, cross_fit, promised_cover
    from .deployment.scoring import listed
    from .evaluation.seen_images import seen
    from .show.answers import decisions_text, promises_text

    source.check()
    if estimate and (prevalence is not None or not images):
        raise SDMADError("--estimate: needs images, and no --prevalence beside it")
    fitted, progress = sd.SDMAD.load(detector, device=device), not output.quiet
    if source.data:
        support = seen(detector, source.table(fitted.bank.categories))  # type: ignore[arg-type]
        decisions = cross_fit(fitted, support, folds, progress)
        decisions.save(detector)
    else:
        decisions = Decisions.load(detector, fitted)
    folders = {name: [path for _, path in listed(name)] for name in images or [] if Path(name).is_dir()}
    few = dict(listed([path for name in images for path in folders.get(name, [name])])) if images else {}
    shares = decisions.shares(prevalence)
    rows = []
    if few:
        logits = fitted.decision_function(list(few.values()), progress=progress)
        shares = decisions.prevalence(logits)[:, 0] if estimate else shares
        found = decisions.probabilities(logits, shares), decisions.answers(logits, level)
        for name, *columns in zip(few, *found, strict=True):
            for category, p, word in zip(decisions.categories, *columns, strict=True):
                row = {"image": name, "category": category, "probability": float(p), "answer": str(word)}
                rows.append(row | {"alarm": bool(p >= cost_threshold(miss))})
    kinds = [dict(zip(("absent", "present"), map(int, pair), strict=True)) for pair in decisions.counts]
    promised = {
        name: {kind: {"images": n, "cover": promised_cover(n, level)} for kind, n in of.items()}
        for name, of in zip(decisions.categories, kinds, strict=True)
    }
    told = {"detector": detector, "level": level, "promises": promised, "decisions": rows}
    told |= {"prevalence": dict(zip(decisions.categories, shares.tolist(), strict=True)), "notice": NOTICE}
    answer(told, f"{decisions_text(rows)}{promises_text(promised, level)}\n{NOTICE}")
