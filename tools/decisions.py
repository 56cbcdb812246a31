"""What can be promised from K positives? `python tools/decisions.py` writes docs/results/decisions.md and its picture.

For each support draw of chest phantoms a detector is fitted and cross-fitted, and scores phantoms of another seed. A
draw lies in build/decisions when it is done, and is not done again (some 20 minutes on one core for all). For teaching
and research; not for clinical use.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from shared import table
from sklearn.metrics import brier_score_loss
from tqdm import tqdm

from sdmad_course.reliability import reliability
from sdmad_lite import SDMAD, load_clip
from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.deployment.decisions import TOO_FEW, WORDS, Decisions, cross_fit, promised_cover
from sdmad_lite.evaluation.intervals import figure_text, mean_interval
from sdmad_lite.files import NOTICE
from sdmad_lite.show.plots import BLUE, GREY, finish, new_figure, to_png
from sdmad_phantoms import CHEST, sample_phantoms

PAGE, PICTURE, STORE = Path("docs/results/decisions.md"), Path("docs/results/reliability.png"), Path("build/decisions")
NAMES, POOL, TEST, LEVEL, BINS = CHEST.kept_out, 31, 32, 0.9, 5
HEAD = """# What can be promised from K positives

Chest phantoms of the categories that the embedded CLIP never saw. Support sets are drawn from {pool} phantoms of one
seed; everything below is measured on {test} phantoms of another seed. Mean and 95 % t-interval over {draws} support
draws of K shots, each a mean over {categories} categories. {notice}

Made by `python tools/decisions.py`. Nothing was chosen on these images."""


def phantoms(count: int, seed: int) -> ImageTable:
    """A table of new phantoms."""
    drawn = list(sample_phantoms(count, seed, categories=NAMES))
    labels = np.array([[int(name in phantom.categories) for name in NAMES] for phantom in drawn])
    patients = tuple(phantom.patient.patient_id for phantom in drawn)
    return ImageTable(tuple(phantom.image for phantom in drawn), labels, NAMES, {"patient_id": patients})


def collect(pool: ImageTable, test: ImageTable, shots: int, draw: int, clip) -> tuple[Decisions, np.ndarray]:
    """Decisions of one draw, and the logits (T, C) of the test images."""
    file = STORE / f"{shots}_{draw}.npz"
    if not file.exists():
        detector = SDMAD(CHEST.bank.restricted(list(NAMES)), backbone=clip, random_state=draw)
        support = pool.rows(draw_support(pool, shots, draw))
        decisions = cross_fit(detector.fit_table(support), support)
        STORE.mkdir(parents=True, exist_ok=True)
        logits = detector.decision_function(test.images)
        np.savez(file, logits=decisions.logits, labels=decisions.labels, test=logits)
    with np.load(file) as kept:
        return Decisions(NAMES, kept["logits"], kept["labels"]), kept["test"]


def measured(decisions: Decisions, logits: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Figures of one draw on test labels y (T, C), means over the categories; nan where nothing can be promised."""
    said, (sets, enough) = decisions.answers(logits, LEVEL), decisions.sets(logits, LEVEL)
    right = np.take_along_axis(sets, y[..., None], 2)[..., 0]
    words = [*WORDS.ravel().tolist(), TOO_FEW]
    found = {f"answer: {word}": float((said == word).mean()) for word in words}
    for kind, of in {"with the category": [1], "without it": [0], "all": [0, 1]}.items():
        parts = [right[np.isin(y[:, c], of), c].mean() for c in range(y.shape[1]) if enough[c, of].all()]
        found[f"covered, {kind}"] = float(np.mean(parts)) if parts else np.nan
    share = y.mean(0)
    for name, p in {
        "as the detector says": expit(logits),
        "calibrated, prevalence of the support set": decisions.probabilities(logits),
        "calibrated, true prevalence": decisions.probabilities(logits, share),
        "the prevalence for everybody": np.tile(share, (len(y), 1)),
    }.items():
        found[f"Brier, {name}"] = float(np.mean([brier_score_loss(y[:, c], p[:, c]) for c in range(y.shape[1])]))
    estimate = decisions.prevalence(logits)
    found["prevalence, error of the estimate"] = float(np.abs(estimate[:, 0] - share).mean())
    found["prevalence, width of its interval"] = float((estimate[:, 2] - estimate[:, 1]).mean())
    found["prevalence, interval holds the truth"] = float(
        ((estimate[:, 1] <= share) & (share <= estimate[:, 2])).mean()
    )
    for recall in (0.8, 0.9):
        limits = decisions.safe_thresholds(recall, LEVEL)
        reached = [(expit(logits[y[:, c] == 1, c]) >= t).mean() for c, t in enumerate(limits) if not np.isnan(t)]
        found[f"recall {recall}, categories with a threshold"] = float((~np.isnan(limits)).mean())
        found[f"recall {recall}, of these reached it"] = (
            float(np.mean(np.array(reached) >= recall)) if reached else np.nan
        )
    return found


