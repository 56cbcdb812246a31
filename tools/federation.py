"""Alone, together, pooled: what three sites gain by fitting one detector without sharing images.

    python tools/federation.py              # docs/results/federation.md
    python tools/federation.py --validate   # how often to average, on validation images and draws of their own

Phantoms of the categories that the embedded CLIP never saw. A site has patients of its own; `together` is fitted by
`fit_together` on the three, `pooled` on their images in one place. A cell is one modality, one division and one draw;
its result is one file in build/federation. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from benchmark import phantom_bank, phantom_table
from shared import difference, number, one_thread, table
from tqdm import tqdm

from sdmad_course.together import divided, joined
from sdmad_federated import SENT, Site, fit_together
from sdmad_lite import SDMAD
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import ImageTable
from sdmad_lite.evaluation.intervals import mean_interval, paired
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.files import NOTICE
from sdmad_phantoms import MODALITIES, modality_named

CELLS, PAGE = Path("build/federation"), Path("docs/results/federation.md")
DIVISIONS = {"equal": (8, 8, 8), "unequal": (16, 6, 5)}
"""Shots at each site: positives of each category, and normal images."""
POOL, TEST, VALIDATION = (1500, 7000), (800, 1001), (500, 2001)  # images and seed
DRAWS, FIRST_VALIDATION_DRAW, LOCAL_STEPS, CHOICES = 5, 100, 10, (1, 5, 10, 25)


@dataclass(frozen=True)
class Cell:
    """One measurement; `local_steps` of several values are measured in validation alone."""

    modality: str
    division: str
    draw: int
    local_steps: tuple[int, ...] = (LOCAL_STEPS,)
    alone: bool = True


@lru_cache(maxsize=3)
def images_of(modality: str, count: int, seed: int) -> ImageTable:
    return phantom_table(count, seed, modality_named(modality))


def measured(cell: Cell) -> dict:
    """Macro mAP and F1 of each fit on the test images, from its file where that answers the same question."""
    sight = load_clip()
    key = hashlib.sha256(
        f"{asdict(cell)} {DIVISIONS} {POOL} {TEST} {VALIDATION} {sight.fingerprint}".encode()
    ).hexdigest()
    path = CELLS / f"{cell.modality}_{cell.division}_{cell.draw}_{len(cell.local_steps)}.json"
    if path.exists() and (known := json.loads(path.read_text()))["key"] == key:
        return known
    bank, test = (
        phantom_bank(modality_named(cell.modality)),
        images_of(cell.modality, *(TEST if cell.alone else VALIDATION)),
    )
    tables = divided(images_of(cell.modality, *POOL), DIVISIONS[cell.division], cell.draw)

    def new() -> SDMAD:
        return SDMAD(bank, backbone=sight, random_state=cell.draw)

    def figures(detector: SDMAD) -> dict:
        macro = evaluate(detector.predict_proba(test.images), test.labels, test.categories, detector.thresholds_)
        return {"ap": macro.multilabel.macro.ap, "f1": macro.multilabel.macro.f1}

    found = {"key": key, "pooled": figures(new().fit_table(joined(tables)))}
    if cell.alone:
        found |= {f"site {i + 1} alone": figures(new().fit_table(one)) for i, one in enumerate(tables)}
    for steps in cell.local_steps:
        sites = [Site(one, bank, load_clip(), name=f"site {i + 1}") for i, one in enumerate(tables)]
        together = figures(fit_together(new(), sites, local_steps=steps))
        found[f"together, {steps} local steps" if len(cell.local_steps) > 1 else "together"] = together
        found["sent"] = sites[0].sent
    CELLS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def series(found: dict[Cell, dict], division: str, name: str, modality: str | None, figure: str = "ap") -> list[float]:
    """A figure of each draw, the mean over modalities where none is named."""
    chosen = [cell for cell in found if cell.division == division and modality in (None, cell.modality)]
    draws = sorted({cell.draw for cell in chosen})
    return [float(np.mean([found[c][name][figure] for c in chosen if c.draw == draw])) for draw in draws]


def interval(values: list[float]) -> str:
    mean, low, high = mean_interval(values)
    return number({"mean": mean, "low": low, "high": high})


def over(ours: list[float], theirs: list[float]) -> str:
    return difference(asdict(paired(ours, theirs)))


def page(found: dict[Cell, dict]) -> str:
    """The results as Markdown."""
    lines = ["# Together without sharing images", "", *INTRODUCTION.strip().splitlines()]
    heads = ["mAP", "together over it", "F1", "together over it "]
    for division, shots in DIVISIONS.items():
        lines += [
            *[""] * (lines[-1] != ""),
            f"## {division.capitalize()} sites: {', '.join(map(str, shots))} shots",
            "",
        ]
        for modality in (None, *MODALITIES):
            rows = {}
            for name in ("together", "pooled", *(f"site {i + 1} alone" for i in range(len(shots)))):
                cells = []
                for figure in ("ap", "f1"):
                    own, ours = (series(found, division, n, modality, figure) for n in (name, "together"))
                    cells += [interval(own), "" if name == "together" else over(ours, own)]
                rows[name] = cells
            lines += [*table(modality or "mean of all three", rows, heads), ""]
    sent = next(one for cell, one in found.items() if cell.division == "equal")["sent"]
    rows = {SENT[task]: [str(times), f"{size / 1000:,.0f}"] for task, (times, size) in sent.items() if size}
    lines += ["## What leaves a site", "", *WHAT_LEAVES.strip().splitlines(), ""]
    return "\n".join(lines + table("what", rows, ["times", "kB in all"])) + "\n"


INTRODUCTION = f"""
Three sites, each with patients of its own, fit one detector by `fit_together`
([federation.py](../../sdmad_federated/federation.py)): adapters and sums travel, images and labels stay.
Beside it each site alone, and a fit on the images of all in one place. Categories that the embedded CLIP never saw,
{TEST[0]} test phantoms, macro figures; mean and 95 % interval over {DRAWS} draws of patients, differences paired over
draws, bold where the interval excludes zero. {NOTICE}

Made by `python tools/federation.py`. The {LOCAL_STEPS} steps at each site between two averages were
chosen on validation images and draws of their own (`--validate`). Decision thresholds of `together` are estimated from
sums alone, so F1 stands beside mAP.
"""

WHAT_LEAVES = """
Of the first of the equal sites, chest, one draw, counted by `Site.sent`; nothing of it has a row for an image. A
category of fewer than five patients stays at home with all its images. That is a rule of thumb, not a proof: two sums
that differ by one patient give that patient away, and who sees many gradients can compute features of single images.
Where that matters, add secure aggregation and differential privacy, which this project does not have.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validate", action="store_true", help="compare numbers of local steps on validation images")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    kinds = list(MODALITIES)
    if args.validate:
        draws = range(FIRST_VALIDATION_DRAW, FIRST_VALIDATION_DRAW + args.draws)
        cells = [Cell(kind, "equal", draw, CHOICES, alone=False) for draw in draws for kind in kinds]
    else:
        cells = [Cell(kind, division, draw) for draw in range(args.draws) for kind in kinds for division in DIVISIONS]
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), one_thread) as pool:
        found = dict(zip(cells, tqdm(pool.map(measured, cells), total=len(cells)), strict=True))
    if not args.validate:
        PAGE.write_text(page(found), encoding="utf-8")
        print(PAGE)
        return
    pooled = series(found, "equal", "pooled", None)
    for steps in CHOICES:
        together = series(found, "equal", f"together, {steps} local steps", None)
        print(f"{steps} local steps: {interval(together)}, over pooled {over(together, pooled)}")


if __name__ == "__main__":
    main()
