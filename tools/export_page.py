"""What an exported detector is beside the full one. `python tools/export_page.py` writes docs/results/export.md.

Size, time and memory of both; whether scores, decisions and reasons agree on the test images of the samples; and, on
phantoms drawn for it, what other ways of making the tower small would have done. Ten minutes on one core. For teaching
and research; not for clinical use.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import json
import logging
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from scipy.special import expit
from scipy.stats import binomtest
from shared import one_thread, table
from sklearn.metrics import roc_auc_score

from sdmad_export.export import Tower, as_onnx, export_detector, smaller
from sdmad_export.runner import Exported
from sdmad_lite import SDMAD, load_bank, load_clip, load_data
from sdmad_lite.clip.backbone import EMBEDDED
from sdmad_lite.data import draw_support
from sdmad_lite.files import NOTICE, write_text
from sdmad_lite.selection import sign_scores
from sdmad_phantoms import sample_phantoms

PAGE, SAMPLES, MODALITIES = Path("docs/results/export.md"), Path("data_samples"), ("chest", "brain", "fundus")
SHOTS, SEED, FRESH = 16, 0, 200  # fresh phantoms of each modality, for the choice of a form
FULL = (
    "import sys; from sdmad_lite import SDMAD; detector = SDMAD.load(sys.argv[1], device='cpu'); "
    "detector.predict_proba([sys.argv[2]])"
)
ALONE = "import sys; sys.path.insert(0, sys.argv[1]); import score; score.Exported().predict_proba([sys.argv[2]])"
USED = (
    "; import resource; high = next(x for x in open('/proc/self/status') if x.startswith('VmHWM')); "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, high.split()[1])"
)
"""What such a process prints: seconds of the processor, and its peak memory in KiB (on Linux)."""
PACKAGES = {"full": ("torch", "torchvision", "open_clip_torch", "timm", "scipy", "scikit-learn", "numpy", "pillow")}
PACKAGES["export"] = ("onnxruntime", "numpy", "pillow")


class Said:
    """What one detector or another says of images, from what a tower gives: probabilities, decisions, reasons."""

    def __init__(self, detector: SDMAD, cosines: np.ndarray, activations: np.ndarray):
        self.scores = expit(detector.logits(cosines, activations))
        self.decisions = self.scores >= detector.thresholds_
        bars, kept = detector.contributions(cosines), [np.flatnonzero(w > 0) for w in detector.weights_]
        # for each category the images' own order of its kept signs, by what each adds
        self.reasons = [np.argsort(-bars[:, c, s], 1) for c, s in enumerate(kept)]

    def alike(self, other: Said) -> dict[str, np.ndarray]:
        """(N, C) where decisions, and the order of reasons, are the same."""
        orders = [(a == b).all(1) for a, b in zip(self.reasons, other.reasons, strict=True)]
        return {"decisions": self.decisions == other.decisions, "reasons": np.stack(orders, 1)}

    def auroc_moved(self, other: Said, labels: np.ndarray) -> float:
        """The largest difference over categories."""
        pairs = zip(labels.T, self.scores.T, other.scores.T, strict=True)
        return max(abs(roc_auc_score(y, a) - roc_auc_score(y, b)) for y, a, b in pairs)


def share(same: np.ndarray) -> str:
    """A share with its 95 % interval (Wilson)."""
    ends = binomtest(int(same.sum()), same.size).proportion_ci(method="wilson")
    return f"{same.mean():.2%} [{ends.low:.2%}, {ends.high:.2%}]"


def fitted(modality: str) -> tuple[SDMAD, object]:
    """A detector of 16 shots, and the test table."""
    bank = load_bank(f"{modality}_phantoms")
    table = load_data(SAMPLES / modality, bank.categories)
    train = table.part("train")
    detector = SDMAD(bank, backbone=load_clip(device="cpu"), random_state=SEED)
    return detector.fit_table(train.rows(draw_support(train, SHOTS, SEED))), table.part("test")


def seconds(work, rounds: int) -> str:
    """Milliseconds of the processor for one call: median and quartiles."""
    work()
    each = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        each.append((time.process_time() - start) * 1e3)
    low, middle, high = np.percentile(each, (25, 50, 75))
    return f"{middle:.1f} ms [{low:.1f}, {high:.1f}]"


def megabytes(*files: Path) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.2f} MB"


def installed(names: tuple[str, ...]) -> str:
    """Megabytes of packages on the disk, without what they need in turn."""
    files = (Path(file.locate()) for name in names for file in distribution(name).files or ())
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:,.0f} MB"


def new_process(code: str, *arguments: object) -> tuple[str, str]:
    """Seconds of the processor to the first answer, and peak memory, of three new processes."""
    told = []
    for _ in range(3):
        command = [sys.executable, "-c", code + USED, *map(str, arguments)]
        told.append(
            [float(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]
        )
    user, memory = np.median(told, 0)
    return f"{user:.1f} s", f"{memory / 1e3:,.0f} MB"


def side_by_side(detector: SDMAD, folder: Path, image: str, place: Path) -> list[str]:
    """Rows of both: size, time, memory."""
    full, exported = detector.save(place / "detector"), Exported(folder)
    first = new_process(FULL, full, image), new_process(ALONE, folder, image)
    weights = EMBEDDED / "open_clip_model.safetensors"
    rows = {
        "files": [megabytes(weights, *full.iterdir()), megabytes(*folder.iterdir())],
        "packages that it computes with": [installed(PACKAGES["full"]), installed(PACKAGES["export"])],
        "one image, from file to probabilities": [
            seconds(lambda: detector.predict_proba(image), 100),
            seconds(lambda: exported.predict_proba(image), 100),
        ],
        "of that the tower": [
            "",
            seconds(lambda: exported.tower.run(None, {"pixels": exported.prepare(image)[None]}), 100),
        ],
        "a new process to its first answer": [part[0] for part in first],
        "its peak memory": [part[1] for part in first],
    }
    return table("", rows, ["full detector", "exported"])


def forms(detector: SDMAD, place: Path) -> dict[str, Path]:
    """The tower in several forms, name -> file."""
    tower, names = Tower(detector).eval(), {}

    def written(name: str, change=lambda model: None) -> Path:
        program = as_onnx(tower)
        change(program.model)
        names[name] = place / f"{len(names)}.onnx"
        program.save(names[name])
        return names[name]

    whole = written("as it is, 32 bits")
    written("**linear 8 bits, convolutions 16**", smaller)

    def convolutions_too(model) -> None:
        for value in model.graph.initializers.values():
            weights = value.const_value.numpy()
            if weights.ndim == 4:
                scale = np.abs(weights).max((1, 2, 3), keepdims=True) / 127
                value.const_value = ir.tensor(np.rint(weights / scale).astype(np.float32) * scale)
        smaller(model)

    written("convolutions rounded to 8 bits too (kept in 16)", convolutions_too)
    folded = place / "folded.onnx"  # weights as constants, as the quantiser wants them
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(whole, options)
    for name, kinds in {"linear": ["MatMul", "Gemm"], "all": None}.items():
        file = names[f"dynamic: activations 8 bits too, {name}"] = place / f"{name}.onnx"
        how = {"weight_type": QuantType.QInt8 if kinds else QuantType.QUInt8, "per_channel": True}
        quantize_dynamic(folded, file, op_types_to_quantize=kinds, **how)
    return names


def compared(detector: SDMAD, modality: str, place: Path, found: dict[str, list]) -> None:
    """Add to each form what it says of fresh phantoms: same decisions, same reasons, and its size and time."""
    images = [phantom.image for phantom in sample_phantoms(FRESH, seed=977, modality=modality)]
    (z, h), config = detector.features(images), detector.alignment
    pixels, wanted = detector.backbone.prepare(images, detector.bank.color).numpy(), Said(detector, z, h)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    for name, file in forms(detector, place).items():
        session = onnxruntime.InferenceSession(file, options)
        asked = ["embedding", "activations", *["patches"] * (config.local > 0)]
        outputs = [session.run(asked, {"pixels": x[None]}) for x in pixels]
        u, activations, *patches = (np.concatenate(rows).astype(np.float64) for rows in zip(*outputs, strict=True))
        views = torch.from_numpy(np.hstack([part.reshape(len(u), -1, u.shape[1]) for part in (u, *patches)]))
        cosines = sign_scores(views, detector.sign_embeddings_.double(), config.local, config.patches).numpy()
        same = wanted.alike(Said(detector, cosines, activations))
        row = found.setdefault(name, [[], [], [], []])
        row[0].append(megabytes(file))
        row[1].append(seconds(lambda s=session: s.run(None, {"pixels": pixels[:1]}), 50))
        row[2].append(same["decisions"])
        row[3].append(same["reasons"])


TEXT = """# A detector in five megabytes

