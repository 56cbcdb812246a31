"""The repository itself: notebooks, environment, links, and what an import costs."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from conftest import few_steps
from PIL import Image

import sdmad_lite
from sdmad_lite.signs.bank import load_bank

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sdmad_lite"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOTEBOOKS = sorted(p for p in ROOT.glob("notebooks/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def repository_files() -> list[Path]:
    """Files that are committed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # unpacked from an archive
        left_behind = re.compile(r"\.(?!ci|git\w).*|build|__pycache__|.*\.egg-info")
        paths = [p for p in ROOT.rglob("*") if not any(map(left_behind.fullmatch, p.relative_to(ROOT).parts))]
    return [path for path in paths if path.is_file()]


def texts() -> dict[str, str]:
    """Path to content, of all files that are text."""
    found = {}
    for path in repository_files():
        try:
            found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return texts()


def package_name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def requirements() -> set[str]:
    project = PYPROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return {package_name(requirement) for group in groups for requirement in group} - {"sdmad-lite"}


# Environment


def test_the_conda_environment_installs_the_project_and_repeats_nothing():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "-e .[dev]" in pip
    named = {package_name(entry) for entry in [*conda, *(entry for entry in pip if not entry.startswith("-"))]}
    assert named & requirements() == set()
    python = next(entry for entry in conda if entry.startswith("python="))
    assert PYPROJECT["project"]["requires-python"] == f">={python.removeprefix('python=')}"


def test_every_dependency_has_a_version_for_the_term():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {package_name(line) for line in lines if "==" in line and not line.startswith("#")}
    assert requirements() - pinned == set()


def test_every_data_file_of_the_package_is_installed():
    for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items():
        installed = {path for pattern in patterns for path in (ROOT / package).glob(pattern)}
        data = {path for path in repository_files() if ROOT / package in path.parents and path.suffix != ".py"}
        assert data - installed == set()


# What must not be in a repository


def test_no_paths_of_somebodys_machine(files):
    pattern = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w")
    assert [name for name, text in files.items() if pattern.search(text)] == []


def test_no_package_hosts(files):
    pattern = re.compile(
        r"https?://\S*(?:pypi|pythonhosted|artifactory|nexus|devpi)|(?:index|extra)[-]url|find[-]links"
    )
    assert {name: pattern.findall(text) for name, text in files.items() if pattern.search(text)} == {}


# Links and commands


def linked(name: str, text: str) -> list[str]:
    if name.endswith(".ipynb"):
        text = "\n".join(
            "".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"
        )
    targets = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text) + re.findall(
        r"<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"", text
    )
    return [t.split("#")[0] for t in targets if not re.match(r"[a-z]+:", t) and t.split("#")[0]]


