"""A detector at work: what a memory of confirmed cases is worth, how quick it is, and what helps at another hospital.

python tools/at_work.py            # half an hour on one core; writes docs/results/memory.md and sites.md
python tools/at_work.py --speed    # the second table of memory.md alone
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.special import expit
from shared import number, one_thread, table
from tqdm import trange

from sdmad_course import samples, support_and_validation
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import ImageTable
from sdmad_lite.deployment.learning import FITTED, drift
from sdmad_lite.deployment.memory import ALARM, Memory
from sdmad_lite.deployment.sites import REMEDIES, compare_sites
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.intervals import mean_interval
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.files import write_text
from sdmad_phantoms import sample_phantoms

PAGES = Path(__file__).parents[1] / "docs" / "results"
SHOTS, DRAWS, STREAM, TEST = 4, 5, (0, 10, 30, 100, 300), 300
MACHINES = ("dark", "noisy")
COUNTED = "cases to the alarm, median (least to most)"
HEAD = "For teaching and research; not for clinical use. Made by `python tools/at_work.py`.\n"


def phantoms(count: int, seed: int, categories, machine=None) -> ImageTable:
    drawn = list(sample_phantoms(count, seed, categories, machine=machine))
    labels = np.array([[int(c in p.categories) for c in categories] for p in drawn])
    people = {"patient_id": tuple(p.patient.patient_id for p in drawn)}
    return ImageTable(tuple(p.image for p in drawn), labels, tuple(categories), people)


def figures(detector: SDMAD, features, labels: np.ndarray) -> dict[str, float]:
    p = expit(detector.logits(*features))
    macro = evaluate(p, labels, detector.bank.categories, detector.thresholds_).multilabel.macro
    return {"AUROC": macro.auroc, "F1": macro.f1, "Brier": float(((p - labels) ** 2).mean())}


def learning(detector: SDMAD, draw: int, found: dict) -> None:
    """Figures after so many cases, confirmed or self-made, into found[name of the row][figure]."""
    c = detector.bank.categories
    stream, test = phantoms(max(STREAM), 7000 + draw, c), phantoms(TEST, 8000 + draw, c)
    z, h = detector.features(stream.images)
    features, names = detector.features(test.images), [str(i) for i in range(len(h))]
    own = (expit(detector.logits(z, h)) >= detector.thresholds_).astype(int)
    for what, labels in (("confirmed", stream.labels), ("self-made", own)):
        with tempfile.TemporaryDirectory() as folder:
            memory, before = Memory(Path(folder) / "cases.db", detector), 0
            x = memory.embedded(stream.images)
            for count in STREAM:
                if count > before:
                    rows = slice(before, count)
                    memory.add_embedded(x[rows], labels[rows], names[rows], "tools", what == "self-made")
                before = count
                if not count and what == "self-made":  # once is enough
                    continue
                for name, value in figures(memory.detector(), features, test.labels).items():
                    found[f"{count} {what}" if count else "as fitted"][name].append(value)
    far = {machine: phantoms(60, 7000 + draw, c, machine) for machine in MACHINES}
    found["no change in 300 cases: false alarm of drift"]["share"].append(float(drift(h).max() >= ALARM))
    for machine, there in far.items():
        late = drift(np.vstack([h[:200], detector.features(there.images)[1]]))[200:]
        found[f"{machine} machine after 200 cases"][COUNTED].append(1 + int(np.argmax(late >= ALARM)))


def speed(detector: SDMAD, count: int = 10_000) -> list[str]:
    """Rows of a table: cases one by one and in batches, an update, a rollback."""
    rng, c, clock = np.random.default_rng(0), detector.bank.categories, {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        memory = Memory(Path(folder) / "cases.db", detector)
        few = memory.embedded(phantoms(100, 7000, c).images)

        def add(first: int, last: int) -> None:
            rows = range(first, last)
            labels = [[name for name in c if rng.random() < 0.3] for _ in rows]
            memory.add_embedded(few[rng.integers(len(few), size=len(rows))], labels, list(map(str, rows)), "tools")

        @contextmanager
        def timed(what: str, times: int):
            wall, cpu = time.perf_counter(), time.process_time()
            yield
            clock[what] = [times / (time.perf_counter() - wall), times / (time.process_time() - cpu)]

        one, many, opened_anew = f"{count:,} cases one by one", f"{count:,} more, 16 at once", "opened anew"
        with timed(one, count):
            for i in trange(count):
                add(i, i + 1)
        half = memory.detector()
        with timed(many, count):
            for i in trange(count, 2 * count, 16):
                add(i, i + 16)
        size = memory.file.path.stat().st_size / len(memory)
        with timed("update", 20):
            for i in range(3 * count, 3 * count + 20):
                add(i, i + 1)
                memory.detector()
        with timed(opened_anew, 1):
            opened = Memory(memory.file.path, detector)
        memory.rollback(count, who="tools")
        again, fresh = opened.detector(), Memory(memory.file.path, detector).detector()
        same = all(np.array_equal(getattr(half, n), getattr(d, n)) for d in (again, fresh) for n in FITTED)
    rows = {f"{n}, each time on the disk": [f"{x:.0f} a second" for x in clock[n]] for n in (one, many)}
    rows["one more case and the new detector"] = [f"{1000 / x:.0f} ms" for x in clock["update"]]
    rows[f"opened anew, {2 * count:,} cases"] = [f"{1 / x:.1f} s" for x in clock[opened_anew]]
    rows["rollback to the middle, and opened anew"] = ["exact to the bit" if same else "NOT exact", ""]
    rows["on the disk"] = [f"{size:.0f} bytes a case", ""]
    return table("", rows, ["by the clock", "by the core's own time"])


def lines(found: dict, columns: list[str]) -> list[str]:
    """A row for each name: means with intervals over draws, and what counts cases from its least to its most."""

    def cell(of: dict, column: str) -> str:
        if column == COUNTED:
            return f"{np.median(of[column]):.0f} ({min(of[column])} to {max(of[column])})" if column in of else ""
        values = mean_interval(of[column]) if column in of else None
        return number(dict(zip(("mean", "low", "high"), values, strict=True))) if values else ""

    return table("", {name: [cell(of, column) for column in columns] for name, of in found.items()}, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speed", action="store_true", help="print the table of speed alone")
    parser.add_argument("--detectors", type=Path, help="folder to keep detectors in, and to take them from")
    given = parser.parse_args()
    one_thread()
    bank, train, _ = samples("chest", kept_out=True)
    clip, found, at_sites = load_clip(device="cpu"), defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for draw in range(1 if given.speed else DRAWS):
        folder = given.detectors and given.detectors / f"det{SHOTS}_{draw}"
        if folder and folder.exists():
            detector = SDMAD.load(folder, clip)
        else:
            support, _ = support_and_validation(train, SHOTS, draw)
            detector = SDMAD(bank, backbone=clip, random_state=draw).fit_table(support)
            if folder:
                detector.save(folder)
        if given.speed:
            return print("\n".join(speed(detector)))
        learning(detector, draw, found)
        home = phantoms(TEST, 9000 + draw, bank.categories)
        for machine in MACHINES:
            there = phantoms(TEST, 9100 + draw, bank.categories, machine)
            for row in compare_sites(detector, home, there, shots=8, resamples=100, random_state=draw):
                at_sites[machine, row.remedy, row.site, row.figure].append((row.before, row.after, row.verdict))
        print(f"draw {draw}", dict(found), flush=True)
    drifts = {name: found.pop(name) for name in [*found] if "drift" in name or "machine" in name}
    what = (
        f"Chest phantoms of kept-out categories, {SHOTS} shots, {DRAWS} support draws, {TEST} other images to judge by"
    )
    text = [f"# A memory of confirmed cases\n\n{HEAD}\n{what}. Means with 95 % intervals over draws.\n"]
    text += [
        "Self-made labels are the detector's own decisions at its thresholds.\n",
        *lines(found, ["AUROC", "F1", "Brier"]),
    ]
    text += ["\n## Drift\n", f"An alarm at evidence {ALARM:,.0f}, from activations alone.\n"]
    text += lines(drifts, ["share", COUNTED])
    text += [
        "\n## Speed\n",
        "On one core; the clock also counts waiting for the disk and for other programs.\n",
        *speed(detector),
    ]
    write_text(PAGES / "memory.md", "\n".join(text) + "\n")
    rows = {}
    for (machine, *key), values in at_sites.items():
        before, after = (mean_interval([v[i] for v in values])[0] for i in (0, 1))
        change = mean_interval([v[1] - v[0] for v in values], (-1, 1))
        says = " ".join(f"{[v[2] for v in values].count(w)}/{DRAWS} {w};" for w in sorted({v[2] for v in values}))
        rows[", ".join([machine, *key])] = [
            f"{before:.3f}",
            f"{after:.3f}",
            "{:+.3f} [{:+.3f}, {:+.3f}]".format(*change),
            says[:-1],
        ]
    text = [f"# Another hospital\n\n{HEAD}\n{what}. Half of the patients of each site are there to adapt with."]
    text += ["The difference has a 95 % interval over draws; the verdict is that of each draw, over patients.\n"]
    text += [*(f"- {name}: {what}" for name, what in REMEDIES.items()), ""]
    text += table("machine, remedy, at, figure", rows, ["before", "after", "difference", "verdicts"])
    write_text(PAGES / "sites.md", "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