`sdmad export` beside the detector that it came from: {shots} shots of each category of the samples, on one core of
{machine}; torch {torch}, onnxruntime {runtime}, {date}. Made by `python tools/export_page.py`. {notice}

## Size, time, memory

Chest. Times are of the processor, median and quartiles of 100 images; asked for were at most 5 MB, and 15 ms for one
image. onnxruntime-web, with which the page in a browser computes, is 14.3 MB more. Packages are counted without what
they need in turn."""

PARITY = """## Does it say the same?

On the test images of the samples. Decisions are by the thresholds of the detector; the reasons of a category are the
same where its kept signs have the same order by what they add to its logit, down to the last. In brackets 95 %
intervals (Wilson). Asked for were 0.002, 99.5 % and 99 %."""

FORMS = """## Other ways to make it small

On {fresh} phantoms of each modality that were drawn for this. (The form was first tried on the test images above, where
labels have no part in it; this is its measure on others.) The size is that of the tower, on chest. Convolutions hold a
tenth of the weights, and their errors are in all that follows. Activations in 8 bits save time, which is not short."""


def main() -> None:
    one_thread()
    logging.disable(logging.WARNING)  # of the quantiser, about its own shapes
    parity, found = {}, {}
    for modality in MODALITIES:
        detector, test = fitted(modality)
        with tempfile.TemporaryDirectory() as name, torch.no_grad():
            place = Path(name)
            folder = export_detector(detector, place / "export")
            if modality == MODALITIES[0]:
                beside = side_by_side(detector, folder, str(test.images[0]), place)
            full, small = (
                Said(detector, *detector.features(test.images)),
                Said(detector, *Exported(folder).features(test.images)),
            )
            same = full.alike(small)
            moved = f"{full.auroc_moved(small, test.labels):.5f}"
            furthest = f"{np.abs(full.scores - small.scores).max():.4f}"
            parity[f"{modality}, {len(test)} images"] = [
                moved,
                furthest,
                share(same["decisions"]),
                share(same["reasons"]),
            ]
            compared(detector, modality, place, found)
    rows = {
        name: [size[0], times[0], *(share(np.concatenate([x.ravel() for x in same])) for same in (decisions, reasons))]
        for name, (size, times, decisions, reasons) in found.items()
    }
    versions = {"torch": torch.__version__, "runtime": onnxruntime.__version__, "machine": platform.machine()}
    about = versions | {"shots": SHOTS, "date": time.strftime("%Y-%m-%d"), "notice": NOTICE}
    lines = [TEXT.format(**about), "", *beside, "", PARITY, ""]
    heads = ["AUROC moves by at most", "a probability by at most", "decisions the same", "reasons the same"]
    lines += [*table("", parity, heads), "", FORMS.format(fresh=FRESH), ""]
    lines += table("", rows, ["size", "time", "decisions the same", "reasons the same"])
    write_text(PAGE, "\n".join(lines) + "\n")
    print(json.dumps({"parity": parity, "forms": rows}, indent=1, ensure_ascii=False), *beside, sep="\n")


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help writes nothing
    main()
