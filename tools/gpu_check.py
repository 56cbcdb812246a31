"""What a GPU makes of this repository, in one call of a few minutes: `python tools/gpu_check.py --out FILE.json`.

It needs the checkout and the installed packages, nothing else: images are drawn at random, weights too where they are
not embedded. Each part has a time of its own, and an error in it is written down and the next one begins. The file is
written anew after each figure and whole at any moment; it is also the last line that is printed. What a part measures
stands in `performance/gpu_parts.py`; `gpu_page.py` makes a page of the file.

    python tools/gpu_check.py                         # on a GPU
    python tools/gpu_check.py --device cpu --small    # every line of it, with small models, on any machine
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that nothing has to be installed
sys.path.insert(0, str(Path(__file__).resolve().parent / "performance"))

import torch
from common import drain, machine
from gpu_parts import PARTS, ROOT, Bench

from sdmad_lite.files import write_text

TESTS = ("tests/test_gpu.py", "tests/evaluation/test_baselines.py")


class OutOfTime(BaseException):
    """The time of a part is over. No `except Exception` on the way may keep it."""


class Report:
    """What was measured until now, by part, in a file that is whole at any moment."""

    def __init__(self, file: Path, budget: float):
        self.file, self.budget, self.began, self.parts = file, budget, time.monotonic(), {}
        self.head: dict = {}

    def left(self) -> float:
        """Seconds of the whole budget that are left."""
        return self.budget - (time.monotonic() - self.began)

    def whole(self) -> dict:
        return {**self.head, "seconds": round(time.monotonic() - self.began, 1), "parts": self.parts}

    def put(self, part: str, figures: dict) -> None:
        """Add figures to a part and write the file."""
        self.parts.setdefault(part, {}).update(figures)
        write_text(self.file, json.dumps(self.whole(), indent=1) + "\n")
        print(f"{time.monotonic() - self.began:6.1f} s  {part}: {json.dumps(figures)[:600]}", flush=True)

    def run(self, name: str, seconds: float, part: Callable[[Callable[[dict], None]], None]) -> None:
        """Measure a part, which hands its figures on as it goes, for at most so many seconds."""
        seconds, start = min(seconds, self.left()), time.monotonic()
        if seconds < 3:
            self.put(name, {"skipped": "no time was left"})
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            part(lambda figures: self.put(name, figures))
        except OutOfTime:
            self.put(name, {"stopped": f"its {seconds:.0f} seconds were over"})
        except Exception as error:  # whatever it is, the other parts are to be measured
            self.put(name, {"error": f"{type(error).__name__}: {error}"[:600], "trace": traceback.format_exc()[-1500:]})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.put(name, {"seconds": round(time.monotonic() - start, 1)})
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def out_of_time(*_) -> None:
    raise OutOfTime


def start_tests() -> subprocess.Popen:
    """The tests that are marked `gpu`, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", "--tb=short"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [*command, "--durations=3", *TESTS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "MPLBACKEND": "Agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def counted(tests: subprocess.Popen, put: Callable[[dict], None]) -> None:
    """How many passed; of those that did not, what pytest said at the end."""
    try:
        said, _ = tests.communicate()
    except OutOfTime:
        tests.kill()
        put({"so far": (tests.communicate()[0] or "")[-1500:]})
        raise
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", said)}
    put({**counts, "exit": tests.returncode, "slowest": re.findall(r"^\d+\.\d+s .*$", said, re.MULTILINE)})
    if tests.returncode not in (0, 5):
        put({"said": said[-3000:]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu_check.json"), help="(default build/gpu_check.json)")
    parser.add_argument("--budget", type=float, default=240, help="seconds in all (default 240)")
    parser.add_argument("--device", default="cuda", help="(default cuda)")
    parser.add_argument("--small", action="store_true", help="small models and few rounds, to try every line")
    parser.add_argument("--only", nargs="+", choices=["tests", *PARTS], help="only these parts")
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, out_of_time)
    report, wanted = Report(args.out, args.budget), args.only or ["tests", *PARTS]
    tests = start_tests() if "tests" in wanted else None
    bench = Bench(torch.device(args.device), args.small)
    drain()
    report.head = {"small": args.small, "machine": machine(bench.device)}
    # the tests want little of the card, and what is made ready meanwhile is not timed
    report.run("ready", 60, bench.ready)
    if tests:
        report.run("tests", 90, lambda put: counted(tests, put))
    for name, (seconds, part) in PARTS.items():
        if name in wanted:
            report.run(name, seconds, lambda put, part=part: part(bench, put))
    print(json.dumps(report.whole(), separators=(",", ":")), flush=True)
    os._exit(0)  # all is written; processes that still compile are not waited for


if __name__ == "__main__":
    main()
