"""Peak memory of scoring 1,000, 10,000 and 100,000 images. `python tools/performance/memory.py`

Each size is scored in processes of its own, with one worker that reads, and reports the peak resident memory of both.
The archive is one folder of hard links to a few small images. The backbone is a tiny CLIP with random weights, made
here: only the number of images is asked about, and beside a small model anything that grows shows the more. At most
10 % more for 100,000 than for 10,000 images is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
from common import record, spread
from PIL import Image

SIZES, ROUNDS, KINDS = (1_000, 10_000, 100_000), 3, 16
ASKED = 1.10


def make_archive(folder: Path, count: int) -> None:
    """`count` names for KINDS images; more than one, since a file has a limit of links."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        path = folder / f"{i:06}.png"
        if i < KINDS:
            Image.fromarray(rng.integers(0, 255, (48, 48), dtype=np.uint8)).save(path)
        else:
            os.link(folder / f"{i % KINDS:06}.png", path)


def make_clip(folder: Path) -> str:
    """Name of a CLIP of 0.2 million parameters."""
    from sdmad_lite.clip.backbone import EMBEDDED

    text = {"tokenizer_kwargs": {"bpe_path": str(EMBEDDED / "bpe.txt.gz")}, "vocab_size": 4514, "context_length": 32}
    vision = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
    model = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {**text, "width": 32, "heads": 2, "layers": 2}}
    folder.mkdir()
    preprocess = {"mean": [0.45] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}), encoding="utf-8"
    )
    return f"local-dir:{folder}"


def score_one(clip: str, archive: str, out: str) -> None:
    """Score an archive in this process and print what it took, as JSON."""
    from scoring import untrained

    from sdmad_lite.clip.backbone import load_clip
    from sdmad_lite.deployment.scoring import ScoringConfig, score_archive

    detector = untrained(load_clip(clip, "random", "cpu"))
    start = time.perf_counter()
    summary = score_archive(detector, archive, out, resume=False, config=ScoringConfig(workers=1, progress=False))
    took = time.perf_counter() - start
    if summary.errors:
        raise SystemExit(f"{summary.errors} images could not be scored")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"process": int(status["VmHWM"].split()[0]) / 1024, "worker": worker / 1024, "seconds": took}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", nargs=3, metavar=("CLIP", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each size (default {ROUNDS})")
    args = parser.parse_args()
    if args.one:
        return score_one(*args.one)
    runs: dict[int, list[dict]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        clip = make_clip(place / "clip")
        for size in SIZES:
            make_archive(place / str(size), size)
        for _ in range(args.rounds):
            for size in SIZES:
                command = [sys.executable, __file__, "--one", clip, place / str(size), place / "scores.parquet"]
                result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                runs[size].append(json.loads(result.stdout))
    peaks = {size: [run["process"] + run["worker"] for run in each] for size, each in runs.items()}
    figures: dict[str, object] = {
        f"{size:,} images": {
            "peak of the process, MiB": spread([run["process"] for run in each]),
            "peak of its worker, MiB": spread([run["worker"] for run in each]),
            "seconds": spread([run["seconds"] for run in each]),
        }
        for size, each in runs.items()
    }
    for more, fewer in ((100_000, 10_000), (10_000, 1_000)):
        figures[f"peak, {more:,} over {fewer:,} images"] = spread(
            [a / b for a, b in zip(peaks[more], peaks[fewer], strict=True)]
        )
    record("memory", "cpu", figures | {"asked for, 100,000 over 10,000 images": ASKED})
    return None


if __name__ == "__main__":
    main()
