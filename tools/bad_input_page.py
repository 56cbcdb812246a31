"""Write docs/results/bad_input.md from the cases of tests/bad_inputs: `python tools/bad_input_page.py`."""

import sys
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "bad_input.md"

HEAD = """# Bad input, and what it is answered with

Made by `python tools/bad_input_page.py` from the cases in [tests/bad_inputs](../../tests/bad_inputs/__init__.py);
`pytest -k bad_input` runs all {count} of them. Each raises an error of the package's own kind, a subclass of
`SDMADError`, or, on the command line, ends with exit code 2 and `error: ` before the message. Nothing is left
half-written.

In a message `{{path}}` is the folder of the case, `{{clip}}` the name of a model, and `{{server}}` an address. Other
words in braces stand for longer text: `{{reason}}` for what another library says, `{{banks}}`, `{{sets}}` and
`{{tags}}` for the names that are known.
"""


def cell(text: str) -> str:
    """Text for a cell of a Markdown table, as code."""
    text = " ".join(text.split()).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def page() -> str:
    """The page as text."""
    sys.path.insert(0, str(ROOT / "tests"))
    from bad_inputs import CASES

    parts = [HEAD.format(count=len(CASES))]
    for group in dict.fromkeys(case.group for case in CASES):
        rows = "".join(f"| {case.what} | {cell(case.message)} |\n" for case in CASES if case.group == group)
        parts.append(f"## {group}\n\n| input | message |\n|---|---|\n{rows}")
    return "\n".join(parts)


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()  # --help writes nothing
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
