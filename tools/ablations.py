"""Other settings of SD-MAD and of the baselines, on validation draws: other images and draws than any reported result.

    python tools/ablations.py                    # each part of the method changed alone: docs/results/ablations.md
    python tools/ablations.py --shots 16
    python tools/ablations.py --only "lambda 0.5" "one view"    # in parts; a run without --only writes the page
    python tools/ablations.py --baselines        # hyper-parameters of the baselines: docs/results/tuning.md

Images are phantoms of all modalities with labels of the kept-out categories; pool and validation images have seeds of
their own. A row is one setting; its result is one file in build/ablations. For teaching and research; not for
clinical use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from benchmark import clip, phantom_table
from research_baselines import BASELINES
from shared import difference, number, one_thread, spread, table
from tqdm import tqdm

from sdmad_lite.alignment import (
    AdapterConfig,
    AlignmentConfig,
    installed,
    iter_augmented,
    record_activations,
)
from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.baselines import Query, Support, embed_augmented
from sdmad_lite.evaluation.experiment import IMAGE_ONLY
from sdmad_lite.evaluation.intervals import paired
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.files import NOTICE
from sdmad_lite.selection import TRAINING_FREE, EvidenceConfig, SelectionConfig, SignSelector, logistic, margins
from sdmad_lite.show.report import write_json
from sdmad_lite.signs.bank import SignBank, parse_bank
from sdmad_phantoms import MODALITIES, modality_named

POOL, VALIDATION, FIRST_DRAW = (500, 2000), (600, 2001), 100
CELLS, PAGES = Path("build/ablations"), Path("docs/results")
SHIPPED = "as shipped"


@dataclass(frozen=True)
class Setting:
    """One row: settings of both stages, and which signs the bank has."""

    adapters: AdapterConfig = field(default_factory=AdapterConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    selection: SelectionConfig | None = None
    signs: int | None = None
    """At most this many signs of each category and of a normal image."""
    shared: bool = True
    """Whether signs of more than one category stay."""
    rules: dict[str, SelectionConfig] = field(default_factory=dict)
    """Further rules of stage 2, measured on the same fitted detector."""


ALONE = "signs alone"
RULES = {
    f"{ALONE}, {SHIPPED}": SelectionConfig(),
    f"{ALONE}, all signs (stage 1 alone)": SelectionConfig(rule="all"),
    f"{ALONE}, best half by support AUROC": SelectionConfig(rule="rank"),
    f"{ALONE}, best quarter by support AUROC": SelectionConfig(rule="rank", keep=0.25),
    f"{ALONE}, no pull to equal weights": SelectionConfig(pull=0),
    f"{ALONE}, a sixteenth of the pull": SelectionConfig(pull=16),
    f"{ALONE}, covariance not shrunk": SelectionConfig(shrink=0),
    f"{ALONE}, covariance shrunk by 0.8": SelectionConfig(shrink=0.8),
    f"{ALONE}, light signs not dropped": SelectionConfig(drop_below=0),
    f"{ALONE}, also with one positive": SelectionConfig(least_positives=1),
}
SHARES = (0, 0.25, 0.75, 1)
FREE_RULES = {
    "training-free, all signs": SelectionConfig(rule="all"),
    "training-free, best half by support AUROC": SelectionConfig(rule="rank"),
    "training-free, pull as after stage 1": SelectionConfig(least_positives=1),
    "training-free, no pull": SelectionConfig(pull=0, least_positives=1),
}
ROWS = {
    SHIPPED: Setting(rules=RULES),
    "training-free": Setting(
        alignment=AlignmentConfig(steps=0, augmentations=1), selection=TRAINING_FREE, rules=FREE_RULES
    ),
    "without the discrepancy term": Setting(alignment=AlignmentConfig(discrepancy=0)),
    "discrepancy term times 10": Setting(alignment=AlignmentConfig(discrepancy=1)),
    "without the intra-anomaly term": Setting(alignment=AlignmentConfig(intra=0)),
    "inter-anomaly term with hardness 2": Setting(alignment=AlignmentConfig(hardness=2)),
    "without mixing": Setting(alignment=AlignmentConfig(mixup=0)),
    "one view": Setting(alignment=AlignmentConfig(augmentations=1)),
    "adapters in the image tower only": Setting(adapters=AdapterConfig(text_share=0)),
    "adapters in the text tower only": Setting(adapters=AdapterConfig(vision_share=0)),
    "adapters in all image layers": Setting(adapters=AdapterConfig(vision_share=1)),
    "lambda 0.9": Setting(adapters=AdapterConfig(lam=0.9)),
    "lambda 0.5": Setting(adapters=AdapterConfig(lam=0.5)),
    "bottleneck of half the width": Setting(adapters=AdapterConfig(reduction=2)),
    "bottleneck of a sixteenth": Setting(adapters=AdapterConfig(reduction=16)),
    "one sign a category": Setting(signs=1),
    "two signs a category": Setting(signs=2),
    "without shared signs": Setting(shared=False),
    "six signs drawn in each step": Setting(alignment=AlignmentConfig(sign_batch=6)),
}
GRIDS = {
    "linear probe": ({}, {"strength": 0.01}, {"strength": 100}),
    "text-initialised probe": ({}, {"pull": 1.0}, {"pull": 0.0}, {"lr": 1e-2}),
    "Tip-Adapter-F": ({}, {"alpha": 3.0}, {"alpha": 30.0}, {"beta": 20.0}, {"lr": 1e-2}),
    "CLIP-Adapter": ({}, {"ratio": 0.2}, {"ratio": 0.9}, {"lr": 3e-3}),
    "visual adapter": ({}, {"residual": 0.1}, {"lr": 3e-3}),
    "small CNN": ({}, {"steps": 200}, {"lr": 1e-3}),
    "prototypical episodes": ({}, {"episodes": 400}, {"lr": 1e-3}),
    "first-order MAML": ({}, {"inner_lr": 0.1}, {"adapt_steps": 40}),
    "Gaussian discriminant": ({}, {"alpha": 3.0}, {"alpha": 300.0}),
    "kernel ridge": ({}, {"ridge": 0.1}, {"beta": 0.5}, {"scale": 3.0}, {"scale": 10.0}),
    "blended probe": ({}, {"start": 3.0}, {"lr": 3e-2}, {"steps": 300}),
    "concepts": ({}, {"keep": 0.3}, {"keep": 1.0}, {"lr": 1e-2}, {"cover": 0.0}),
    "two stages": ({}, {"lr": 3e-3}, {"steps": 60}),
}


@lru_cache(maxsize=3)
def tables(name: str) -> tuple[ImageTable, ImageTable, torch.Tensor]:
    """Pool, validation images and their frozen embeddings."""
    kind = modality_named(name)
    pool, validation = (phantom_table(count, seed, kind) for count, seed in (POOL, VALIDATION))
    return pool, validation, clip().encode_images(validation.images, color=kind.bank.color)


def bank_of(name: str, setting: Setting) -> SignBank:
    """The bank of the kept-out categories with the signs that the setting leaves."""
    kind = modality_named(name)
    bank = kind.bank.restricted(list(kind.kept_out))
    signs = [s for s in bank.signs if setting.shared or len(s.categories) == 1]
    if setting.signs is not None:
        left = {text for c in bank.categories for text in bank.signs_of(c)[: setting.signs]}
        signs = [s for s in signs if s.text in left]
    fewer = {"signs": [s.model_dump() for s in signs], "normal_signs": bank.normal_signs[: setting.signs]}
    return parse_bank(bank.model_dump() | fewer)


Row = Callable[[str, ImageTable, int], dict[str, np.ndarray]]
"""From a modality, a support set and a draw to scores of the validation images, by title."""


def averaged(row: Row, shots: int, draws: int) -> dict[str, list[float]]:
    """Macro mAP of each title: a value a draw, mean over modalities."""
    out: dict[str, list[float]] = {}
    for draw in range(draws):
        values: dict[str, list[float]] = {}
        for name in MODALITIES:
            pool, validation, _ = tables(name)
            support = pool.rows(draw_support(pool, shots, FIRST_DRAW + draw))
            for title, scores in row(name, support, draw).items():
                macro = evaluate(scores, validation.labels, validation.categories).multilabel.macro
                values.setdefault(title, []).append(macro.ap)
        for title, parts in values.items():
            out.setdefault(title, []).append(float(np.mean(parts)))
    return out


def own_row(row: str) -> Row:
    """One setting, and further rules of stage 2 on the same detector."""
    setting = ROWS[row]

    def scores(name: str, support: ImageTable, draw: int) -> dict[str, np.ndarray]:
        _, validation, _ = tables(name)
        trained, common = bool(setting.alignment.steps), {"backbone": clip(), "random_state": draw}
        if trained:
            parts = {"adapters": setting.adapters, "alignment": setting.alignment, "selection": setting.selection}
            detector = SDMAD(bank_of(name, setting), **parts, **common).fit_table(support)
        else:
            detector = SDMAD.training_free(bank_of(name, setting), augmentations=1, **common).fit_table(support)
        z, h = detector.features(validation.images)
        found = {row: detector.logits(z, h)}
        if row == SHIPPED:
            by_image = detector.image_logits(h)
            by_signs, share = found[row] - by_image, detector.evidence.share
            for other in SHARES:
                found[f"share of image evidence {other}"] = (
                    by_signs * (1 - other) / (1 - share) + by_image * other / share
                )
            found |= poolings(detector, support, h)
        for rule, config in setting.rules.items():
            chosen = SignSelector(config).fit(detector.support_cosines_, support.labels, detector.membership)
            found[rule] = margins(z, chosen.weights_)
        return found

    return scores


def poolings(detector: SDMAD, support: ImageTable, h: np.ndarray) -> dict[str, np.ndarray]:
    """Image evidence alone, from each part of h and from some together."""
    with torch.no_grad(), installed(clip(), detector.adapters_), record_activations(clip()) as recorded:
        prepared, count = clip().prepare(support.images, detector.bank.color), detector.alignment.augmentations
        for pixels in iter_augmented(clip(), prepared, count, detector.random_state):
            clip().image_features(pixels)
    learnt, labels = torch.cat(recorded).cpu().double().numpy(), np.tile(support.labels, (count, 1))
    found = {f"{IMAGE_ONLY}, {SHIPPED}": detector.image_logits(h)}
    names, width = ("mean", "maximum", "deviation"), h.shape[1] // 3
    for parts in ((0,), (1,), (2,), (0, 1)):
        columns = np.concatenate([np.arange(i * width, (i + 1) * width) for i in parts])
        weights, bias = logistic(learnt[:, columns], labels, detector.evidence.strength)
        found[f"{IMAGE_ONLY}, {' and '.join(names[i] for i in parts)} only"] = h[:, columns] @ weights.T + bias
    return found


def baseline_row(row: str) -> Row:
    """Every hyper-parameter of one baseline's grid."""

    def scores(name: str, support: ImageTable, draw: int) -> dict[str, np.ndarray]:
        _, validation, u = tables(name)
        bank = bank_of(name, Setting())
        augmented = embed_augmented(clip(), support.images, AlignmentConfig().augmentations, draw, bank.color)
        v = clip().encode_texts(bank.texts)
        given = Support(support.images, support.labels, augmented[0], v, bank, clip(), draw, augmented)
        found = {}
        for change in GRIDS[row]:
            title = f"{row}, {json.dumps(change)[1:-1] or SHIPPED}"
            found[title] = replace(BASELINES[row], **change)(given)(Query(validation.images, u))
        return found

    return scores