def test_relative_links_lead_somewhere(files):
    pages = {name: text for name, text in files.items() if name.endswith((".md", ".ipynb"))}
    links = [(name, target) for name, text in pages.items() for target in linked(name, text)]
    assert [(name, target) for name, target in links if not (ROOT / name).parent.joinpath(target).exists()] == []


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as GitHub and myst make them."""
    titles = re.findall(r"^#+ +(.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", t)).strip().lower().replace(" ", "-")
        for t in titles
    }


def test_links_into_a_page_lead_to_a_heading(files):
    for name, text in files.items():
        for target, anchor in (
            re.findall(r"\]\(([^)\s#:]*\.md|)#([\w-]+)\)", text) if name.endswith((".md", ".ipynb")) else []
        ):
            page = (ROOT / name).parent / target if target else ROOT / name
            assert anchor in anchors(page.read_text(encoding="utf-8")), (name, target, anchor)


def test_texts_name_only_targets_and_scripts_that_exist(files):
    targets = set(re.findall(r"^([a-z-]+):", files["Makefile"], re.MULTILINE))
    for name, text in files.items():
        if name == "Makefile" or name.endswith(".md"):
            code = " ".join(re.findall(r"`[^`\n]+`|^ {4}.*$", text, re.MULTILINE))
            used = set(re.findall(r"\bmake ([a-z-]+)", code))
            assert used <= targets, (name, used - targets)
            scripts = set(re.findall(r"\btools/\w+\.(?:py|json)", text))
            assert [s for s in scripts if not (ROOT / s).is_file()] == [], name


def test_the_python_example_of_the_readme_runs(files, tmp_path, monkeypatch):
    """On four patterns, with the bank that the text leaves to the reader, in few steps."""
    example = re.search(r"```python\n(.*?)```", files["README.md"], re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    Path("my_images").mkdir()
    lines = ["image,Effusion,Nodule"]
    for i, labels in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        pixels = np.random.default_rng(i).integers(0, 99, (32, 32)) + 80 * labels[0] + 60 * labels[1] * np.eye(32)
        Image.fromarray(pixels.astype(np.uint8)).save(f"my_images/{i}.png")
        lines.append(f"{i}.png,{labels[0]},{labels[1]}")
    Path("my_images/labels.csv").write_text("\n".join(lines))
    Path("my_images/1.png").rename("new.png")
    Path("my_images/1.png").write_bytes(Path("new.png").read_bytes())
    load_bank("nih_chest14").restricted(["Effusion", "Nodule"]).save("my_signs.json")
    space: dict = {}
    with few_steps():
        exec(example, space)
    assert space["detector"].predict_proba(["new.png"]).shape == (1, 2)
    assert {p.suffix for p in Path("my_detector").iterdir()} == {".json", ".safetensors"}


def test_python_in_texts_imports_what_is_there(files):
    for name, text in files.items():
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL) if name.endswith(".md") else []
        for node in (node for block in blocks for node in ast.walk(ast.parse(block))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("sdmad_"):
                missing = [alias.name for alias in node.names if not hasattr(import_module(node.module), alias.name)]
                assert missing == [], (name, node.module)


# Imports

ROWS = [
    ["errors", "files", "settings"],
    ["data", "selection"],
    ["clip"],
    ["running"],
    ["signs", "alignment"],
    ["explain", "storage", "detector"],
    ["evaluation"],
    ["deployment"],
    ["show"],
    ["cli", "options", "after_fit", "commands"],
]
"""Rooms of the module, from the ground up. A room imports rooms of its own row and of those above it in this list."""

COMPANIONS = (
    "sdmad_phantoms",
    "sdmad_datasets",
    "sdmad_dicom",
    "sdmad_llm",
    "sdmad_federated",
    "sdmad_export",
    "sdmad_course",
)


class Import(NamedTuple):
    file: str  # that has the line
    room: str  # of that file: a room of the module, or a companion
    target: str  # room or companion that is imported
    name: str  # what is imported from it; empty for `import module`
    at_start: bool  # when the file is imported, not in a function


def statements(node: ast.AST, at_start: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """Every import below a node, and whether it runs when the file is imported: no function, no type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, at_start
        else:
            later = isinstance(child, ast.FunctionDef) or ast.unparse(getattr(child, "test", child)) == "TYPE_CHECKING"
            yield from statements(child, at_start and not later)


@cache
def own_imports() -> list[Import]:
    """`imports_of` the module and its companions."""
    return list(imports_of())


