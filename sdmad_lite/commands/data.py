"""`sdmad data`: which public sets there are, what is known of one, and fetching those that may be fetched."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from ..errors import DataError
from .common import Answer, add_command, aligned


def add(commands) -> None:
    """Describe the commands."""
    group = commands.add_parser("data", help="public data sets: list them, read about one, fetch one")
    parts = group.add_subparsers(metavar="COMMAND", required=True)
    add_command(parts, "list", list_sets, "list the public data sets that can be read", "sdmad data list")
    info = add_command(
        parts, "info", info_of, "tell licence, source, labels and layout of a set", "sdmad data info nih_chest14"
    )
    info.add_argument("name", metavar="NAME", help="of the set, see 'sdmad data list'")
    get = add_command(
        parts,
        "get",
        get_set,
        "fetch a set that may be fetched without an account",
        "sdmad data get chestmnist --to build/medmnist --variant 64",
    )
    get.add_argument("name", metavar="NAME", help="of the set, see 'sdmad data list'")
    get.add_argument("--to", required=True, metavar="DIR", help="folder to write; a file that is there stays")
    get.add_argument("--variant", default="224", help="which size, see 'sdmad data info NAME' (default 224)")


def _entry(name: str):
    from sdmad_datasets import DATASETS

    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name]


def list_sets(args: argparse.Namespace) -> Answer:
    """`sdmad data list`."""
    from sdmad_datasets import DATASETS

    rows, sets = [["name", "images", "modality", "bank", "how", "title"]], {}
    for name, entry in DATASETS.items():
        how = "sdmad data get" if entry.downloads else "by hand"
        rows.append([name, f"{entry.images:,}", entry.modality, entry.bank, how, entry.title])
        sets[name] = {"title": entry.title, "images": entry.images, "modality": entry.modality, "bank": entry.bank}
        sets[name] |= {"licence": entry.licence, "url": entry.url, "fetched": bool(entry.downloads)}
    return Answer({"sets": sets}, aligned(rows))


def info_of(args: argparse.Namespace) -> Answer:
    """`sdmad data info`."""
    entry = _entry(args.name)
    facts = {
        "title": entry.title,
        "modality": entry.modality,
        "images": entry.images,
        "task": entry.task,
        "categories": list(entry.categories),
        "normal": entry.normal,
        "bank": entry.bank,
        "patients": entry.patients,
        "boxes": entry.boxes,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "citation": entry.citation,
        "url": entry.url,
        "access": entry.access,
        "variants": list(dict.fromkeys(download.variant for download in entry.downloads)),
        "notes": entry.notes,
        "unchecked": entry.unchecked,
        "files": entry.tree,
    }
    lines = []
    for name, value in facts.items():
        shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        shown = ", ".join(shown) if isinstance(shown, list) else str(shown)
        if shown and name == "files":
            lines += ["files:", textwrap.indent(shown, "  ")]
        elif shown:
            name = name.replace("_", " ")
            lines += textwrap.wrap(f"{name}: {shown}", 110, subsequent_indent="  ", break_long_words=False)
    return Answer({"name": args.name, **facts}, "\n".join(lines))


def get_set(args: argparse.Namespace) -> Answer:
    """`sdmad data get`."""
    from sdmad_datasets import get_dataset

    entry = _entry(args.name)
    files = get_dataset(args.name, args.to, progress=not args.quiet, variant=args.variant)
    found = [str(Path(file).resolve()) for file in files]
    text = "\n".join([*found, f"licence: {entry.licence} ({entry.licence_url})", f"cite: {entry.citation}"])
    return Answer({"files": found, "licence": entry.licence, "citation": entry.citation}, text)