def measured(task: tuple[str, int, int]) -> dict[str, list[float]]:
    """One row at one K, from its file where that answers the same question."""
    row, shots, draws = task
    measure, what = (own_row, ROWS[row]) if row in ROWS else (baseline_row, (BASELINES[row], GRIDS[row]))
    question = repr(
        [clip().fingerprint, row, shots, draws, what, SHARES, EvidenceConfig(), POOL, VALIDATION, FIRST_DRAW]
    )
    path = CELLS / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        CELLS.mkdir(parents=True, exist_ok=True)
        write_json(path, averaged(measure(row), shots, draws))
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baselines", action="store_true", help="hyper-parameters of the baselines instead")
    parser.add_argument("--shots", type=int, nargs="+", default=[4])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="measure these rows into build/ablations, and write no page")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    rows_of = GRIDS if args.baselines else ROWS
    if unknown := set(args.only or ()) - set(rows_of):
        parser.error(f"--only {min(unknown)!r}: rows are {', '.join(map(repr, rows_of))}")
    tasks = [(row, k, args.draws) for row in args.only or rows_of for k in args.shots]
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), one_thread) as pool:
        results = list(tqdm(pool.map(measured, tasks), total=len(tasks)))
    if args.only:
        return print(f"{CELLS}: {len(tasks)} cells; once more without --only writes the page")
    rows: dict[str, dict[int, list[float]]] = {}
    for (_, shots, _), result in zip(tasks, results, strict=True):
        for title, values in result.items():
            rows.setdefault(title, {})[shots] = values
    page = PAGES / ("tuning.md" if args.baselines else "ablations.md")
    command = "python tools/ablations.py --shots " + " ".join(map(str, args.shots)) + f" --draws {args.draws}"
    page.write_text(text(rows, args.shots, command + " --baselines" * args.baselines), encoding="utf-8")
    print(page)


def text(rows: dict[str, dict[int, list[float]]], shots: list[int], command: str) -> str:
    """The page: each setting's mAP, and its paired difference to the row as shipped."""
    head = "Hyper-parameters of the baselines" if "--baselines" in command else "What each part is worth"
    lines = [f"# {head}", "", f"{NOTICE} Made by `{command}`.", ""]
    lines += [
        "Macro mAP on validation images, mean over the three modalities of phantoms, kept-out categories; these images "
        "and draws are no part of any reported result. Mean and 95 % interval over draws, and the paired difference to "
        f"the row {SHIPPED}, bold where its interval excludes zero.",
        "",
    ]
    cells = {}
    for title, values in rows.items():
        base = next(t for t in (title.split(",")[0] + f", {SHIPPED}", SHIPPED) if t in rows)
        row = []
        for k in shots:
            mean = spread(values[k])
            change = "" if title == base else f"; {difference(asdict(paired(values[k], rows[base][k])))}"
            row.append(number(mean) + change)
        cells[title] = row
    return "\n".join([*lines, *table("setting", cells, [str(k) for k in shots])]) + "\n"


if __name__ == "__main__":
    main()
