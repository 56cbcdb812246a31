"""Does "any anomaly" still fire for what nobody showed? `python tools/left_out.py` fills docs/results/left_out.md.

Of each category kept out of pretraining in turn: SD-MAD is fitted without its images and without its signs, then asked
to tell test images that show it alone from normal ones, by the highest probability of the others. Beside it: the same
with the category among the shots. A cell is one modality, one file in build/left_out, so that a stopped run goes on.
For teaching and research on phantoms; not for clinical use.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import DRAWS, SEED, TEST, TRAIN, clip, phantom_bank, phantom_table, shipped
from shared import number, one_thread, resumed, spread, table
from tqdm import tqdm

from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.protocols import ranked
from sdmad_lite.files import NOTICE, write_text
from sdmad_phantoms import MODALITIES, modality_named

CELLS, PAGE, SHOTS = Path("build/left_out"), Path("docs/results/left_out.md"), 16
FIGURES = {"auroc": "AUROC of any", "fired": "any detected", "alarms": "any detected in normal images"}


def without(table: ImageTable, category: str) -> ImageTable:
    """The images that do not show a category, with the labels of the others."""
    others = [c for c in table.categories if c != category]
    rows = np.flatnonzero(table.labels[:, table.categories.index(category)] == 0)
    return table.rows(rows).restricted(others)


def fired(detector: SDMAD, images: ImageTable, abnormal: np.ndarray) -> dict[str, float]:
    """Figures of "any" on images of which (N,) bool are not normal."""
    p = detector.predict_proba(images.images)
    found = (p >= detector.thresholds_).any(1)
    auroc = ranked(abnormal, p.max(1))[0]
    return {"auroc": auroc, "fired": float(found[abnormal].mean()), "alarms": float(found[~abnormal].mean())}


def measured(name: str, shots: int, draws: int) -> dict[str, Any]:
    """category -> "left out" or "shown" -> figure -> draws; and how many images show it alone."""
    kind = modality_named(name)
    train, test = (phantom_table(count, SEED + i, kind) for i, count in enumerate((TRAIN, TEST)))
    bank = phantom_bank(kind)

    def detector(pool: ImageTable, draw: int) -> SDMAD:
        support = pool.rows(draw_support(pool, shots, draw))
        own = bank.restricted(list(pool.categories))
        return SDMAD(own, backbone=clip(), random_state=draw).fit_table(support)

    def measure() -> dict[str, Any]:
        rows: dict[str, dict[str, list]] = {c: {"left out": [], "shown": []} for c in bank.categories}
        alone = {}
        for draw in range(draws):
            every = detector(train, draw)
            for c, category in enumerate(bank.categories):
                shown = test.labels[:, c] == 1
                keep = (test.labels.sum(1) == 0) | (shown & (test.labels.sum(1) == 1))
                images, alone[category] = test.rows(np.flatnonzero(keep)), int((shown & keep).sum())
                for which, one in (("left out", detector(without(train, category), draw)), ("shown", every)):
                    rows[category][which].append(fired(one, images, shown[keep]))
        return {"alone": alone, "rows": rows}

    question = [
        clip().fingerprint,
        *shipped(),
        bank.model_dump_json(),
        train.labels.tolist(),
        test.labels.tolist(),
        shots,
        draws,
    ]
    return resumed(CELLS / f"{name}_k{shots}.json", question, measure)


def page(cells: dict[str, dict], shots: int, draws: int) -> str:
    """Both figures of each category, and the mean over all of them draw by draw."""

    def cut(rows: list[list[dict]]) -> list[str]:
        mean = {f: np.mean([[draw[f] for draw in row] for row in rows], axis=0) for f in FIGURES}
        return [number(spread(mean[f])) for f in FIGURES]

    lines: dict[str, list[str]] = {}
    for name, cell in cells.items():
        for category, found in cell["rows"].items():
            for which, row in found.items():
                lines[f"{name}, {category} ({cell['alone'][category]} images), {which}"] = cut([row])
    for which in ("left out", "shown"):
        every = [found[which] for cell in cells.values() for found in cell["rows"].values()]
        lines[f"mean of {len(every)} categories, {which}"] = cut(every)
    text = [
        '# Does "any anomaly" fire for what nobody showed?',
        "",
        f"{NOTICE} Made by `python tools/left_out.py --shots {shots} --draws {draws}`.",
        "",
        "Phantoms of the categories kept out of pretraining. A category is left out of the support set and of the sign",
        f"bank; SD-MAD has {shots} shots of each of the others. Test images show that category alone, or are normal;",
        "any is the highest probability of the categories that the detector knows, detected where one reaches its",
        f"threshold. Beside it the category is shown. Mean and 95 % interval over {draws} support draws.",
        "",
        *table("category", lines, list(FIGURES.values())),
    ]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=SHOTS, help=f"K (default {SHOTS})")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"support draws (default {DRAWS})")
    args = parser.parse_args()
    one_thread()
    cells = {name: measured(name, args.shots, args.draws) for name in tqdm(MODALITIES, desc="modalities")}
    write_text(PAGE, page(cells, args.shots, args.draws))
    print(PAGE)


if __name__ == "__main__":
    main()
