"""docs/results/performance.md from performance.json beside it: the last step of `make bench`."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

from common import RESULTS, shown

PAGE = RESULTS.with_suffix(".md")
HEAD = """# How fast, and how much memory

Written by `make bench`. Ratios are of alternatives that took turns in one process, round by round: median and
quartiles. Absolute times are of the machine named; a ratio carries further than a time. Weights are random where
they are not embedded, which takes the same time. [Running at scale](../scale.md) says how to use it.

No GPU was at hand yet: `make bench ARGS='--device cuda'` and `python tools/performance/alignment.py
--model ViT-L-14-336 --device cuda` measure it there, and add a section each.
"""
TITLES = {
    "scoring": "Scoring against plain `encode_image`",
    "alignment": "An epoch of stage 1 against other ways",
    "alignment_growth": "Stage 1 as images, signs, categories and shots grow",
    "memory": "Peak memory of scoring an archive",
    "cached": "Stages that work from cached embeddings",
}


def rows(figures: dict, above: str = "") -> list[str]:
    """A line of the table for each figure; nested ones carry the names above them."""
    lines = []
    for name, value in figures.items():
        whole = f"{above}, {name}" if above else name
        if isinstance(value, dict) and "quartiles" not in value:
            lines += rows(value, whole)
        else:
            lines.append(f"| {whole} | {shown(value)} |")
    return lines


def page(results: dict) -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for kind, title in TITLES.items():
        for benchmark in sorted(results):
            first, *model = benchmark.split(" ", 1)
            if first != kind:
                continue
            for device, figures in results[benchmark].items():
                machine = figures["machine"]
                where = device
                if device == "cpu":
                    where = f"{machine['processor']}, threads: {machine['threads']}"
                tools = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "open_clip_torch"))
                body = rows({name: value for name, value in figures.items() if name != "machine"})
                parts += [
                    f"## {', '.join([title, *model])}, on {'the CPU' if device == 'cpu' else device}\n",
                    f"{where}; {tools}; {machine['date']}.\n",
                    "| | |\n|---|---|",
                    "\n".join(body) + "\n",
                ]
    return "\n".join(parts)


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help writes nothing
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    print(Path(PAGE).name)
