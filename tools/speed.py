"""Time on one core: drawing a phantom, loading the embedded CLIP, embedding one image. `python tools/speed.py`.

Writes docs/results/speed.md. Loading is timed in new processes, once with all that Python imports for it.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sdmad_lite.clip.backbone import load_clip
from sdmad_phantoms import MODALITIES, sample_phantoms

PAGE = Path("docs/results/speed.md")
LOAD = (
    "import time; t = time.perf_counter(); from sdmad_lite.clip.backbone import load_clip; i = time.perf_counter(); "
    "load_clip(); print(i - t, time.perf_counter() - i)"
)


def spread(values: list[float], unit: str) -> str:
    return f"{np.median(values):.1f} {unit} ({min(values):.1f} to {max(values):.1f})"


def timed(work: Callable, rounds: int) -> list[float]:
    """Seconds of each round."""
    out = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        out.append(time.perf_counter() - start)
    return out


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name in MODALITIES:
        each = [t / 100 * 1e3 for t in timed(lambda n=name: list(sample_phantoms(100, 5, modality=n)), 7)]
        rows.append((f"draw one {name} phantom with its masks", spread(each, "ms"), "8 ms"))
    loads = [subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True) for _ in range(5)]
    imports, calls = zip(*((float(v) for v in run.stdout.split()) for run in loads), strict=True)
    rows.append(("`load_clip()` in a new process", spread(calls, "s"), "3 s"))
    rows.append(("imports before it", spread(imports, "s"), ""))
    backbone, image = load_clip(device="cpu"), next(sample_phantoms(1, 0)).image
    backbone.encode_images([image])
    each = [t * 1e3 for t in timed(lambda: backbone.encode_images([image]), 50)]
    rows.append(("embed one image, from array to embedding", spread(each, "ms"), "50 ms"))
    lines = ["# Speed on one core", "", f"Median (least to most), {platform.machine()}, torch {torch.__version__}, "]
    lines[-1] += f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}. Made by `python tools/speed.py`."
    lines += ["", "| | measured | asked for |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    PAGE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help writes nothing
    main()
