"""The executed course as a website, offline: `python tools/book.py` writes build/book (a quarter of an hour).

Notebooks run as they stand, with their solutions, which the pages fold. A room that was executed before and has not
changed since is not executed again (`--again` does). Needs the extra `book`.

For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
SOURCE, PAGES, EXECUTED = ROOT / "build" / "book_source", ROOT / "build" / "book", ROOT / "build" / "book_executed"
TEXTS = ["GLOSSARY.md", "TEACHING.md"]
WIDE = ".bd-main .bd-content .bd-article-container { max-width: 70em; }\npre { white-space: pre-wrap; }\n"
DOCS = ["where_to_run", "signs", "data", "backbones", "results", "embedded_clip", "design"]


def executed(path: Path, again: bool) -> nbformat.NotebookNode:
    """The notebook with its outputs, from an earlier run of the same cells where there is one."""
    kept, mark = EXECUTED / path.name, hashlib.sha256(path.read_bytes()).hexdigest()
    if kept.is_file() and not again:
        notebook = nbformat.read(kept, 4)
        if notebook.metadata.get("of") == mark:
            return notebook
    notebook, start = nbformat.read(path, 4), time.monotonic()
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    print(f"{path.name}: ran {time.monotonic() - start:.0f} s", flush=True)
    notebook.metadata["of"] = mark
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)
    return notebook


def page(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """As a website shows it: pictures with words, panels as they begin, solutions folded, no path of this machine."""
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook).replace(str(ROOT), ".")))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if "solution" in cell.metadata.get("tags", []):
                cell.metadata["tags"] = [*cell.metadata["tags"], "hide-cell"]
            cell.outputs = [_shown(out) for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def _shown(output):
    data = output.get("data", {})
    data.pop("application/vnd.jupyter.widget-view+json", None)
    if "image/png" in data:
        words = html.escape(output.metadata.get("image/png", {}).get("alt", ""))
        picture = base64.b64encode(base64.b64decode(data.pop("image/png"))).decode()
        data["text/html"] = f'<img alt="{words}" src="data:image/png;base64,{picture}">'
    return output


def relinked(text: str, folder: Path, inside: set[Path]) -> str:
    """Links to what is no page of the book become plain words."""

    def link(found: re.Match) -> str:
        words, target = found[1], found[2]
        if re.match(r"[a-z]+:|#", target) or (folder / target.split("#")[0]).resolve() in inside:
            return found[0]
        return words

    return re.sub(r"(?<!!)\[([^\]\n]*)\]\(([^)\s]+)\)", link, text)


def write_pages(rooms: list[Path], again: bool) -> None:
    """All sources: rooms, texts, the pages of docs they lead to, a first page with the table of contents."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    notebooks, docs = SOURCE / "notebooks", SOURCE / "docs"
    (docs / "results").mkdir(parents=True)
    notebooks.mkdir()
    texts = {notebooks / name: ROOT / "notebooks" / name for name in TEXTS}
    texts |= {docs / f"{name}.md": ROOT / "docs" / f"{name}.md" for name in DOCS}
    texts[docs / "results" / "datasets.md"] = ROOT / "docs" / "results" / "datasets.md"
    inside = {path.resolve() for path in (*texts, *(notebooks / room.name for room in rooms))}
    for path, source in texts.items():
        path.write_text(relinked(source.read_text(encoding="utf-8"), path.parent, inside), encoding="utf-8")
    for picture in (ROOT / "docs" / "results").glob("*.png"):
        shutil.copy(picture, docs / "results" / picture.name)
    shutil.copytree(ROOT / "docs" / "pictures", docs / "pictures")
    for room in rooms:
        notebook = page(executed(room, again))
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = relinked(cell.source, notebooks, inside)
        nbformat.write(notebook, notebooks / room.name)
    first = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    first = re.sub(r"\]\((?=\w+\.(?:ipynb|md))", "](notebooks/", first).replace("](../", "](")
    lists = {
        "Rooms": [f"notebooks/{room.stem}" for room in rooms],
        "Beside them": [*(f"notebooks/{name[:-3]}" for name in TEXTS), *(f"docs/{name}" for name in DOCS)],
    }
    trees = "".join(
        f"\n```{{toctree}}\n:caption: {name}\n:maxdepth: 1\n:hidden:\n\n" + "\n".join(entries) + "\n```\n"
        for name, entries in (lists | {"Sets": ["docs/results/datasets"]}).items()
    )
    (SOURCE / "index.md").write_text(relinked(first, SOURCE, inside) + trees, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("book_conf.py"), SOURCE / "conf.py")
    (SOURCE / "_static").mkdir()
    (SOURCE / "_static" / "wide.css").write_text(WIDE, encoding="utf-8")


def fetched(folder: Path) -> list[str]:
    """What the pages would ask the network for: page and address."""
    pattern = re.compile(r'<(?:script|img|iframe|source)[^>]+src="(https?:[^"]+)|<link[^>]+href="(https?:[^"]+)')
    found = []
    for path in folder.rglob("*.html"):
        for match in pattern.finditer(path.read_text(encoding="utf-8")):
            if 'rel="canonical"' not in match[0]:
                found.append(f"{path.relative_to(folder)}: {match[1] or match[2]}")
    return found


def main() -> None:
    """Execute, write the pages, build, and refuse a page that would fetch something."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--again", action="store_true", help="execute every room, changed or not")
    parser.add_argument(
        "--rooms", nargs="*", default=[], help="numbers of rooms, such as 00 06; all where none is given"
    )
    args = parser.parse_args()
    rooms = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    rooms = [room for room in rooms if not args.rooms or room.name[:2] in args.rooms]
    write_pages(rooms, args.again)
    from sphinx.cmd.build import build_main

    shutil.rmtree(PAGES, ignore_errors=True)
    if code := build_main(["-q", "-b", "html", str(SOURCE), str(PAGES)]):
        sys.exit(code)
    if asked := fetched(PAGES):
        sys.exit("these pages would fetch something:\n" + "\n".join(asked[:10]))
    print(f"the course: {PAGES / 'index.html'}")


if __name__ == "__main__":
    main()
