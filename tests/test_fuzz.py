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
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from bad_inputs.images import GREY, dicom
from bad_inputs.world import BANK, CATEGORIES, LABELS, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.cli import main
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import load_data, read_image
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import SDMADError, noting
from sdmad_lite.signs.bank import load_bank
from sdmad_lite.signs.lint import check_bank

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
NASTY += ["../../secret.png", "/etc/passwd", "\\\\host\\share", "C:\\x", "~", "a" * 5000, "9" * 5000, "[" * 3000]
NASTY += ["💀", "\ud7ff"]


pieces = st.one_of(st.binary(max_size=20), st.sampled_from([text.encode() for text in NASTY]))
edits = st.tuples(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), pieces, st.sampled_from("wrd")), min_size=1, max_size=4),
    st.one_of(st.just(1.0), st.just(1.0), st.just(1.0), st.floats(0, 1)),
)


def damage(good: bytes, edits) -> bytes:
    """Bytes with a few places written over, removed or doubled, and perhaps cut off."""
    changes, share = edits
    data = bytearray(good)
    for where, length, piece, action in changes:
        start = int(where * len(data))
        old = bytes(data[start : start + length])
        data[start : start + length] = {"w": piece, "r": b"", "d": old * 2}[action]
    return bytes(data[: int(share * len(data))])


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(NASTY))
anything = st.one_of(leaves, st.lists(leaves, max_size=3), st.dictionaries(st.text(max_size=5), leaves, max_size=3))
turns = st.tuples(
    st.lists(st.integers(0, 30), min_size=1, max_size=5), st.sampled_from("wra"), st.text(max_size=8), anything
)


def turn(good: bytes, turns) -> bytes:
    """A JSON document with one entry anywhere written over, removed or added."""
    steps, action, name, value = turns
    document = place = json.loads(good)
    for number, step in enumerate(steps, 1):
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[step % len(keys)]
        if number == len(steps) or not place[key] or not isinstance(place[key], dict | list):
            break
        place = place[key]
    if action == "r":
        del place[key]
    elif action == "a" and isinstance(place, dict):
        place[name] = value
    else:
        place[key] = value
    return json.dumps(document).encode()


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
PROGRAM = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[1]]
PROGRAM += [Path("/usr"), Path("/dev"), Path("/proc")]
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

GOOD_BANK = json.dumps(BANK, indent=1).encode()


@budget(150)
@given(st.one_of(edits.map(lambda e: damage(GOOD_BANK, e)), turns.map(lambda t: turn(GOOD_BANK, t))))
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
@given(st.one_of(edits.map(lambda e: damage(LABELS.encode(), e)), rows, lines), st.sampled_from([CATEGORIES, None]))
def test_a_damaged_table(table, content, categories):
    (table / "labels.csv").write_bytes(content)
    with watched(table):
        found = load_data(table, categories)
        assert found.labels.shape == (len(found), len(found.categories)) and np.isin(found.labels, (0, 1)).all()
        for image in found.images:
            assert Path(image).resolve().is_relative_to(table.resolve())


def respelled(name: str, upper: list[bool], gaps: list[str], form: str) -> str:
    """As people and programs write a name: other case, blanks, dashes, Unicode form, letters of no width."""
    spelled = "".join(c.upper() if up else c.lower() for c, up in zip(name, upper, strict=False))
    return unicodedata.normalize(form, "".join(c if c != " " else gaps[0] for c in spelled) + gaps[1])


