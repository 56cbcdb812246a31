"""What the benchmarks share: paired timing, the record of the machine, one file of results.

Alternatives are timed in turns in one process, in another order each round, and compared round by round: what
else the machine does then falls on both sides of a ratio. A ratio is a median with the quartiles of its rounds.

    times = take_turns({"ours": ours, "plain": plain}, rounds=20)
    record("scoring", "cpu", {"embedded": ratio(times, "plain", "ours")})
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import torch

from sdmad_lite.files import write_text

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "performance.json"
PACKAGES = ("torch", "open_clip_torch", "numpy", "scipy", "scikit-learn", "pyarrow", "accelerate")


def device_name(device: str | torch.device) -> str:
    """The key of a device in the results: "cpu", or the name of the accelerator."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def machine(device: str | torch.device = "cpu") -> dict:
    """Where, with what and when a figure was measured; a figure without it says nothing."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "processor": _processor(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call, with an accelerator's queue empty before and after."""
    drain()
    start = time.perf_counter()
    call()
    drain()
    return time.perf_counter() - start


def drain() -> None:
    """Wait until an accelerator has done all that it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


@contextmanager
def peak_memory(device: str | torch.device) -> Iterator[list[float]]:
    """Inside, the peak of memory is watched; its MiB are in the list afterwards, on Linux or on a CUDA device.

    Of a CPU it is the resident memory of the whole process, of a GPU what torch has given out.
    """
    mib: list[float] = []
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield mib
        mib.append(torch.cuda.max_memory_allocated(device) / 2**20)
        return
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # starts VmHWM anew
    yield mib
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    mib.append(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def take_turns(alternatives: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each alternative in each round; each round starts with the next alternative.

    Args:
        alternatives: name -> a call that does the same work.
        rounds: measured calls of each. warm_up: calls of each before, not measured.
    """
    names = list(alternatives)
    for _ in range(warm_up):
        for name in names:
            seconds(alternatives[name])
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(alternatives[name]))
    return times


def spread(values: list[float]) -> dict:
    """Median and quartiles; of fewer than four values the quartiles are the least and the most."""
    low, high = (min(values), max(values)) if len(values) < 4 else statistics.quantiles(values, n=4)[::2]
    return {
        "median": float(f"{statistics.median(values):.4g}"),
        "quartiles": [float(f"{low:.4g}"), float(f"{high:.4g}")],
        "rounds": len(values),
    }


def ratio(times: dict[str, list[float]], above: str, below: str) -> dict:
    """Spread of above / below, round by round.

    With times of the same work, `ratio(times, "plain", "ours")` is our throughput as a share of plain's.
    """
    return spread([a / b for a, b in zip(times[above], times[below], strict=True)])


def record(benchmark: str, device: str | torch.device, figures: dict, file: Path = RESULTS) -> None:
    """Put the figures of one benchmark on one device into the file of results, and print them.

    Each entry carries its own record of the machine, for a GPU's figures and a CPU's are seldom made on one.
    """
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results.setdefault(benchmark, {})[device_name(device)] = {"machine": machine(device), **figures}
    write_text(file, json.dumps(results, indent=1) + "\n")
    print(f"{benchmark} on {device_name(device)}:")
    for name, figure in figures.items():
        print(f"  {name}: {shown(figure)}")


def shown(figure) -> str:
    """A spread as its median and quartiles; a number with four digits."""
    if isinstance(figure, dict) and "quartiles" in figure:
        low, high = figure["quartiles"]
        return f"{figure['median']:.4g} ({low:.4g} to {high:.4g}, {figure['rounds']} rounds)"
    if isinstance(figure, dict):
        return "\n" + "\n".join(f"    {name}: {shown(part)}" for name, part in figure.items())
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)
