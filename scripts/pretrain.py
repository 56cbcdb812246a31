"""Pretrain the embedded CLIP on phantoms: `draw` a pool of images, `train` on it, `evaluate`, `export`.

    python scripts/pretrain.py draw --images 60000
    python scripts/pretrain.py train --minutes 60
    python scripts/pretrain.py evaluate
    python scripts/pretrain.py export

Three losses, all our choice (sigmoid contrastive learning after Zhai et al. 2023, arXiv 2303.15343):
  * signs: each image against every sign phrase of the batch, positive where the sign was drawn;
  * captions: each image against each caption of the batch, positive where all that it says is true;
  * patches: each patch against the sign phrases, positive where the sign changed that patch.
The categories in `KEPT_OUT` are never drawn and none of their own signs is ever named.
Each subcommand resumes after a stop; everything is seeded.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from sdmad_lite.phantoms import KEPT_OUT, chest_bank, sample_phantoms

WORK = Path("build/pretrain")
CHUNK = 2048
SEED = 20261122
SEEN = [c for c in chest_bank().categories if c not in KEPT_OUT]
SIGNS = [s for s in chest_bank().signs if set(s.categories) & set(SEEN)]
NORMAL = list(chest_bank().normal_signs)
NAMES = [s.id for s in SIGNS] + [s.id for s in NORMAL]


def draw_chunk(number: int, folder: Path) -> None:
    """One file of CHUNK phantoms: images, which signs are true, where they are (16 x 16) and on which side."""
    path = folder / f"chunk_{number:04d}.npz"
    if path.exists():
        return
    images = np.zeros((CHUNK, 128, 128), np.uint8)
    true = np.zeros((CHUNK, len(NAMES)), bool)
    where = np.zeros((CHUNK, len(SIGNS), 16, 16), np.uint8)
    side = np.zeros((CHUNK, len(SIGNS)), np.int8)
    category = np.zeros((CHUNK, len(SEEN)), bool)
    for i, phantom in enumerate(sample_phantoms(CHUNK, SEED + number, SEEN, images_per_patient=1)):
        images[i] = phantom.image
        for sign, name in zip(phantom.signs, phantom.sides, strict=True):
            s = NAMES.index(sign)
            true[i, s] = True
            where[i, s] = phantom.masks[sign].reshape(16, 8, 16, 8).mean((1, 3)) * 255
            side[i, s] = -1 if name == "right" else 1
        for sign in phantom.normal_signs():
            true[i, NAMES.index(sign)] = True
        for name in phantom.categories:
            category[i, SEEN.index(name)] = True
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, images=images, true=true, where=where, side=side, category=category)
    part.rename(path)


def draw(args: argparse.Namespace) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    count = math.ceil(args.images / CHUNK)
    with get_context("spawn").Pool(args.workers) as pool:
        list(tqdm(pool.imap_unordered(partial(draw_chunk, folder=WORK), range(count)), total=count, unit="chunk"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("draw", help="draw the pool of phantoms")
    sub.add_argument("--images", type=int, default=60000)
    sub.add_argument("--workers", type=int, default=1)
    sub.set_defaults(run=draw)
    arguments = parser.parse_args()
    arguments.run(arguments)
