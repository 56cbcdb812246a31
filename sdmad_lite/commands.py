"""The commands of `sdmad`; rooms are imported when a command runs, so that `sdmad --help` answers at once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

import sdmad_lite as sd

from . import after_fit  # noqa: F401  # adds its own
from .cli import answer, app, command, output, remark, run_app, signs_app
from .errors import SDMADError
from .files import NOTICE, claimed, claimed_file, is_main, new_folder, world, write_text
from .options import (
    FOLDER,
    DropCopies,
    FewImages,
    Fitted,
    Images,
    Judged,
    Model,
    Part,
    Scoring,
    Source,
    Stage1,
    Task,
    files_of,
    set_in,
)


@command(app, "run", "sdmad run --data data_samples/chest --signs chest_phantoms --out build/report")
def run(
    source: Source,
    task: Task,
    out: Annotated[str, Option(help="folder to write; an earlier report there is replaced")],
    model: Model,
    draws: Annotated[int, Option(min=1, help="support draws")] = 5,
    min_positives: Annotated[int | None, Option(help="in train and in test (default: --shots, at most 15)")] = None,
    drop_copies: DropCopies = False,
) -> None:
    """Fit, select, evaluate and report on a folder of images."""
    from .data import without_copies
    from .evaluation.experiment import BOTH_STAGES, eligible_split, run_experiment
    from .evaluation.intervals import figure_text, remarks
    from .show.report import write_report

    bank, shots, seeds = sd.load_bank(task.signs), task.shots or 16, range(task.seed, task.seed + draws)
    table, least = task.chosen(source.data, source.table(bank.categories)), min_positives
    if least is None and not task.categories:
        least = min(15, shots)
    parts = table.meta.get("split", ("train",) * len(table))
    table = table.rows([i for i, part in enumerate(parts) if part != "val"])  # which a report does not use
    table, copies = without_copies(source.data, table, drop_copies, not output.quiet)
    train, test, left_out = eligible_split(table, shots, least, task.seed, drop_copies=None)
    for category, why in left_out.items():
        remark(f"left out: {category} ({why})")
    bank, unused = bank.restricted(list(train.categories)), len(table) - len(train) - len(test)
    with new_folder(out, "metrics.json") as folder:
        experiment = run_experiment(train, test, bank, model.load(), shots, seeds, progress=not output.quiet)
        about = {"name": Path(source.data).resolve().name, "train": len(train), "unused": unused, "copies": copies}
        write_report(folder, experiment, left_out, **about)
    macro, report = experiment.mean(BOTH_STAGES).macro(), str(Path(out).resolve() / "report.html")
    for line in remarks(experiment.mean(BOTH_STAGES), draws):
        remark(line)
    ends = {end: asdict(row) for end, row in zip(("mean", "low", "high"), macro, strict=True)}
    text = f"mAP {figure_text(*(row.ap for row in macro))} over {macro[0].categories} categories, {draws} draws"
    told = {"macro": ends, "left_out": left_out, "copies": copies, "report": report, "notice": NOTICE}
    answer(told, f"{text}\n{NOTICE}\nreport: {report}")


@command(app, "fit", "sdmad fit --data data_samples/chest --signs chest_phantoms --shots 4 --out build/detector")
def fit(
    source: Part,
    task: Task,
    out: Annotated[str, Option(help="folder of the detector; an earlier detector there is replaced")],
    stage1: Stage1,
    model: Model,
    drop_copies: DropCopies = False,
) -> None:
    """Fit a detector on a support set, and save it."""
    from .data import without_copies
    from .evaluation.seen_images import write_seen
    from .running import remove_checkpoint
    from .show.answers import signs_by_category
    from .storage import write_detector

    bank = sd.load_bank(task.signs)
    table = task.chosen(source.data, source.table(bank.categories, usual="train"))
    if missing := [c for c in bank.categories if c not in table.categories]:
        remark(f"left out, not in the data or not asked for: {', '.join(missing)}")
    support = table.rows(sd.draw_support(table, task.shots, task.seed)) if task.shots else table
    support, _ = without_copies(source.data, support, drop_copies, not output.quiet)
    detector = stage1.detector(bank.restricted(list(table.categories)), model.load(), task.seed)
    with new_folder(out, "detector.json") as folder:
        detector.fit_table(support, progress=not output.quiet, checkpoint=stage1.checkpoint)
        write_detector(detector, folder)
        write_seen(folder, support)
    if is_main():  # the detector stands whole
        remove_checkpoint(stage1.checkpoint)
    positives = dict(zip(table.categories, support.labels.sum(0).tolist(), strict=True))
    thresholds = dict(zip(table.categories, detector.thresholds_.tolist(), strict=True))
    told = {"detector": str(Path(out).resolve()), "images": len(support), "positives": positives}
    told |= {"normal": int((support.labels.sum(1) == 0).sum()), "thresholds": thresholds, "notice": NOTICE}
    told["signs"] = {c: [asdict(sign) for sign in own] for c, own in detector.selected_signs().items()}
    text = f"fitted on {len(support)} images, {told['normal']} of them normal"
    answer(told, f"{text}\n{signs_by_category(detector, positives)}\n\n{NOTICE}\ndetector: {told['detector']}")


@command(app, "predict", "sdmad predict --detector build/detector data_samples/chest/images/0000.png --maps build/maps")
def predict(
    fitted: Fitted,
    source: Images,
    scoring: Scoring,
    images: FewImages = None,
    out: Annotated[str | None, Option(help=".parquet (a folder), .csv or .jsonl: a row per image")] = None,
    form: Annotated[Literal["table", "csv"] | None, Option("--format", help="of stdout (default: table)")] = None,
    maps: Annotated[str | None, Option(metavar="DIR", help="folder of heat maps of the categories detected")] = None,
) -> None:
    """Score images: probability, threshold, decision and selected signs of each category.

    Without --out a few images are explained on stdout, a row for each image and category; with --out any number of
    images goes to a file.
    """
    from .deployment.scoring import listed
    from .deployment.tables import TABLES, write_scores
    from .show.answers import explained_csv, explained_rows, explained_table, write_maps

    if out and Path(out).suffix.lower() not in TABLES:
        raise SDMADError(f"--out {out}: end it in {', '.join(TABLES)}")
    if bool(images) == bool(source.data):
        what = "give images or --data, not both" if source.data else "no image is given; name files, folders or --data"
        raise SDMADError(f"predict: {what}")
    source.check()
    if (source.normal, source.names, source.others) != (None, None, None):
        raise SDMADError("predict: labels do not count; leave --normal, --names and --others out")
    if not out and scoring != Scoring():
        raise SDMADError("predict: --scores-only, --restart, --batch-size and --workers go with --out; leave them out")
    if form and (out or output.json):
        raise SDMADError("predict: --format is of the table on stdout; leave it out beside --out and --json")
    detector, progress = fitted.load(), not output.quiet
    root = Path(source.data) if source.data and Path(source.data).is_dir() else None
    rows: Any = root  # a folder is searched for images at any depth
    if images:
        rows = list(files_of(images).values())
    elif source != Images(source.data) or not root or (root / "labels.csv").exists():
        rows = source.table(())
    if maps or not out:
        few = dict(listed(rows, root))
        found = explained_rows(detector, few, progress)
        if maps:
            write_maps(maps, detector, few, found)
    told: dict[str, Any] = {"detector": fitted.detector, "notice": NOTICE}
    if not out:
        if form == "csv":
            remark(NOTICE)
        text = explained_csv(found) if form == "csv" else f"{explained_table(found)}\n{NOTICE}"
        return answer(told | {"images": len(few), "predictions": found}, text)
    with claimed(out):
        count, bad = write_scores(detector, rows, out, root=root, progress=progress, **asdict(scoring))
    told |= {"images": count, "errors": bad, "out": str(Path(out).resolve())}
    text = f"{count} images: {told['out']}\n" + f"{bad} of them could not be read: see the column error\n" * (bad > 0)
    # several processes end with 0: their launcher would take 1 for a failure, and stop the others
    answer(told, text + NOTICE, int(bad > 0 and world()[1] == 1))


@command(app, "evaluate", "sdmad evaluate --detector build/detector --data data_samples/chest")
def evaluate(
    judged: Judged,
    source: Part,
    out: Annotated[str | None, Option(help="JSON file to write as well")] = None,
) -> None:
    """Score a detector by three protocols, with intervals, on images that it has not seen."""
    from .evaluation.intervals import bootstrap, remarks
    from .show.answers import scores_by_protocol

    with claimed_file(out):
        table, scores, thresholds, copies = judged.scores(source)
        patients, progress = list(table.patients()), not output.quiet
        given = scores, table.labels, table.categories, thresholds
        result = bootstrap(*given, patients, judged.resamples, judged.seed, progress=progress)
        for line in remarks(result):
            remark(line)
        told = {"detector": judged.detector, "images": len(table), "patients": len(set(patients)), **asdict(result)}
        told |= {"copies": copies, "remarks": output.remarks, "notice": NOTICE}
        if out:
            write_text(out, json.dumps(told, indent=1, allow_nan=False) + "\n")
    answer(told, f"{scores_by_protocol(result)}\n{len(table)} images\n{NOTICE}")


@command(app, "embed", "sdmad embed --detector build/detector --data data_samples/chest --out build/embeddings.npz")
def embed(
    source: Part,
    out: Annotated[str, Option(help="file to write: .npz (arrays) or .parquet (a row per embedding)")],
    model: Model,
    detector: Annotated[str | None, Option(help=FOLDER)] = None,
    signs: Annotated[str | None, Option(help="sign bank; the frozen model alone, nothing after adapters")] = None,
) -> None:
    """Write embeddings of images and signs, before and after the adapters."""
    from .deployment.tables import write_embeddings

    if Path(out).suffix not in (".npz", ".parquet"):
        raise SDMADError(f"--out {out}: end it in .npz or .parquet, the two forms there are")
    if bool(detector) == bool(signs):
        raise SDMADError("embed: give --detector, or --signs for the frozen model alone")
    if detector and (model.backbone or model.pretrained or model.shape):
        raise SDMADError("--backbone: a detector names its own backbone; leave --backbone, --pretrained, --shape out")
    fitted = sd.SDMAD.load(detector, device=model.device) if detector else None
    bank, clip = (fitted.bank, fitted.backbone) if fitted else (sd.load_bank(str(signs)), model.load())
    table = source.table(bank.categories)
    root = source.data if Path(source.data).is_dir() else None
    arrays = write_embeddings(out, table, bank, clip, fitted, root=root, progress=not output.quiet)
    width, where = arrays["image"].shape[1], str(Path(out).resolve())
    told = {"out": where, "images": len(table), "signs": len(bank.texts), "width": width, "arrays": sorted(arrays)}
    answer(told, f"{len(table)} images and {len(bank.texts)} signs, {width} numbers each: {where}")


@command(signs_app, "check", "sdmad signs check chest_phantoms")
def check(
    bank: Annotated[str, Argument(metavar="BANK", help="a JSON file, or the name of a shipped bank")],
    model: Model,
    source: Images,
    strict: Annotated[bool, Option("--strict", help="exit code 1 after a warning too")] = False,
    notes: Annotated[bool, Option("--notes", help="print notes too, which need no change")] = False,
) -> None:
    """Check a sign bank: what is wrong or doubtful, each with its line and a suggestion; exit code 1 after an error.

    With --backbone, signs that this model confuses are found too; with --data, whether it sees more than chance.
    """
    from .evaluation.sight import check_sight

    source.check()
    if not (looked := bool(model.backbone or source.data)) and (given := set_in(model)):
        raise SDMADError(f"{given}: only beside backbone= or data=; leave it out")
    clip = model.load() if looked else None
    found = sd.check_bank(bank, clip)
    if source.data and clip:
        known = sd.load_bank(bank)
        table = source.table(known.categories)
        found.append(check_sight(known.restricted(list(table.categories)), clip, table))
    count = Counter(finding.severity for finding in found)
    told_always = [one for one in found if notes or one.severity != "note" or one.rule == "blind"]
    lines = [f"{finding.severity}: {finding}" for finding in told_always]
    lines.append(f"{bank}: {count['error']} errors, {count['warning']} warnings, {count['note']} notes")
    told = {"bank": bank, "errors": count["error"], "warnings": count["warning"], "notes": count["note"]}
    told["findings"] = [asdict(finding) for finding in found]
    answer(told, "\n".join(lines), int(bool(count["error"] or (strict and count["warning"]))))


FURTHER: dict[str, Any] = {"add_help_option": False}  # the commands of a companion, which has the help of its own
FURTHER["context_settings"] = {"ignore_unknown_options": True, "allow_extra_args": True}


@signs_app.command("generate", **FURTHER)
def generate(context: typer.Context) -> None:
    """Have a language model on an OpenAI-compatible server write a sign bank."""
    from sdmad_llm.cli import app as writer

    run_app(writer, "sdmad signs generate", context.args)


@app.command("data", **FURTHER)
def data_sets(context: typer.Context) -> None:
    """Public data sets: list them, read about one, fetch one."""
    from sdmad_datasets.cli import app as sets

    run_app(sets, "sdmad data", context.args)


@app.command("export", **FURTHER)
def export(context: typer.Context) -> None:
    """Ship a detector as a folder of at most 5 MB that scores and explains without torch, in Python or in a browser."""
    from sdmad_export.cli import app as exporter

    run_app(exporter, "sdmad export", context.args)


@app.command("federate", **FURTHER)
def federate(context: typer.Context) -> None:
    """One detector of several hospitals, whose images stay there."""
    from sdmad_federated.cli import app as together

    run_app(together, "sdmad federate", context.args)
