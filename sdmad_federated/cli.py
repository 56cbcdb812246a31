"""`sdmad federate`: `serve` in one place, `join` in each hospital."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

import sdmad_lite as sd
from sdmad_lite.cli import answer, command
from sdmad_lite.errors import SDMADError
from sdmad_lite.files import NOTICE, new_folder
from sdmad_lite.options import Model, Part, Stage1, parts_of
from sdmad_lite.running import remove_checkpoint
from sdmad_lite.storage import write_detector

from . import SENT, Site, flower

app = typer.Typer(
    help="One detector of several hospitals, whose images stay there.", rich_markup_mode=None, add_completion=False
)
Address = Annotated[str, Option(metavar="HOST:PORT", help="of the server")]
Patience = Annotated[float, Option(min=1, help="seconds to wait for the others")]
Signs = Annotated[str, Option(help="sign bank, the same in all places")]
Categories = Annotated[str | None, Option(help="comma-separated categories of it (default: all)")]


def bank_of(signs: str, categories: str | None) -> Any:
    """The bank with the categories asked for."""
    bank = sd.load_bank(signs)
    return bank.restricted(parts_of(categories)) if categories else bank


@command(app, "serve", "sdmad federate serve --signs chest_phantoms --sites 3 --out build/together")
def serve(
    signs: Signs,
    sites: Annotated[int, Option(min=1, help="how many take part")],
    out: Annotated[str, Option(help="folder of the detector; an earlier detector there is replaced")],
    stage1: Stage1,
    model: Model,
    categories: Categories = None,
    local_steps: Annotated[int, Option(min=1, help="of stage 1 at each site between two averages")] = 10,
    address: Address = "127.0.0.1:8470",
    certificates: Annotated[str | None, Option(metavar="DIR", help="with ca.pem, server.pem and server.key")] = None,
    patience: Patience = 600.0,
    seed: Annotated[int, Option(min=0, help="of everything random")] = 0,
) -> None:
    """Fit one detector with sites that join: adapters and sums travel, images stay. It needs no image."""
    detector = stage1.detector(bank_of(signs, categories), model.load(), seed)
    how: dict[str, Any] = {"local_steps": local_steps, "checkpoint": stage1.checkpoint, "patience": patience}
    with new_folder(out, "detector.json") as folder:
        flower.serve(detector, sites, address, certificates=certificates, **how)
        write_detector(detector, folder)
    remove_checkpoint(stage1.checkpoint)
    where = str(Path(out).resolve())
    answer(
        {"detector": where, "sites": sites, "notice": NOTICE}, f"fitted with {sites} sites\n{NOTICE}\ndetector: {where}"
    )


@command(
    app,
    "join",
    "sdmad federate join --data data_samples/chest --signs chest_phantoms --name north --out build/d",
)
def join(
    source: Part,
    signs: Signs,
    name: Annotated[str, Option(help="by which the others know this site")],
    out: Annotated[str, Option(help="folder of the detector of all; an earlier detector there is replaced")],
    model: Model,
    categories: Categories = None,
    least: Annotated[int, Option(help="patients of a category, below which its images stay out")] = 5,
    address: Address = "127.0.0.1:8470",
    certificate: Annotated[str | None, Option(metavar="FILE", help="ca.pem of the server")] = None,
    patience: Patience = 600.0,
) -> None:
    """Take part with the images of this place, and say what left it. All train rows are used."""
    bank = bank_of(signs, categories)
    table = source.table(bank.categories, usual="train")
    if categories:
        table = table.restricted(list(bank.categories))
    if missing := [c for c in bank.categories if c not in table.categories]:
        raise SDMADError(
            f"{source.data}: no column {missing[0]!r}; give its labels, or all places --categories without it"
        )
    site = Site(table, bank, model.load(), name=name, least=least)
    with new_folder(out, "detector.json") as folder:
        write_detector(flower.join(site, address, certificate=certificate, patience=patience), folder)
    sent = [{"what": SENT[task], "answers": times, "bytes": size} for task, (times, size) in site.sent.items() if size]
    lines = [f"{row['bytes']:>12,} bytes in {row['answers']} answers: {row['what']}" for row in sent]
    where = str(Path(out).resolve())
    told = {"detector": where, "images": len(site.table), "sent": sent, "notice": NOTICE}
    answer(
        told,
        "\n".join([f"{len(site.table)} images took part; what left this place:", *lines, NOTICE, f"detector: {where}"]),
    )
