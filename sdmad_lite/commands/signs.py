"""`sdmad signs`: have a language model write a sign bank, and check one."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from ..errors import GenerationError, OutputError
from .common import Answer, add_backbone, add_command


def add(commands) -> None:
    """Describe the commands."""
    group = commands.add_parser("signs", help="sign banks: have one written by a language model, check one")
    parts = group.add_subparsers(metavar="COMMAND", required=True)
    check = add_command(
        parts,
        "check",
        check_signs,
        "check a sign bank: what is wrong or doubtful, each with its line and a suggestion; exit code 1 after an error",
        "sdmad signs check chest_phantoms",
    )
    check.add_argument("bank", metavar="BANK", help="a JSON file, or the name of a shipped bank")
    check.add_argument("--strict", action="store_true", help="exit code 1 after a warning too")
    check.add_argument("--notes", action="store_true", help="print notes too, which need no change")
    add_backbone(check)
    check.set_defaults(backbone=None)
    write = add_command(
        parts,
        "generate",
        generate,
        "have a language model on an OpenAI-compatible server write a sign bank",
        'sdmad signs generate "Pleural effusion" Cardiomegaly --modality "chest radiograph" --model llama3.1 \\\n'
        "      --server http://localhost:11434/v1 --out build/my_signs.json",
    )
    write.add_argument("categories", nargs="+", metavar="CATEGORY", help='name, or "name: what it means"')
    write.add_argument("--modality", required=True, help='what the images are, such as "chest radiograph"')
    write.add_argument("--model", required=True, help="name of the model on the server")
    write.add_argument("--server", help="address (default: OPENAI_BASE_URL, or the hosted service)")
    write.add_argument("--key", metavar="VARIABLE", help="environment variable that holds the key of --server")
    write.add_argument("--out", required=True, help="JSON file to write")
    write.add_argument("--name", help="of the bank (default: the file's)")
    write.add_argument("--color", action="store_true", help="colours carry meaning in the images")
    write.add_argument("--signs", type=int, default=6, help="to ask for per category, 1 to 20 (default 6)")
    write.add_argument("--normal-signs", type=int, default=6, help="to ask for, 1 to 20 (default 6)")
    write.add_argument("--language", default="English", help="of the signs (default English)")
    write.add_argument("--temperature", type=float, default=0.2, help="of the sampling, 0 to 2 (default 0.2)")
    write.add_argument("--seed", type=int, default=0, help="of the sampling (default 0)")
    write.add_argument("--timeout", type=float, default=120.0, help="seconds for one answer (default 120)")
    write.add_argument("--retries", type=int, default=2, help="for a lost or malformed answer, 0 to 10 (default 2)")
    write.add_argument("--cache", metavar="DIR", help="folder of answers (default: in the user's cache folder)")
    write.add_argument("--prices", nargs=2, type=float, metavar=("IN", "OUT"), help="of a million tokens, for the cost")


def generate(args: argparse.Namespace) -> Answer:
    """`sdmad signs generate`; exit code 1 where the linter finds an error in what was written."""
    from ..signs.generate import generate_signs

    pairs = [text.partition(":") for text in args.categories]
    names = [name.strip() for name, _, _ in pairs]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise GenerationError(f"categories: {twice[0]!r} stands twice; remove one")
    if args.key and not os.environ.get(args.key):
        raise GenerationError(f"--key {args.key}: there is no such environment variable; set it to the server's key")
    out = Path(args.out)
    if out.is_dir():
        raise OutputError(f"{out}: is a folder; name a file in it")
    made = generate_signs(
        {name: what.strip() for name, (_, _, what) in zip(names, pairs, strict=True)},
        args.modality,
        model=args.model,
        base_url=args.server,
        api_key=os.environ[args.key] if args.key else None,
        name=args.name or out.stem,
        color=args.color,
        signs_per_category=args.signs,
        normal_signs=args.normal_signs,
        language=args.language,
        temperature=args.temperature,
        seed=args.seed,
        cache=args.cache or "default",
        timeout=args.timeout,
        retries=args.retries,
        prices=tuple(args.prices) if args.prices else None,
        progress=not args.quiet,
    )
    made.bank.save(out)
    errors = sum(finding.severity == "error" for finding in made.findings)
    data = {"out": str(out.resolve()), "form": made.form, "usage": asdict(made.usage), "bank": made.bank.name}
    data |= {"merged": list(made.merged), "dropped": list(made.dropped)}
    data |= {"findings": [asdict(finding) for finding in made.findings]}
    shown = [f"{f.severity}: {f}" for f in made.findings if f.severity != "note"]
    lines = [*(f"left out: {line}" for line in made.dropped), *shown, str(made), f"bank: {data['out']}"]
    return Answer(data, "\n".join(lines), int(errors > 0))


def check_signs(args: argparse.Namespace) -> Answer:
    """`sdmad signs check`."""
    from ..signs.lint import check_bank

    backbone = None
    if args.backbone:
        from ..clip.backbone import load_clip

        backbone = load_clip(args.backbone, args.pretrained, args.device)
    found = check_bank(args.bank, backbone)
    count = Counter(finding.severity for finding in found)
    failed = bool(count["error"] or (args.strict and count["warning"]))
    shown = [f for f in found if args.notes or f.severity != "note"]
    lines = [f"{finding.severity}: {finding}" for finding in shown]
    lines.append(f"{args.bank}: {count['error']} errors, {count['warning']} warnings, {count['note']} notes")
    data = {"bank": args.bank, "errors": count["error"], "warnings": count["warning"], "notes": count["note"]}
    return Answer(data | {"findings": [asdict(finding) for finding in found]}, "\n".join(lines), int(failed))