def imports_of() -> Iterator[Import]:
    """What the files of the module and its companions import from each other."""
    for path in sorted(p for package in (PACKAGE.name, *COMPANIONS) for p in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        room = parts[1] if parts[0] == PACKAGE.name else parts[0]
        for node, at_start in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = [(tuple(alias.name.split(".")), "") for alias in node.names]
            else:
                home = parts[: len(parts) - node.level] if node.level else ()
                home += tuple(node.module.split(".")) if node.module else ()
                found = [(home, alias.name) for alias in node.names]
            for home, name in found:
                if home[0] == PACKAGE.name:
                    yield Import("/".join(parts), room, (*home, name)[1], name, at_start)
                elif home[0] in COMPANIONS:
                    yield Import("/".join(parts), room, home[0], name, at_start)


def test_imports_of_the_module_go_one_way():
    height = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
    graph: dict[str, set[str]] = {}
    for line in own_imports():
        if line.room in height and line.target in height:
            assert height[line.target] <= height[line.room], line
            if line.at_start:
                graph.setdefault(line.room, set()).update({line.target} - {line.room})
    list(TopologicalSorter(graph).static_order())  # raises on a cycle within a row
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - set(height) <= {"__init__", "__main__", "__pycache__", "py.typed"}


def test_companions_stand_beside_the_module():
    """Four use the rooms that know signs and images, federation, export and course all; no room knows the course.

    The module asks for the others when a function needs one.
    """
    for line in own_imports():
        assert line.target != "sdmad_course" or line.room == "sdmad_course", line
        if line.room in COMPANIONS[:4] and line.target != line.room:
            own_command = line.file.endswith("/cli") and line.target == "cli"
            assert own_command or line.target in {"errors", "files", "signs", "data", "__version__"}, line
        if line.room not in (*COMPANIONS, "__init__") and line.target in COMPANIONS:
            assert not line.at_start, line


def test_what_is_private_stays_in_its_room():
    private = [line for line in own_imports() if re.match("_[^_]", line.name) and line.target != line.room]
    assert private == []


def test_what_the_module_imports_the_core_installs():
    """Else `pip install .` would not do; what an extra brings is asked for by `needs`, which names the extra."""
    core = {package_name(requirement) for requirement in PYPROJECT["project"]["dependencies"]}
    core |= {"pydantic-core", "traitlets"}  # parts of pydantic and ipywidgets
    of = {name: {p.lower().replace("_", "-") for p in found} for name, found in packages_distributions().items()}
    for package in (PACKAGE, *(ROOT / name for name in COMPANIONS)):
        for path in package.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for node in (node for node, at_start in statements(ast.parse(text)) if at_start):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                first = {name.split(".")[0] for name in names if name} if not getattr(node, "level", 0) else set()
                for name in first - sys.stdlib_module_names - {PACKAGE.name, *COMPANIONS}:
                    assert of[name] & core, (path.name, name)
            assert set(re.findall(r'needs\("[\w.]+", "(\w+)"\)', text)) <= set(
                PYPROJECT["project"]["optional-dependencies"]
            ), path


HEAVY = {"matplotlib", "ipywidgets", "umap", "open_clip", "pandas", "torch"}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import sdmad_lite", set()),
        # scikit-learn imports pandas where it is installed
        (
            "import sdmad_phantoms; from sdmad_lite import SDMAD; from sdmad_lite.evaluation import experiment",
            {"torch", "pandas"},
        ),
    ],
)
def test_an_import_is_light(statement, allowed):
    code = f"{statement}; import sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "sdmad_lite" in loaded and loaded & HEAVY <= allowed


def test_what_the_package_offers_is_there():
    assert all(getattr(sdmad_lite, name) is not None for name in sdmad_lite.__all__)
    assert set(sdmad_lite.__all__) <= set(dir(sdmad_lite))
    assert sdmad_lite.plots.show_images([np.zeros((4, 4))]).axes
    with pytest.raises(AttributeError, match="no attribute 'sdmad'"):
        sdmad_lite.sdmad  # noqa: B018


def test_the_version_is_the_same_everywhere(files):
    assert re.search(r"^version: (.+)$", files["CITATION.cff"], re.MULTILINE)[1] == sdmad_lite.__version__
    assert re.search(r"^## \[(\d.*)\]", files["CHANGELOG.md"], re.MULTILINE)[1] == sdmad_lite.__version__


# Notebooks


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param, json.loads(request.param.read_text(encoding="utf-8"))


def code_cells(content: dict) -> list[str]:
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def plain_python(source: str) -> str:
    return "\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in source.splitlines())


def test_each_notebook_has_a_number_of_its_own_and_the_core_has_no_gaps():
    names = [p.name.partition("_")[0] for p in NOTEBOOKS if p.parent.name == "notebooks"]
    assert names == sorted(set(names))  # 05b is a part of room 05
    numbers = sorted({int(name[:2]) for name in names})
    assert numbers[:8] == list(range(8)) and 14 in numbers


def test_a_notebook_is_small_has_no_outputs_and_runs_on_any_kernel(notebook):
    path, content = notebook
    assert path.stat().st_size < 100_000
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert "data:image" not in "".join(cell["source"]) and not cell.get("attachments")


def test_the_code_of_a_notebook_comes_in_small_pieces(notebook):
    _, content = notebook
    cells = code_cells(content)
    assert len(cells) > 2
    assert [source for source in cells if len(source.splitlines()) > 30] == []
    for source in cells:
        for node in ast.walk(ast.parse(plain_python(source))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert node.end_lineno - node.lineno < 15, node.name


def test_a_notebook_imports_the_module(notebook):
    _, content = notebook
    assert any(
        re.search(r"^\s*(from|import) sdmad_(lite|export)", source, re.MULTILINE) for source in code_cells(content)
    )
