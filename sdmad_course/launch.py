"""Links that open the course elsewhere, at this version: `python -m sdmad_course.launch 00_quickstart`.

The address of the repository stands in one place, the line `repository-code` of CITATION.cff; whoever forks the course
sets that line. Links go to the tag of the version, never to a branch, which changes under the students' hands.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import quote

from sdmad_lite import __version__
from sdmad_lite.errors import DataError

from . import ROOT

TAG = f"v{__version__}"


def repository(citation: Path = ROOT / "CITATION.cff") -> str:
    """The address of the repository.

    Raises:
        DataError: the line is missing, or is no address that git and a browser know.
    """
    text = citation.read_text(encoding="utf-8") if citation.is_file() else ""
    found = re.search(r"^repository-code: *[\"']?(https://[^/\s\"']+/[^\s\"']+/[^\s\"']+)", text, re.MULTILINE)
    if not found:
        raise DataError(f'{citation.name}: has no line "repository-code: https://HOST/OWNER/NAME"; add your address')
    return found[1].rstrip("/").removesuffix(".git")


def links(address: str, room: str = "00_quickstart") -> dict[str, str]:
    """Service -> link to a room at the tag of this version; Colab reads GitHub alone."""
    path = f"notebooks/{room}.ipynb"
    found = {"Binder": f"https://mybinder.org/v2/git/{quote(address, safe='')}/{TAG}?urlpath=lab/tree/{path}"}
    host, _, owner_and_name = address.removeprefix("https://").partition("/")
    if host == "github.com":
        found["Colab"] = f"https://colab.research.google.com/github/{owner_and_name}/blob/{TAG}/{path}"
    return found


def first_cell(address: str) -> str:
    """What a notebook on Colab or Kaggle needs above its first cell."""
    name = address.rsplit("/", 1)[1]
    clone = f"!git clone -q --depth 1 --branch {TAG} {address}"
    return f'{clone}\n%cd {name}\n!pip install -q -e ".[dicom,decisions]"'


if __name__ == "__main__":
    try:
        where = repository()
    except DataError as error:
        sys.exit(str(error))
    for service, link in links(where, *sys.argv[1:2]).items():
        print(f"{service}: {link}")
    print(f"\nOn Colab and Kaggle, in a cell above the first:\n\n{first_cell(where)}")
