"""`sdmad fit`: fit a detector on one support set, and print the signs that it trusts."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ..files import NOTICE
from .common import Answer, add_backbone, add_command, add_data, add_signs, at_least, named, read_table, remark


def add(commands) -> None:
    """Describe the command."""
    command = add_command(
        commands,
        "fit",
        fit,
        "fit a detector on a support set, and save it",
        "sdmad fit --data data_samples/chest --signs chest_phantoms --shots 4 --out build/detector",
    )
    add_data(command, split="train")
    add_signs(command)
    command.add_argument("--out", required=True, help="folder of the detector; an earlier detector there is replaced")
    command.add_argument("--shots", type=int, help="positives per category to draw, by patient (default: all rows)")
    command.add_argument("--seed", type=int, default=0, help="of the draw and of everything random (default 0)")
    command.add_argument("--categories", help="comma-separated categories to use (default: all that the data have)")
    command.add_argument("--steps", type=int, help="optimiser steps of stage 1; 0 trains nothing (default 100)")
    command.add_argument("--lam", type=float, help="share of the frozen layers' output, in [0, 1] (default 0.7)")
    command.add_argument("--checkpoint", metavar="DIR", help="keep checkpoints here; a second call goes on from them")
    add_backbone(command)


def fit(args: argparse.Namespace) -> Answer:
    """The command."""
    from ..alignment import AdapterConfig, AlignmentConfig
    from ..data import draw_support
    from ..detector import SDMAD
    from ..evaluation.seen_images import write_seen
    from ..files import new_folder
    from ..signs.bank import load_bank

    at_least(args, shots=1, seed=0, steps=0)
    bank = load_bank(args.signs)
    table = read_table(args, bank.categories)
    if args.categories:
        table = table.restricted(named("--categories", args.categories, table.categories, "a category of the data"))
    if missing := [c for c in bank.categories if c not in table.categories]:
        remark(args, f"left out, not in the data or not asked for: {', '.join(missing)}")
    support = table.rows(draw_support(table, args.shots, args.seed)) if args.shots else table
    adapters = AdapterConfig() if args.lam is None else AdapterConfig(lam=args.lam)
    alignment = AlignmentConfig() if args.steps is None else AlignmentConfig(steps=args.steps)
    make, settings = SDMAD, {"adapters": adapters, "alignment": alignment}
    if not alignment.steps:
        make, settings = SDMAD.training_free, {}
    bank = bank.restricted(list(table.categories))
    with new_folder(args.out, "detector.json") as folder:
        detector = make(
            bank,
            backbone=args.backbone,
            pretrained=args.pretrained,
            device=args.device,
            **settings,
            random_state=args.seed,
        )
        more = {"checkpoint": args.checkpoint} if args.checkpoint else {}
        detector.fit(support.images, support.labels, progress=not args.quiet, **more)
        detector.save(folder)
        write_seen(folder, support, bank.color)
    signs = detector.selected_signs()
    positives = dict(zip(bank.categories, support.labels.sum(0).tolist(), strict=True))
    out = str(Path(args.out).resolve())
    data = {
        "detector": out,
        "images": len(support),
        "positives": positives,
        "normal": int((support.labels.sum(1) == 0).sum()),
        "thresholds": dict(zip(bank.categories, detector.thresholds_.tolist(), strict=True)),
        "signs": {category: [asdict(sign) for sign in rows] for category, rows in signs.items()},
        "notice": NOTICE,
    }
    lines = [f"fitted on {len(support)} images, {data['normal']} of them normal"]
    for category, rows in signs.items():
        lines.append(f"\n{category} ({positives[category]} positives, threshold {data['thresholds'][category]:.3f})")
        lines += [f"  {row.weight:6.3f}  {row.text}" for row in rows if row.kept]
        if dropped := sum(not row.kept for row in rows):
            lines.append(f"  {dropped} dropped")
    return Answer(data, "\n".join([*lines, "", NOTICE, f"detector: {out}"]))
