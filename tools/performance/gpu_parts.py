"""The parts of `tools/gpu_check.py`: functions of a `Bench` and of `put`, which takes figures as they come."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from alignment import Other, Task, epochs
from common import drain, peak_memory, ratio, seconds, spread, take_turns
from safetensors.torch import save_file
from scoring import measured
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sdmad_lite.alignment import AlignmentConfig, RunConfig, ShiftAdapter, align, build_adapters
from sdmad_lite.clip.backbone import Backbone, load_clip
from sdmad_lite.detector import SDMAD
from sdmad_phantoms import sample_phantoms

ROOT = Path(__file__).resolve().parents[2]
LARGE = "ViT-L-14-336"
PUT = Callable[[dict], None]
COUNTED = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaLaunchKernel", "cudaMemcpyAsync", "aten::item")
COUNTED += ("aten::nonzero", "aten::copy_", "Memcpy HtoD (Pageable -> Device)", "Memcpy HtoD (Pinned -> Device)")
COUNTED += ("Memcpy DtoH (Device -> Pageable)", "Memcpy DtoH (Device -> Pinned)")


class Bench:
    """What several parts share: the device, the models, the support set."""

    def __init__(self, device: torch.device, small: bool):
        self.device, self.small = device, small
        self.cuda = device.type == "cuda"

    def ready(self, put: PUT) -> None:
        """Load both models, make the support set (K = 16, 5 categories, 50 signs) and draw the pool of pretraining."""
        start = perf_counter()
        self.embedded = load_clip(device=self.device)
        self.large = self.embedded if self.small else load_clip(LARGE, "random", self.device)
        put({"model": self.large.name, "seconds to load": round(perf_counter() - start, 1)})
        self.task = Task(2, 5, 10, size=64) if self.small else Task(16, 5, 50)
        images, signs = len(self.task.images), len(self.task.texts)
        put({"support": f"{images} images, {signs} signs, 5 categories, K = {2 if self.small else 16}"})
        self.pools = drawn(48 if self.small else 256, self.device)

    def align(self, steps: int, after_step=None, views: int = 2, **run) -> None:
        """Stage 1 from new adapters, with the standard settings but the number of steps and of views."""
        task, config = self.task, AlignmentConfig(steps=steps, augmentations=views)
        run = RunConfig(after_step=after_step, **run)
        align(self.large, build_adapters(self.large), task.images, task.labels, task.bank, config, run=run)

    def profiled(self, call: Callable[[], object], top: int = 8) -> dict:
        """Where the time of a call goes: the longest kernels or operations, and how often it waits and copies."""
        with self.profiler() as rows:
            took = seconds(call)
        return summary(rows, took, self.cuda, top)

    @contextmanager
    def profiler(self):
        """Inside, everything is watched; the rows are in the list afterwards."""
        rows: list = []
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        with profile(activities=kinds) as watched:
            yield rows
            drain()
        rows += watched.key_averages()


def summary(rows: list, took: float, cuda: bool, top: int) -> dict:
    """Of a profile: milliseconds and calls of the longest rows, and the counts of what waits or copies."""
    kernels = [row for row in rows if row.device_type == DeviceType.CUDA]
    figures: dict = {"milliseconds": round(took * 1e3, 2)}
    if cuda:
        busy = sum(row.self_device_time_total for row in kernels)
        figures |= {"milliseconds on the device": round(busy / 1e3, 2), "kernels": sum(row.count for row in kernels)}
    for where, name in (("device", "self_device_time_total"), ("CPU", "self_cpu_time_total")):
        longest = sorted((row for row in rows if row not in kernels), key=lambda row: -getattr(row, name))[:top]
        figures[f"longest on the {where}"] = [
            f"{row.key[:60]}: {getattr(row, name) / 1e3:.2f} ms, {row.count} calls"
            for row in longest
            if getattr(row, name) > 0
        ]
    return figures | {"counts": {row.key: row.count for row in rows if row.key in COUNTED}}


def timed(call: Callable[[], object], rounds: int, warm_up: int = 3) -> float:
    """Median seconds of a call."""
    for _ in range(warm_up):
        call()
    return float(np.median([seconds(call) for _ in range(rounds)]))


def card(bench: Bench, put: PUT) -> None:
    """The card and its two ceilings: matrix products and copies."""
    if bench.cuda:
        found = torch.cuda.get_device_properties(bench.device)
        put({"name": found.name, "GiB": round(found.total_memory / 2**30, 1), "compute": [found.major, found.minor]})
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        put(
            {"driver": subprocess.run(asked, capture_output=True, text=True).stdout.strip(), "cuda": torch.version.cuda}
        )
    n, rounds = (256, 3) if bench.small else (8192, 10)
    for kind in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(n, n, device=bench.device, dtype=kind) for _ in range(2))
        bench.peaks = getattr(bench, "peaks", {}) | {kind: 2 * n**3 / timed(lambda a=a, b=b: a @ b, rounds)}
        put({f"{str(kind)[6:]} matrix product of {n}, TFLOP/s": round(bench.peaks[kind] / 1e12, 3)})
    source = torch.randn(2**16 if bench.small else 2**29, device=bench.device)
    target = torch.empty_like(source)
    put(
        {"copy, GB/s read and written": round(2 * source.nbytes / timed(lambda: target.copy_(source), rounds) / 1e9, 1)}
    )


def whole(bench: Bench, put: PUT) -> None:
    """All of stage 1, from images to adapters, as a user waits for it."""
    standard, ticks = AlignmentConfig(), []
    steps, views = (6, 2) if bench.small else (standard.steps, standard.augmentations)
    put({"a first run of 2 steps, with all that a new process loads, seconds": seconds(lambda: bench.align(2))})
    put({"reading of the images, seconds": seconds(lambda: bench.large.prepare(bench.task.images))})

    def tick(step: int) -> None:
        if step in (1, steps):  # two waits in all: what lies between runs as it does without them
            drain()
            ticks.append(perf_counter())

    with peak_memory(bench.device) as peak:
        took = seconds(lambda: bench.align(steps, tick, views))
    each = (ticks[1] - ticks[0]) / (steps - 1)
    put({"steps": steps, "whole run, seconds": round(took, 2), "a step, seconds": each})
    put({"before and after the steps, seconds": round(took - each * steps, 2), "peak of memory, MiB": peak[0]})


def waits(bench: Bench, put: PUT) -> None:
    """What waits for the device in the steps 3 to 6, each with its line, and a profile of steps 8 and 9."""
    profiling, rows, clock = bench.profiler(), [], 0.0

    def watch(step: int) -> None:
        nonlocal rows, clock
        if step == 2:
            warnings.simplefilter("always")
            if bench.cuda:
                torch.cuda.set_sync_debug_mode("warn")
        elif step == 6 and bench.cuda:
            torch.cuda.set_sync_debug_mode("default")
        elif step == 7:
            rows, clock = profiling.__enter__(), perf_counter()
        elif step == 9:
            drain()
            clock = perf_counter() - clock
            profiling.__exit__(None, None, None)

    with warnings.catch_warnings(record=True) as caught:
        try:
            bench.align(10, watch)
        finally:
            if bench.cuda:
                torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchroniz" in str(w.message).lower() and "prototype" not in str(w.message)]
    lines = sorted({f"{place(w.filename)}:{w.lineno}: {str(w.message)[:80]}" for w in found})
    put({"watched": "4 steps", "waits": len(found), "where": lines})
    put({"profile of 2 steps": summary(rows, clock, bench.cuda, 14)})


def place(file: str) -> str:
    """A file by its place in this repository, or by its last three parts."""
    path = Path(file).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else "/".join(path.parts[-3:])


def others(bench: Bench, put: PUT) -> None:
    """An epoch of stage 1 against the per-image loop and against full fine-tuning, in turns."""
    rounds, images, views = (2, 2, 2) if bench.small else (3, 8, 8)
    put(epochs(bench.large, bench.task, rounds, images, views))
    other = Other(bench.large, bench.task, min(32, len(bench.task.images)))
    for name, step in (("per image", other.per_image(2)), ("full fine-tuning", other.fine_tuning())):
        with peak_memory(bench.device) as peak:
            step()
            drain()
        put({f"{name}, peak of memory, MiB": peak[0]})


def scoring(bench: Bench, put: PUT) -> None:
    """Throughput of scoring as a share of plain `encode_image`, and of plain as a share of the card's peak."""
    sizes = (4,) if bench.small else (128, 1024)
    for name, backbone in {LARGE: bench.large, "embedded": bench.embedded}.items():
        flops = operations(backbone)
        for bf16 in (True, False):
            for batch in sizes[: 1 if name == LARGE else 2]:
                rounds = 3 if bench.small else 6 if name == LARGE and not bf16 else 20
                figure = measured(backbone, batch, rounds, bf16)
                peak = getattr(bench, "peaks", {}).get(torch.bfloat16 if bf16 else torch.float32)
                figure["GFLOP an image"] = round(flops / 1e9, 3)
                if peak:
                    figure["plain, share of the peak"] = figure["plain, images a second"]["median"] * flops / peak
                put({f"{name}, {figure['precision']}, batch {batch}": figure})


