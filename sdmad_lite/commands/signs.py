"""`sdmad signs`: have a language model write a sign bank, and check one."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict

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


def check_signs(args: argparse.Namespace) -> Answer:
    """`sdmad signs check`."""
    from ..lint import check_bank

    backbone = None
    if args.backbone:
        from ..backbone import load_clip

        backbone = load_clip(args.backbone, args.pretrained, args.device)
    found = check_bank(args.bank, backbone)
    count = Counter(finding.severity for finding in found)
    failed = bool(count["error"] or (args.strict and count["warning"]))
    shown = [f for f in found if args.notes or f.severity != "note"]
    lines = [f"{finding.severity}: {finding}" for finding in shown]
    lines.append(f"{args.bank}: {count['error']} errors, {count['warning']} warnings, {count['note']} notes")
    data = {"bank": args.bank, "errors": count["error"], "warnings": count["warning"], "notes": count["note"]}
    return Answer(data | {"findings": [asdict(finding) for finding in found]}, "\n".join(lines), int(failed))
