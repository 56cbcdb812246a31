"""docs/results/datasets.md, written from the registry: `python -m sdmad_datasets.page > docs/results/datasets.md`."""

from __future__ import annotations

import textwrap

from . import DATASETS, Dataset, options

WIDTH = 120

INTRO = """\
<!-- written by `python -m sdmad_datasets.page > docs/results/datasets.md`; change the registry, not this page -->
# Public data sets

Readers for the files as their publishers lay them out, and a sign bank for each. Nothing here is fetched by itself, no
image is opened before it is used, and nothing learnt from these sets is for clinical use. Check the terms of a set at
its source before you use it: they may have changed, and what could not be looked up for this page is marked.

    from sdmad_datasets import DATASETS, boxes, get_dataset, load_dataset
    DATASETS["nih_chest14"].licence                       # what is known of a set
    get_dataset("breastmnist", "data", variant=128)       # MedMNIST only; the others explain where to go
    table = load_dataset("breastmnist", "data")           # an ImageTable, as from load_folder

The banks were written by a language model; no physician has read them. Have a bank read by one before you report
results.
"""

GENERAL = """\
## What holds for all

- **Normal.** A row of zeros is an image that the set itself calls normal. An image that shows only findings without a
  category is left out: it is neither.
- **Split.** `meta["split"]` is the set's own: train, val, test. `official_split=False` leaves it out, and
  `split_train_test` then halves the patients.
- **Patients.** Where a set names them, no patient may be in two parts of the split; such a set is refused by name, with
  `official_split=False` as the way out. Where a set names none, nobody can split it by patient, and scores may be
  flattered by images of one person on both sides.
- **Missing images.** `missing="skip"` loads what is there of a set that was fetched in part.
- **Paths.** A name in a label file that points out of the folder is refused. Links that you put into the folder, to
  where the images are, are followed.
- **Labels from reports.** A program that reads reports makes mistakes, and reports leave out what the reader thought
  unimportant. Do not take such labels for what an expert would see in the image.
"""


def page() -> str:
    """The whole page."""
    head = "| name | set | images | labels | normal | licence | patients | boxes | how to get |\n" + "|---" * 9 + "|"
    table = "\n".join([head, *map(_line, DATASETS.values())])
    return "\n".join([INTRO, table, "", GENERAL, *map(_section, DATASETS.values())])


def _line(entry: Dataset) -> str:
    labels = f"{len(entry.categories)}, {entry.task}"
    yes = {True: "yes", False: "no"}
    cells = [f"[`{entry.name}`](#{entry.name})", entry.title, f"{entry.images:,}", labels, entry.normal]
    cells += [f"[{entry.licence}]({entry.licence_url})", yes[entry.patients], yes[entry.boxes]]
    return "| " + " | ".join([*cells, f"[{entry.access}]({entry.url})"]) + " |"


def _section(entry: Dataset) -> str:
    tree = "\n".join(f"    {line}" for line in entry.tree.splitlines())
    choices = ", ".join(f"{name}={default!r}" for name, default in options(entry.name).items())
    unchecked = f" Not looked up: {entry.unchecked}." if entry.unchecked else ""
    about = f"**{entry.title}**, {entry.modality}. {entry.citation}.\n\n{entry.notes}{unchecked}"
    about = "\n\n".join(textwrap.fill(part, WIDTH, break_on_hyphens=False) for part in about.split("\n\n"))
    return f"""\
## {entry.name}

{about}

{tree}

    table = load_dataset("{entry.name}", "folder")   # {choices}
    bank = load_bank("{entry.bank}")   # {", ".join(entry.categories[:6])}{" ..." if len(entry.categories) > 6 else ""}
"""


if __name__ == "__main__":
    print(page(), end="")