def operations(backbone: Backbone) -> int:
    """Floating-point operations of `encode_image` for one image; the counter knows no fused path."""
    size = backbone.model.visual.image_size
    pixels = torch.zeros(1, 3, *(size if isinstance(size, tuple) else (size, size)), device=backbone.device)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone.model.encode_image(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return counter.get_total_flops()


def where_scoring_spends(bench: Bench, put: PUT) -> None:
    """A profile of scoring with the embedded CLIP beside plain, and how it is with other ways of mixing."""
    from scoring import scores, untrained

    detector = untrained(bench.embedded)
    pixels = torch.randn(4 if bench.small else 1024, 3, 128, 128, device=bench.device)

    def plain() -> None:
        with torch.no_grad():
            bench.embedded.model.encode_image(pixels)

    put({"plain": bench.profiled(plain)})
    mixed = ShiftAdapter.forward

    def lerped(self: ShiftAdapter, h: torch.Tensor, layer_output: torch.Tensor) -> torch.Tensor:
        gelu = torch.nn.functional.gelu
        shift = gelu(self.up(gelu(self.down(h.to(self.down.weight.dtype)))))
        return torch.lerp(shift.to(layer_output.dtype), layer_output, self.lam)

    def score(way: Callable) -> Callable[[], object]:
        def run() -> None:
            ShiftAdapter.forward = way
            try:
                scores(detector, pixels)
            finally:
                ShiftAdapter.forward = mixed

        return run

    with detector.installed():
        score(mixed)()
        put({"scoring": bench.profiled(score(mixed))})
        times = take_turns({"as it is": score(mixed), "lerp": score(lerped)}, 3 if bench.small else 20)
    put({"mixed by lerp, times as fast": ratio(times, "as it is", "lerp")})


def agreement(bench: Bench, put: PUT) -> None:
    """The largest difference in probability of a detector of the embedded CLIP between this device and the CPU."""
    saved, images = ROOT / "tests" / "golden" / "detector_0.1.0", [p.image for p in sample_phantoms(24, seed=11)]
    expected = SDMAD.load(saved, load_clip(device="cpu")).predict_proba(images)
    detector = SDMAD.load(saved, bench.embedded)
    before = torch.backends.cudnn.allow_tf32
    for tf32 in (True, False):
        torch.backends.cudnn.allow_tf32 = tf32
        try:
            apart = np.abs(detector.predict_proba(images) - expected).max()
        finally:
            torch.backends.cudnn.allow_tf32 = before
        put({f"convolutions in {'TF32' if tf32 else 'fp32'}": float(apart)})


def savings(bench: Bench, put: PUT) -> None:
    """A step with every saving, and with one of them switched off at a time."""
    other = Other(bench.large, bench.task, min(32, len(bench.task.images)))
    every = {"cut": True, "kept": True, "fused": True, "bf16": True}
    rows = {"all": other.batched(**every)} | {f"without {n}": other.batched(**every | {n: False}) for n in every}
    rows["none"] = other.batched()
    times = take_turns(rows, 2 if bench.small else 5)
    put({"all, seconds a step": spread(times["all"])})
    put({f"{name}, times all": ratio(times, name, "all") for name in rows if name != "all"})


def drawn(images: int, device: torch.device) -> tuple[list, Any]:
    """Pools of pretraining with so many phantoms and composed findings of each modality, and a teacher of noise."""
    sys.path.append(str(ROOT / "tools"))
    import pretrain
    import pretrain_pool

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pretrain_pool.draw_pool(work, images, images, 1, None, chunk=images)
        pools = [pretrain_pool.Pool(work, name, device) for name in pretrain.MODALITIES]
        tokens, vectors = torch.ones(512, 36, dtype=torch.int16), torch.randint(-99, 99, (512, 160), dtype=torch.int8)
        save_file({"tokens": tokens, "vectors": vectors}, work / "teacher.safetensors")
        return pools, pretrain.Teacher(work / "teacher.safetensors", device)


def pretraining(bench: Bench, put: PUT) -> None:
    """A step of pretraining the embedded CLIP on a small pool: images a second, and where the time goes."""
    import pretrain

    pools, teacher = bench.pools
    student = pretrain.Student(160).to(bench.device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=bench.cuda or None)
    steps = count()

    def step(batch: int) -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            parts = pretrain.losses(student, pools, teacher, next(steps), batch)
            loss = sum(weight * parts[name] for name, weight in pretrain.WEIGHTS.items())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()

    for batch in (12,) if bench.small else (48, 192, 576):
        took = timed(lambda batch=batch: step(batch), 3 if bench.small else 10, 1 if bench.small else 3)
        put({f"batch {2 * batch}, images a second": round(2 * batch / took, 1)})
    for batch in (12,) if bench.small else (48, 576):
        put({f"profile of a step of {2 * batch}": bench.profiled(lambda batch=batch: step(batch), 12)})


def compiling(bench: Bench, put: PUT) -> None:
    """Steps with compiled layers: how long the first takes, and the others."""
    steps, ticks = 4 if bench.small else 30, {}

    def tick(step: int) -> None:
        if step in (1, 3, steps):
            drain()
            ticks[step] = perf_counter()

    start = perf_counter()
    bench.align(steps, tick, compile=True)
    put({"to the end of the third step, seconds": round(ticks[3] - start, 2)})
    put({"a step, seconds": (ticks[steps] - ticks[3]) / (steps - 3)})


PARTS: dict[str, tuple[float, Callable[[Bench, PUT], None]]] = {
    "card": (15, card),
    "whole": (60, whole),
    "waits": (25, waits),
    "others": (60, others),
    "scoring": (60, scoring),
    "agreement": (15, agreement),
    "savings": (30, savings),
    "pretraining": (40, pretraining),
    "where scoring spends": (15, where_scoring_spends),
    "compiling": (90, compiling),
}
"""Name -> the most seconds it may take, and what measures it; the most important first."""