def curves(draws: list, y: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (B, 2, D): probability said and share that was, in each bin of each draw, all categories together."""
    out = {}
    for name in ("as the detector says", "calibrated"):
        each = [expit(z) if name != "calibrated" else d.probabilities(z, y.mean(0)) for d, z in draws]
        out[name] = np.array([[(b.said, b.was) for b in reliability(p.ravel(), y.ravel(), BINS)] for p in each])
    return {name: points.transpose(1, 2, 0) for name, points in out.items()}


def picture(found: dict[int, dict[str, np.ndarray]]) -> None:
    """The reliability diagrams."""
    figure = new_figure(8.4, 4.2)
    for axis, (shots, lines) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        axis.plot([0, 1], [0, 1], ":", color="black", linewidth=1)
        for (name, points), color in zip(lines.items(), (GREY, BLUE), strict=True):
            ends = np.array([mean_interval(was) for was in points[:, 1]])
            said = points[:, 0].mean(1)
            error = np.abs(ends[:, 1:] - ends[:, :1]).T
            axis.errorbar(said, ends[:, 0], error, color=color, marker="o", capsize=3, label=name)
        finish(
            axis, xlabel="probability said", ylabel="share that had it", title=f"K = {shots}", xlim=(0, 1), ylim=(0, 1)
        )
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    PICTURE.write_bytes(to_png(figure))


def page(pool: int, test: int, draws: int, found: dict[int, list[dict[str, float]]], lines) -> str:
    """The page as text."""
    text = [HEAD.format(pool=pool, test=test, draws=draws, categories=len(NAMES), notice=NOTICE), ""]
    names = list(dict.fromkeys(name for rows in found.values() for row in rows for name in row))

    def cell(name: str, rows: list[dict[str, float]]) -> str:
        known = [row[name] for row in rows if not np.isnan(row.get(name, np.nan))]
        return figure_text(*mean_interval(known)) if len(known) > 1 else "too few to say"

    cells = {name: [cell(name, rows) for rows in found.values()] for name in names}
    text += table("", cells, [str(shots) for shots in found])
    text += ["", READ, "", "## What the ranks allow", "", PROMISE, ""]
    promised = {str(n): promised_cover(n, LEVEL) for n in (4, 10, 11, 16, 32, 64)}
    text += table(
        "positives", {n: [figure_text(*p) if p else "too few to say"] for n, p in promised.items()}, ["covered"]
    )
    text += ["", "## Reliability", "", f"![Reliability at K = 4 and K = 16]({PICTURE.name})", "", BINNED, ""]
    rows = {}
    for shots, of in lines.items():
        for name, points in of.items():
            cells_of = [f"{said.mean():.2f}: {figure_text(*mean_interval(was))}" for said, was in points]
            rows[f"K = {shots}, {name}"] = cells_of
    return "\n".join([*text, *table("said: share that had it", rows, [f"bin {b}" for b in range(1, BINS + 1)]), ""])


READ = """Asked for is 0.9. at K = 4 no set promises that, and every answer is "too few to say"; nor can recall of 0.9
be promised for nine support sets in ten at K = 16, whatever the scores. All images together are to be covered between
0.87 and 0.93 where a promise is made. Images *with* a category come near what their rank promises (below), and that
is more than 0.9 at K = 16: no rank of so few lies between. Those *without* it are more, so their rank comes nearer to
0.9, but the two are not quite of one kind: among the support images without it more are normal. Calibration by a
logistic regression on so few scores is not ahead of the detector's own probabilities in the Brier score; it is what
lets the prevalence be put in."""
PROMISE = """Of n images of a kind, sets reach to rank k = ceil(0.9 (n + 1)). They cover a share of new images of that
kind that is Beta(k, n + 1 - k): its mean, and in brackets what one support set in twenty is below, or above."""
BINNED = """All categories together, in bins of equally many images, calibrated at the true prevalence; the intervals
are over support draws."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--pool", type=int, default=400, help="phantoms to draw support sets from")
    parser.add_argument("--test", type=int, default=400, help="phantoms to measure on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pool, test, clip = phantoms(args.pool, POOL), phantoms(args.test, TEST), load_clip(device="cpu")
    y, found, lines = np.asarray(test.labels), {}, {}
    for shots in args.shots:
        draws = [collect(pool, test, shots, d, clip) for d in tqdm(range(args.draws), desc=f"K = {shots}")]
        found[shots], lines[shots] = [measured(*draw, y) for draw in draws], curves(draws, y)
    picture(lines)
    PAGE.write_text(page(args.pool, args.test, args.draws, found, lines), encoding="utf-8")


if __name__ == "__main__":
    main()
