"""docs/results/gpu.md from the file that `gpu_check.py` left: `python tools/gpu_page.py build/gpu_check.json`.

The file is copied beside the page. A target that was not measured is a row that says so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sdmad_lite.files import write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "gpu.md"
LARGE = "ViT-L-14-336"
HEAD = """# On a GPU

Written by `python tools/gpu_page.py` from what `python tools/gpu_check.py` measured in one call; its figures are in
[gpu.json](gpu.json). Ratios are of alternatives that took turns in one process: median, with quartiles in brackets.
ViT-L/14-336 has random weights and sees random images, which takes the same time. For teaching and research, not for
clinical use.
"""
TARGETS = (
    ("an epoch of the per-image loop, times ours", "others", "per image, text again, times ours", ">=", 10),
    ("the whole alignment, K = 16, seconds", "whole", "whole run, seconds", "<=", 60),
    ("scoring, share of plain `encode_image`, ViT-L/14-336, bf16", "scoring", f"{LARGE}, bf16, batch 128", ">=", 0.93),
    ("the same, fp32", "scoring", f"{LARGE}, fp32, batch 128", ">=", 0.93),
    ("the same, embedded CLIP, bf16, 1024 at once", "scoring", "embedded, bf16, batch 1024", ">=", 0.93),
    ("the same, embedded CLIP, fp32, 1024 at once", "scoring", "embedded, fp32, batch 1024", ">=", 0.93),
    ("waits for the device in a step of stage 1", "waits", "waits", "<=", 0),
    ("tests on the GPU that failed", "tests", "failed", "<=", 0),
    ("largest difference in probability from a CPU", "agreement", "convolutions in TF32", "<=", 1e-3),
)
"""What is asked for: its name, part and figure, and the bound."""
SHARE = "scoring, share of plain's throughput"


def shown(value) -> str:
    """A spread as median and quartiles, a number with four digits, a list as its items."""
    if isinstance(value, dict) and "quartiles" in value:
        low, high = value["quartiles"]
        return f"{value['median']:.4g} [{low:.4g}, {high:.4g}], {value['rounds']} rounds"
    if isinstance(value, list):
        return "<br>".join(str(item).replace("|", "\\|") for item in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows(figures: dict, above: str = "") -> list[str]:
    """A line for each figure; nested ones carry the names above them."""
    lines = []
    for name, value in figures.items():
        whole = f"{above}, {name}" if above else name
        if isinstance(value, dict) and "quartiles" not in value:
            lines += rows(value, whole)
        elif name not in ("trace", "said", "so far"):
            lines.append(f"| {whole} | {shown(value)} |")
    return lines


def target(parts: dict, name: str, part: str, figure: str, sense: str, bound: float) -> str:
    """A line of the table of targets."""
    value = parts.get(part, {}).get(figure)
    if figure == "failed" and "passed" in parts.get(part, {}):
        value = value or 0
    value = value.get(SHARE, value) if isinstance(value, dict) else value
    asked = f"{'at least' if sense == '>=' else 'at most'} {bound:g}"
    if value is None:
        return f"| {name} | {asked} | not measured | |"
    number = value["median"] if isinstance(value, dict) else value
    reached = number >= bound if sense == ">=" else number <= bound
    return f"| {name} | {asked} | {shown(value)} | {'reached' if reached else '**not reached**'} |"


def page(found: dict) -> str:
    """The page as Markdown."""
    machine, parts = found["machine"], found["parts"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "open_clip_torch", "numpy"))
    driver = parts.get("card", {}).get("driver")
    where = f"{machine['device']}{f', driver {driver}' if driver else ''}; {versions}; {machine['date']}."
    lines = [HEAD, where, "", "| | asked for | measured | |", "|---|---|---|---|"]
    lines += [target(parts, *row) for row in TARGETS]
    for name, figures in parts.items():
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", "| | |", "|---|---|", *rows(figures)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("build/gpu_check.json"), help="what was measured")
    parser.add_argument("--out", type=Path, default=PAGE, help="(default docs/results/gpu.md)")
    args = parser.parse_args()
    found = json.loads(args.file.read_text(encoding="utf-8"))
    write_text(args.out.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    print(write_text(args.out, page(found)))


if __name__ == "__main__":
    main()
