"""Whatever stands in a file or on the command line: the project's own error or a result, and nothing beside it.

Damaged banks, tables, .npz files, DICOM files and detectors are made from good ones by changing bytes, words and
entries. Each run must end well or in an `SDMADError`, leave the files as they were, open nothing outside the folder of
the case, and run no code of a checkpoint.

The budget here is small and the same each time. `SDMAD_FUZZ_EXAMPLES=20000 pytest tests/test_fuzz.py` looks for
longer, at random.
"""

import builtins
import contextlib
import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_inputs.images import GREY, dicom
from bad_inputs.world import BANK, CATEGORIES, LABELS, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdmad_lite.__main__ import main
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.backbone import load_clip
from sdmad_lite.data import load_data, read_image
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import SDMADError
from sdmad_lite.lint import check_bank
from sdmad_lite.signs import load_bank

LONG = int(os.environ.get("SDMAD_FUZZ_EXAMPLES", "0"))


def budget(examples: int):
    """Settings of one test: `examples` in the test run, or as many as the environment says."""
    return settings(
        max_examples=LONG or examples,
        derandomize=not LONG,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# Good things, and how they are damaged

NASTY = [
    "",
    "0",
    "1",
    "-1",
    "1e999",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    '"',
    ",",
    "\n",
    "\0",
    "\ufeff",
    "\u202e",
    "=1+1",
]
NASTY += [
    "../../secret.png",
    "/etc/passwd",
    "\\\\host\\share",
    "C:\\x",
    "~",
    "a" * 5000,
    "9" * 5000,
    "[" * 3000,
    "💀",
    "\ud7ff",
]


@st.composite
def damaged(draw, good: bytes):
    """Bytes with a few places overwritten, removed, doubled or filled with something nasty."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 40)))
        piece = draw(st.one_of(st.binary(max_size=20), st.sampled_from([text.encode() for text in NASTY])))
        data[start:stop] = draw(st.sampled_from([piece, b"", bytes(data[start:stop]) * 2]))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(NASTY))
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@st.composite
def changed(draw, good):
    """A JSON document with one entry anywhere replaced, removed or added."""
    document = json.loads(json.dumps(good))
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else []
        if not keys:
            return draw(anything)
        key = draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or draw(st.integers(0, 2)) == 0:
            break
        place = place[key]
    action = draw(st.sampled_from(["replace", "remove", "add"]))
    if action == "remove":
        del place[key]
    elif action == "add" and isinstance(place, dict):
        place[draw(st.text(max_size=8))] = draw(anything)
    else:
        place[key] = draw(anything)
    return document


# What is watched

EVENTS: list[tuple[str, str]] = []
"""Paths that were opened, and commands started, while `watched` was on."""
WATCHING = False


def _audit(event, arguments):
    if not WATCHING:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        EVENTS.append(("open", os.fsdecode(arguments[0])))
    elif event in ("os.system", "subprocess.Popen", "os.exec", "pickle.find_class", "socket.connect"):
        EVENTS.append((event, repr(arguments)[:200]))


sys.addaudithook(_audit)
PROGRAM = [
    Path(sys.prefix),
    Path(sys.base_prefix),
    Path(__file__).parents[1],
    Path("/usr"),
    Path("/dev"),
    Path("/proc"),
]
"""Where Python, its libraries and the package lie; they are opened when something is imported."""


@contextlib.contextmanager
def watched(folder: Path):
    """Files of the folder stay as they are, nothing else is opened, no program started, nothing unpickled."""
    global WATCHING
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    EVENTS.clear()
    WATCHING = True
    try:
        with contextlib.suppress(SDMADError):
            yield
    finally:
        WATCHING = False
    seen = [(event, what) for event, what in EVENTS if event != "open" or not _allowed(what, folder)]
    assert seen == []
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def _allowed(name: str, folder: Path) -> bool:
    path = Path(os.path.abspath(name))
    return path.is_relative_to(folder) or any(path.is_relative_to(place) for place in PROGRAM)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for damaged files, beside a secret that nobody may read."""
    place = tmp_path_factory.mktemp("fuzz")
    (place / "secret.png").write_bytes(b"secret")
    (place / "case").mkdir()
    return place / "case"


def test_the_watch_sees_a_file_outside_a_pickle_and_a_program(place):
    """The tests below could not fail without it."""
    for act in (
        lambda: builtins.open(place.parent / "secret.png", "rb").close(),
        lambda: pickle.loads(pickle.dumps(Path("x"))),
        lambda: os.system("true"),
    ):
        with pytest.raises(AssertionError), watched(place):
            act()
    with pytest.raises(AssertionError), watched(place):
        (place / "left").write_bytes(b"behind")
    (place / "left").unlink()


# Banks


@budget(150)
@given(st.one_of(damaged(json.dumps(BANK, indent=1).encode()), changed(BANK).map(lambda d: json.dumps(d).encode())))
def test_a_damaged_bank(place, content):
    path = place / "bank.json"
    path.write_bytes(content)
    with watched(place):
        bank = load_bank(path)
        assert bank.membership().shape == (len(bank.categories) + 1, len(bank.texts))
    with watched(place):
        assert all(str(finding) for finding in check_bank(path))
    path.unlink()


# Tables


@pytest.fixture(scope="module")
def table(place):
    return World(place, None, None).data()


cells = st.sampled_from([*NASTY, "0.png", "1.png", "image", "Effusion", "patient_id", "split", "No Finding"])
rows = st.lists(st.lists(cells, min_size=1, max_size=6).map(",".join), max_size=6).map(lambda r: "\n".join(r).encode())
lines = st.permutations(LABELS.splitlines()).map(lambda r: "\n".join(r).encode())


@budget(150)
@given(st.one_of(damaged(LABELS.encode()), rows, lines), st.sampled_from([CATEGORIES, None]))
def test_a_damaged_table(table, content, categories):
    (table / "labels.csv").write_bytes(content)
    with watched(table):
        found = load_data(table, categories)
        assert found.labels.shape == (len(found), len(found.categories)) and np.isin(found.labels, (0, 1)).all()
        for image in found.images:
            assert Path(image).resolve().is_relative_to(table.resolve())


# Images and DICOM

SCANS = [dicom(), dicom(GREY.astype(np.uint16) * 9, WindowCenter=900, WindowWidth=400), dicom(RescaleSlope=2)]


@budget(120)
@given(st.sampled_from(SCANS).flatmap(damaged), st.booleans())
def test_a_damaged_dicom(place, content, color):
    path = place / "scan.dcm"
    path.write_bytes(content)
    with watched(place):
        assert read_image(path, color).mode == ("RGB" if color else "L")
    path.unlink()


def stored(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


NPZ = [
    stored(train_images=np.zeros((3, 4, 4), np.uint8), train_labels=np.array([[0], [1], [2]])),
    stored(images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.eye(3, dtype=np.int64)),
    stored(train_images=np.array([{"run": "me"}], dtype=object), train_labels=np.array([[0]])),
]


@budget(120)
@given(st.sampled_from(NPZ).flatmap(damaged), st.sampled_from([("normal", *CATEGORIES), None]))
def test_a_damaged_npz(place, content, names):
    path = place / "set.npz"
    path.write_bytes(content)
    with watched(place):
        found = load_data(path, CATEGORIES, names=names)
        assert len(found.images) == len(found.labels)
    path.unlink()


# Detectors


class Code:
    """What a pickle would run."""

    def __reduce__(self):
        return (os.system, ("true",))


@pytest.fixture(scope="module")
def fitted(place, tiny_clip_name):
    """A detector's folder, its files' good content, and its backbone."""
    backbone = load_clip(tiny_clip_name, device="cpu")
    images = [np.full((32, 32), i, np.uint8) for i in range(4)]
    world = World(place.parent, None, None)
    detector = SDMAD(world.bank(), backbone, alignment=AlignmentConfig(steps=1, views=1))
    detector.fit(images, np.array([(0, 0), (1, 0), (0, 1), (1, 1)])).save(place / "detector")
    good = {path.name: path.read_bytes() for path in (place / "detector").iterdir()}
    yield place / "detector", good, backbone
    shutil.rmtree(place / "detector")


@budget(60)
@given(st.data())
def test_a_damaged_detector(fitted, data):
    folder, good, backbone = fitted
    for name, content in good.items():
        (folder / name).write_bytes(content)
    name = data.draw(st.sampled_from(sorted(good)))
    ways = [damaged(good[name]), st.just(pickle.dumps(Code()))]
    if name == "detector.json":
        ways.append(changed(json.loads(good[name])).map(lambda d: json.dumps(d).encode()))
    (folder / name).write_bytes(data.draw(st.one_of(ways)))
    with watched(folder):
        found = SDMAD.load(folder, backbone)
        assert found.predict_proba([GREY]).shape == (1, len(found.bank.categories))


# Arguments

WORDS = [
    "run",
    "fit",
    "predict",
    "evaluate",
    "embed",
    "signs",
    "data",
    "check",
    "list",
    "info",
    "get",
    "x.png",
    *NASTY[:20],
]
OPTIONS = ["--data", "--signs", "--out", "--shots", "--seed", "--steps", "--lam", "--detector", "--split", "--format"]
OPTIONS += ["--categories", "--batch-size", "--names", "--normal", "--dataset", "--variant", "--to", "--json", "--maps"]


@budget(80)
@given(st.sampled_from(WORDS[:7]), st.lists(st.sampled_from(WORDS + OPTIONS), max_size=8))
def test_any_arguments(place, command, rest):
    rest = [word for word in rest if not word.startswith(("/", "~", ".."))]  # a path given by the user is obeyed
    with contextlib.chdir(place), contextlib.redirect_stderr(io.StringIO()) as err, watched(place):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                code = main([command, *rest])
            except SystemExit as stop:  # by argparse
                code = stop.code
        assert code in (0, 1, 2)
        assert (code == 2) == ("error: " in err.getvalue()) and "Traceback" not in err.getvalue()
