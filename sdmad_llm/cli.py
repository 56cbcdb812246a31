"""`sdmad signs generate`: have a language model write a sign bank."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from sdmad_lite.cli import answer, command, output
from sdmad_lite.errors import SDMADError
from sdmad_lite.files import claimed_file

from .generate import generate_signs

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@dataclass(frozen=True)
class Asked:
    """What a language model is asked for, and where; the fields are arguments of `generate_signs`."""

    modality: Annotated[str, Option(help='what the images are, such as "chest radiograph"')]
    model: Annotated[str, Option(help="name of the model on the server")]
    base_url: Annotated[str | None, Option("--server", help="address (default: OPENAI_BASE_URL, or the hosted)")] = None
    api_key: Annotated[str | None, Option("--key", metavar="VARIABLE", help="of the environment, with the key")] = None
    name: Annotated[str | None, Option(help="of the bank (default: the file's)")] = None
    color: Annotated[bool, Option("--color", help="colours carry meaning in the images")] = False
    signs_per_category: Annotated[int, Option("--signs", help="to ask for per category, 1 to 20")] = 6
    normal_signs: Annotated[int, Option(help="to ask for, 1 to 20")] = 6
    language: Annotated[str, Option(help="of the signs")] = "English"
    temperature: Annotated[float, Option(help="of the sampling, 0 to 2")] = 0.2
    seed: Annotated[int, Option(help="of the sampling")] = 0
    timeout: Annotated[float, Option(help="seconds for one answer")] = 120.0
    retries: Annotated[int, Option(help="for a lost or malformed answer, 0 to 10")] = 2
    cache: Annotated[str, Option(metavar="DIR", help="folder of answers, by default the user's cache")] = "default"


@command(
    app,
    "generate",
    'sdmad signs generate "Pleural effusion" Cardiomegaly --modality "chest radiograph" --model llama3.1 \\\n'
    "      --server http://localhost:11434/v1 --out build/my_signs.json",
)
def generate(
    categories: Annotated[list[str], Argument(metavar="CATEGORY...", help='name, or "name: what it means"')],
    asked: Asked,
    out: Annotated[str, Option(help="JSON file to write")],
) -> None:
    """Have a language model on an OpenAI-compatible server write a sign bank."""
    pairs = [(named.strip(), what.strip()) for named, _, what in (text.partition(":") for text in categories)]
    if twice := [named for named, times in Counter(named for named, _ in pairs).items() if times > 1]:
        raise SDMADError(f"categories: {twice[0]!r} stands twice; remove one")
    if (key := asked.api_key) and not os.environ.get(key):
        raise SDMADError(f"--key {key}: there is no such environment variable; set it to the server's key")
    more = {"api_key": os.environ[key] if key else None, "name": asked.name or Path(out).stem}
    with claimed_file(out):  # answers may cost money
        made = generate_signs(dict(pairs), **asdict(asked) | more, progress=not output.quiet)
        made.bank.save(out)
    findings, where = [asdict(finding) for finding in made.findings], str(Path(out).resolve())
    told: dict[str, Any] = {"out": where, "usage": made.usage, "bank": made.bank.name}
    told |= {"merged": list(made.merged), "dropped": list(made.dropped), "findings": findings}
    lines = [f"left out: {line}" for line in made.dropped]
    lines += [f"{finding.severity}: {finding}" for finding in made.findings if finding.severity != "note"]
    failed = any(finding.severity == "error" for finding in made.findings)
    answer(told, "\n".join([*lines, str(made), f"bank: {where}"]), int(failed))
