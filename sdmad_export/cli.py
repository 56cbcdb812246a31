"""`sdmad export`: ship a detector in a folder."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

import sdmad_lite as sd
from sdmad_lite.cli import answer, command
from sdmad_lite.files import NOTICE
from sdmad_lite.options import FOLDER

from .export import export_detector

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@command(app, "export", "sdmad export --detector build/detector --out build/export --runtime npm")
def export(
    detector: Annotated[str, Option(help=FOLDER)],
    out: Annotated[str, Option(help="folder to write; an earlier export there is replaced")],
    runtime: Annotated[str | None, Option(help="onnxruntime-web for the page: its folder, or 'npm' fetches it")] = None,
) -> None:
    """Ship a detector as a folder of at most 5 MB that scores and explains without torch, in Python or in a browser."""
    fitted = sd.SDMAD.load(detector, device="cpu")
    folder = export_detector(fitted, out, runtime).resolve()
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    told = {"detector": detector, "out": str(folder), "files": sizes, "notice": NOTICE}
    lines = [f"{size / 1e6:7.2f} MB  {name}" for name, size in sorted(sizes.items())]
    how = f"python {folder / 'score.py'} IMAGE, or the page: python -m http.server --bind 127.0.0.1 -d {folder}"
    answer(told, "\n".join([*lines, NOTICE, f"export: {folder}", f"use: {how}"]))
