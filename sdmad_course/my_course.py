"""A copy of the course to work in: `python -m sdmad_course.my_course`, or `make lab`, which opens it.

The copy in `build/my_course` has no solutions, and git does not see it: what a student writes there dirties nothing and
no `git pull` conflicts with it. What was changed there is never overwritten: a newer room then stands beside it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from sdmad_lite.errors import DataError
from sdmad_lite.files import write_text

from . import ROOT

TEXTS = ("README.md", "GLOSSARY.md")
WRITTEN = ".written.json"  # name -> hash of each file as it was put there


def students_copy(notebook: Mapping) -> dict:
    """A notebook without its solutions; a check that is not passed yet does not stop "Run All"."""
    cells = []
    for cell in notebook["cells"]:
        source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        if "solution" in tags:
            continue
        if cell["cell_type"] == "code" and "check(" in source:
            cell = cell | {"metadata": cell["metadata"] | {"tags": [*tags, "raises-exception"]}}
        if cell["cell_type"] == "markdown":
            cell = cell | {"source": _relinked(source)}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _relinked(text: str) -> str:
    """Links out of the folder lead out of one that lies a level deeper; the teacher's page stays where it is."""
    return text.replace("](../", "](../../").replace("](TEACHING.md)", "](../../notebooks/TEACHING.md)")


def make_copy(source: Path = ROOT / "notebooks", folder: Path = ROOT / "build" / "my_course") -> list[str]:
    """Write or renew the copy; returns the names of rooms that were put beside a student's own.

    Raises:
        DataError: there are no notebooks, as after an install without the repository.
        OutputError: the folder cannot be written.
    """
    rooms = sorted(source.glob("*.ipynb"))
    if not rooms:
        raise DataError(f"{source}: no notebooks; run this in a clone of the repository")
    contents = {
        path.name: json.dumps(students_copy(json.loads(path.read_text(encoding="utf-8"))), indent=1, ensure_ascii=False)
        for path in rooms
    }
    contents |= {name: _relinked((source / name).read_text(encoding="utf-8")) for name in TEXTS}
    try:
        written = dict(json.loads((folder / WRITTEN).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # not there, or broken: then nothing that lies there is overwritten
        written = {}
    beside = []
    for name, content in contents.items():
        path, new = folder / name, _hash(content)
        own = path.is_file() and _hash(path.read_text(encoding="utf-8")) != written.get(name)
        if own and written.get(name) != new:
            path = path.with_name(f"{path.stem}.new{path.suffix}")
            beside.append(path.name)
        if not own or path.name != name:
            write_text(path, content)
        written[name] = new
    write_text(folder / WRITTEN, json.dumps(written, indent=1))
    return beside


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    try:
        for name in make_copy():
            print(f"changed since: the new room is {name}, yours stays")
    except (DataError, OSError) as error:
        sys.exit(str(error))
    print("your copy of the course: build/my_course")