cased = st.lists(st.booleans(), min_size=20, max_size=20)
gaps = st.tuples(
    st.sampled_from([" ", "_", "-", "", "\u00a0", "\u2010", "\u2013", "  ", " \u200b"]),
    st.sampled_from(["", " ", "\u200b"]),
)
spellings = st.tuples(cased, gaps, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
NAMES = ("Épanchement pleural", "Lung nodule")


@budget(60)
@given(st.tuples(spellings, spellings), st.booleans())
def test_a_category_is_known_in_any_spelling(place, spelled, folders):
    """As the name of a column, or of a class folder in one part of the split and in the other."""
    here = place / "names"
    said = [respelled(NAMES[i % 2], *spelled[i // 2]).strip("\u00a0 ") or "x" for i in range(4)]
    wanted = [(1, 0), (0, 1), (1, 0), (0, 1)]
    if folders:
        for i, name in enumerate(said):
            (here / f"part{i // 2}".replace("part0", "train").replace("part1", "test") / name).mkdir(parents=True)
            Image.fromarray(GREY + i).save(here / ("train", "test")[i // 2] / name / "a.png")
    else:
        here.mkdir()
        for i in range(4):
            Image.fromarray(GREY + i).save(here / f"{i}.png")
        rows = [f"{i}.png,{b},{a}" for i, (a, b) in enumerate(wanted)]
        (here / "labels.csv").write_text("\n".join([f"image,{said[1]},{said[0]}", *rows]), encoding="utf-8")
    with watched(here), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two spellings of one class
        found = load_data(here, NAMES, normal="" if folders else None)
    shutil.rmtree(here)
    assert found.categories == NAMES and sorted(map(tuple, found.labels.tolist())) == sorted(wanted)


ONES, ZEROS = ["1", "1.0", "TRUE", "yes", "Ja", "\uff11"], ["0", "0.0", "False", "no", "n", "0e0"]


@budget(80)
@given(
    st.permutations(["image", *CATEGORIES, "patient_id", "split"]),
    st.sampled_from(",;|\t"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.sampled_from([*zip(ONES, ZEROS, strict=True)]), min_size=12, max_size=12),
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
)
def test_a_table_is_the_same_in_any_form(table, order, mark, code, end, words, more):
    """Columns in any order, with any mark between them, as Excel, pandas and Windows leave a table."""
    index, tail, told, quoted = more
    header, *lines = [line.split(",") for line in LABELS.splitlines()]
    rows, words = [dict(zip(header, line, strict=True)) for line in lines], iter(words)
    for row in rows:
        row |= {
            c: next(words)[row[c] == "0"].replace("\uff11", "1" if code == "cp1252" else "\uff11") for c in CATEGORIES
        }
    cells = [order, *([row[name] for name in order] for row in rows)]
    text = [[str(i - 1) if i else ""] * index + row + ["", ""] * tail for i, row in enumerate(cells)]
    form = '"{}"'.format if quoted else str
    text = [f"sep={mark}"] * told + [mark.join(map(form, row)) for row in text] + [mark * len(text[0])] * tail
    (table / "labels.csv").write_bytes((end.join(text) + end).encode(code))
    with watched(table), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_data(table, CATEGORIES)
    assert found.labels.tolist() == [[0, 0], [1, 0], [0, 1]] * 2
    assert found.meta["split"] == ("train",) * 3 + ("test",) * 3 and found.meta["patient_id"][5] == "P5"


# Images and DICOM

SCANS = [dicom(), dicom(GREY.astype(np.uint16) * 9, WindowCenter=900, WindowWidth=400), dicom(RescaleSlope=2)]


def lut(entries, first, bits, count) -> Sequence:
    """A sequence of one LUT; the descriptor may say what it likes."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [count, first, bits])
    item.add_new("LUTData", "OW", entries)
    return Sequence([item])


words = st.integers(0, 2**16 - 1)
numbers = st.one_of(st.sampled_from(["", "0", "-1", "nan", "inf", "1e9"]), st.integers(-9999, 9999).map(str))
tables = st.builds(lut, st.binary(min_size=2, max_size=40).map(lambda b: b[: len(b) // 2 * 2]), words, words, words)
entries = st.fixed_dictionaries(
    {},
    optional={
        "VOILUTSequence": tables,
        "ModalityLUTSequence": tables,
        **dict.fromkeys(["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"], numbers),
        "PixelPaddingValue": words,
        "PixelPaddingRangeLimit": words,
        "PixelAspectRatio": st.lists(numbers.filter(str.isdigit), min_size=2, max_size=2),
        "HighBit": st.integers(0, 40),
        "BitsStored": st.integers(0, 40),
        "VOILUTFunction": st.sampled_from(["LINEAR_EXACT", "SIGMOID", "LINEAR", "cubic", ""]),
        "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "PALETTE COLOR", "RGB", ""]),
        **{f"{color}PaletteColorLookupTableDescriptor": st.just([4, 0, 8]) for color in ("Red", "Green", "Blue")},
        **{f"{color}PaletteColorLookupTableData": st.binary(max_size=8) for color in ("Red", "Green", "Blue")},
    },
)


@budget(150)
@given(st.sampled_from([GREY, GREY.astype(np.uint16) * 9]), entries, st.booleans())
def test_dicom_tables_and_windows(place, pixels, entries, bare):
    """Whatever tables, windows, padding and depths a header declares; the patient's name stays out of it."""
    content = dicom(pixels, PatientName="Doe^Jane", **entries)
    (place / "scan.dcm").write_bytes(content[144 + int.from_bytes(content[140:144], "little") :] if bare else content)
    with watched(place), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a slope of 0
        try:
            assert read_image(place / "scan.dcm", color=True).mode == "RGB"
        except SDMADError as error:
            assert "Jane" not in str(error)
            raise
    (place / "scan.dcm").unlink()


@budget(120)
@given(st.sampled_from(SCANS), edits, st.booleans())
def test_a_damaged_dicom(place, good, edits, color):
    path = place / "scan.dcm"
    path.write_bytes(damage(good, edits))
    with watched(place):
        assert read_image(path, color).mode == ("RGB" if color else "L")
    path.unlink()


def picture(width: int, height: int, kind: str, deep: str, mark: int) -> bytes:
    """A ramp of any shape and depth, with an orientation mark."""
    ramp, stream, exif = np.arange(width * height).reshape(height, width) % 251, io.BytesIO(), Image.Exif()
    exif[274] = mark
    image = Image.fromarray(
        (ramp / 251 if deep == "F" else ramp).astype({"I;16": "u2", "I": "i4", "F": "f4"}.get(deep, "u1"))
    )
    if deep not in ("I;16", "I", "F"):
        image = image.convert(deep)
    kind = kind if deep not in ("F", "I", "CMYK") else "TIFF"
    image.save(stream, kind if deep in ("L", "RGB") or kind != "JPEG" else "PNG", exif=exif)
    return stream.getvalue()


pictures = st.builds(
    picture,
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["PNG", "JPEG", "TIFF"]),
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"]),
    st.integers(0, 9),
)


@budget(200)
@given(pictures, st.one_of(st.none(), edits), st.booleans())
def test_a_picture_of_any_shape_depth_and_mark_whole_or_damaged(place, good, edits, color):
    path = place / "picture.img"
    path.write_bytes(damage(good, edits) if edits else good)
    with watched(place), noting(say=False):
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
@given(st.sampled_from(NPZ), edits, st.sampled_from([("normal", *CATEGORIES), None]))
def test_a_damaged_npz(place, good, edits, names):
    path = place / "set.npz"
    path.write_bytes(damage(good, edits))
    with watched(place):
        found = load_data(path, CATEGORIES, names=names)
        assert len(found.images) == len(found.labels)
    path.unlink()


# Detectors


class Code:
    """What a pickle would run."""

    def __reduce__(self):
        return (os.system, ("true",))


class Fitted:
    """A detector's folder and the good content of its files; short to print."""

    def __init__(self, folder: Path, backbone):
        self.folder, self.backbone = folder, backbone
        self.good = {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def fitted(place, tiny_clip_name):
    """A detector of the tiny CLIP."""
    backbone = load_clip(tiny_clip_name, device="cpu")
    images = [np.full((32, 32), i, np.uint8) for i in range(4)]
    world = World(place.parent, None, None)
    detector = SDMAD(world.bank(), backbone=backbone, alignment=AlignmentConfig(steps=1, augmentations=1))
    detector.fit(images, np.array([(0, 0), (1, 0), (0, 1), (1, 1)])).save(place / "detector")
    yield Fitted(place / "detector", backbone)
    shutil.rmtree(place / "detector")


@budget(100)
@given(st.one_of(st.none(), edits), st.one_of(st.none(), edits, turns))
def test_a_damaged_detector(fitted, weights, state):
    """Weights damaged or a pickle in their place, and detector.json damaged as bytes or in an entry."""
    folder, good = fitted.folder, fitted.good
    spoilt = dict(good)
    if weights is not None:
        spoilt["adapters.safetensors"] = damage(good["adapters.safetensors"], weights)
    elif state is None:
        spoilt["adapters.safetensors"] = pickle.dumps(Code())
    if state is not None:
        spoilt["detector.json"] = (damage if len(state) == 2 else turn)(good["detector.json"], state)
    for name, content in spoilt.items():
        (folder / name).write_bytes(content)
    with watched(folder):
        found = SDMAD.load(folder, fitted.backbone)
        scores = found.predict_proba([GREY])
        assert scores.shape == (1, len(found.bank.categories)) and np.isfinite(scores).all()
        assert len(found.explain(GREY)) == len(found.selected_signs()) == scores.shape[1]


# Arguments

WORDS = ["run", "fit", "predict", "evaluate", "embed", "signs", "data", "check", "list", "info", "get", "x.png"]
WORDS += NASTY[:20]
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
