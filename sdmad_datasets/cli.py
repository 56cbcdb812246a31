"""`sdmad data`: which public sets there are, what is known of one, and fetching those that may be fetched."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from . import DATASETS, Dataset, dataset_named, get_dataset

app = typer.Typer(
    help="Public data sets: list them, read about one, fetch one.", rich_markup_mode=None, add_completion=False
)
Name = Annotated[str, Argument(metavar="NAME", help="of the set, see 'sdmad data list'", show_default=False)]


def facts(entry: Dataset) -> dict:
    """All that is known of a set, as plain values."""
    names = ["title", "modality", "images", "task", "categories", "normal", "bank", "patients", "boxes", "licence"]
    names += ["licence_url", "citation", "url", "access", "variants", "notes", "unchecked"]
    known = {name: getattr(entry, name) for name in names}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in known.items()} | {"files": entry.tree}


@app.command("list", epilog="\b\nexample:\n  sdmad data list")
def list_sets() -> None:
    """List the public data sets that can be read."""
    from sdmad_lite.cli import answer

    rows, sets = [("name", "images", "modality", "bank", "how", "title")], {}
    for name, entry in DATASETS.items():
        how = "sdmad data get" if entry.downloads else "by hand"
        rows.append((name, f"{entry.images:,}", entry.modality, entry.bank, how, entry.title))
        sets[name] = {key: getattr(entry, key) for key in ("title", "images", "modality", "bank", "licence", "url")}
        sets[name]["fetched"] = bool(entry.downloads)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    answer({"sets": sets}, "\n".join(lines))


@app.command("info", epilog="\b\nexample:\n  sdmad data info nih_chest14")
def info(name: Name) -> None:
    """Tell licence, source, labels and layout of a set."""
    from sdmad_lite.cli import answer

    known, lines = facts(dataset_named(name)), []
    for fact, value in known.items():
        shown = ", ".join(value) if isinstance(value, list) else {True: "yes", False: "no"}.get(value, str(value))
        if shown and fact == "files":
            lines += ["files:", textwrap.indent(shown, "  ")]
        elif shown:
            text = f"{fact.replace('_', ' ')}: {shown}"
            lines += textwrap.wrap(text, 110, subsequent_indent="  ", break_long_words=False)
    answer({"name": name, **known}, "\n".join(lines))


@app.command("get", epilog="\b\nexample:\n  sdmad data get chestmnist --to build/medmnist --variant 64")
def get(
    name: Name,
    to: Annotated[Path, Option(metavar="DIR", help="folder to write; a file that is there stays", show_default=False)],
    variant: Annotated[str, Option(help="which size, see 'sdmad data info NAME'")] = "224",
) -> None:
    """Fetch a set that may be fetched without an account."""
    from sdmad_lite.cli import answer, output

    entry = dataset_named(name)
    files = [str(path.resolve()) for path in get_dataset(name, to, progress=not output.quiet, variant=variant)]
    text = "\n".join([*files, f"licence: {entry.licence} ({entry.licence_url})", f"cite: {entry.citation}"])
    answer({"files": files, "licence": entry.licence, "citation": entry.citation}, text)
