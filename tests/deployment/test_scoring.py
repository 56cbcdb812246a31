"""Scoring an archive: what the table says, that a stop loses nothing, and that several processes change nothing."""

import json
import os
import pickle
import resource
import shutil
import signal
import socket
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CATEGORIES
from PIL import Image
from processes import CHILDREN
from scipy.special import logit
from sklearn.exceptions import NotFittedError

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.deployment import scoring
from sdmad_lite.deployment.scoring import ScoringConfig, score_archive, score_table
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import (
    BackboneError,
    CheckpointError,
    DataError,
    MissingExtraError,
    OutputError,
    SDMADError,
)
from sdmad_lite.selection import SelectionConfig

pytestmark = pytest.mark.filterwarnings("ignore::sdmad_lite.errors.SDMADWarning")  # remarks on the odd files in it
GOOD = 20
QUICK = {"rows_per_part": 8, "batch_size": 4, "workers": 0, "progress": False}


@pytest.fixture(scope="module")
def fitted(tiny_clip_name, bank, phantom_table):
    support = phantom_table.rows(draw_support(phantom_table, 3, seed=0))
    drops = SelectionConfig(rule="rank")  # so that zero weights are met
    return SDMAD(
        bank,
        backbone=load_clip(tiny_clip_name, device="cpu"),
        alignment=AlignmentConfig(steps=3, augmentations=2, local=0.5),
        selection=drops,
    ).fit_table(support)


@pytest.fixture(scope="module")
def archive(phantom_table, tmp_path_factory):
    """20 images at two depths, three broken ones, and files that are no images."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "ward").mkdir()
    for i, image in enumerate(phantom_table.images[:GOOD]):
        Image.fromarray(image).save(folder / ("ward" if i % 2 else ".") / f"{i:03}.png")
    (folder / "007.png").write_bytes(b"")
    (folder / "ward" / "torn.png").write_bytes((folder / "000.png").read_bytes()[:200])
    (folder / "other.png").write_text("no image", encoding="utf-8")
    for other in ("labels.csv", ".hidden.png", "ward/.DS_Store", "notes"):
        (folder / other).write_text("no image", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def names(archive):
    found = (path.relative_to(archive).as_posix() for path in archive.rglob("*.png"))
    return sorted(name for name in found if "/." not in name and name[0] != ".")


@pytest.fixture
def score(fitted, archive, tmp_path):
    """Call it with what differs from a run over the archive in parts of 8, in this process alone."""

    def call(name="scores.parquet", detector=fitted, source=archive, **options):
        config = QUICK | {key: options.pop(key) for key in (*QUICK, "bf16") if key in options}
        return score_archive(detector, source, tmp_path / name, config=ScoringConfig(**config), **options)

    return call


@pytest.fixture(scope="module")
def whole(fitted, archive, tmp_path_factory):
    """Name and bytes of the files that an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole") / "scores.parquet"
    score_archive(fitted, archive, out, config=ScoringConfig(**QUICK))
    return content(out)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def table(summary):
    return pq.read_table(summary.out).to_pylist()


# The table


def test_each_image_has_a_row_in_order_and_a_broken_one_says_why(score, fitted, archive, names):
    summary = score()
    rows = table(summary)
    assert [row["image"] for row in rows] == names and len(names) == GOOD + 3
    bad = {row["image"]: row["error"] for row in rows if row["error"]}
    assert (summary.images, summary.errors, summary.made, summary.resumed) == (GOOD + 3, 3, 3, 0)
    assert "empty" in bad["007.png"] and "truncated" in bad["ward/torn.png"] and "identify" in bad["other.png"]
    assert all(value is None for row in rows if row["error"] for value in list(row.values())[2:])
    good = [row for row in rows if not row["error"]]
    expected = fitted.predict_proba([archive / row["image"] for row in good])
    np.testing.assert_allclose([[row[c] for c in CATEGORIES] for row in good], expected, atol=1e-5)
    detected = np.array([[row[f"{c}_detected"] for c in CATEGORIES] for row in good])
    np.testing.assert_array_equal(detected, expected >= fitted.thresholds_)
    about = json.loads((summary.out / "_about.json").read_text(encoding="utf-8"))
    assert list(about["thresholds"].values()) == fitted.thresholds_.tolist() and "clinical" in about["notice"]


def test_the_folder_is_one_table_to_pyarrow(score, names):
    found = pyarrow.dataset.dataset(score().out).to_table()
    assert found["image"].to_pylist() == names and found.num_columns == 2 + 2 * len(CATEGORIES)


@pytest.mark.parametrize(("reader", "files"), [("pandas", ""), ("polars", "*.parquet")])
def test_the_folder_is_one_table_to_others(score, names, reader, files):
    found = pytest.importorskip(reader).read_parquet(score().out / files)
    assert list(found["image"]) == names and found.shape[1] == 2 + 2 * len(CATEGORIES)


def test_a_handful_is_scored_without_pyarrow(score, fitted, archive, monkeypatch):
    rows = table(score(explain=True, batch_size=32))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "accelerate", None)  # needed by several processes only
    assert [list(row) for row in score_table(fitted, archive, explain=True)] == [list(row) for row in rows]
    for found, row in zip(score_table(fitted, archive, explain=True), rows, strict=True):
        assert found == pytest.approx(row, abs=1e-5)
    with pytest.raises(MissingExtraError, match=r"sdmad_lite\[archive\]"):
        score("other")


def test_explained_columns_sum_to_the_logit(score, fitted, archive):
    rows = table(score(explain=True))
    kept = {(e.category, s.text) for e in fitted.explain(archive / "000.png") for s in e.signs if s.weight}
    for category in CATEGORIES:
        terms = [name for name in rows[0] if name.startswith(f"{category} | ")]
        known = {f"{category} | {text}" for c, text in kept if c == category}
        assert set(terms) == known | {f"{category} | image evidence", f"{category} | bias"}
        for row in rows:
            if not row["error"]:
                assert sum(row[name] for name in terms) == pytest.approx(logit(row[category]), abs=1e-6)


def test_workers_change_nothing_and_the_batch_size_next_to_nothing(score, whole):
    state = torch.get_rng_state()
    assert content(score("workers", workers=2).out) == whole
    assert torch.equal(torch.get_rng_state(), state)  # nor do they touch the caller's random numbers
    for small, large in zip(table(score("1", batch_size=1)), table(score("8", batch_size=8)), strict=True):
        assert small == pytest.approx(large, abs=1e-5)


def test_a_worker_may_be_started_anew(score, whole, monkeypatch):
    """Windows and macOS send to it all that it needs, which must come out the same."""
    load = scoring.DataLoader
    monkeypatch.setattr(scoring, "DataLoader", lambda *given, **more: load(*given, **pickle.loads(pickle.dumps(more))))
    assert content(score(workers=0).out) == whole


def test_tables_lists_and_images_in_memory(score, fitted, phantom_table, archive):
    summary = score(source=phantom_table.rows(range(9)))
    rows = table(summary)
    assert [row["image"] for row in rows] == [f"image {i}" for i in range(9)] and summary.errors == 0
    expected = fitted.predict_proba(phantom_table.images[:9])
    np.testing.assert_allclose([[row[c] for c in CATEGORIES] for row in rows], expected, atol=1e-5)
    paths = [archive / "ward/001.png", archive / "gone.png", archive / "000.png"]
    rows = table(score("paths", source=(path for path in paths), root=archive))
    assert [row["image"] for row in rows] == ["ward/001.png", "gone.png", "000.png"]
    assert "no such image" in rows[1]["error"]
    rows = table(score("mixed", source=[None, paths[0]]))
    assert "expected a path" in rows[0]["error"] and rows[1]["image"] == str(paths[0]) and not rows[1]["error"]


def test_names_that_are_no_text_are_written_all_the_same(score, archive, tmp_path):
    (tmp_path / "odd").mkdir()
    for name in (b"\xff.png", b"\xfe.png"):
        (tmp_path / "odd" / os.fsdecode(name)).write_bytes((archive / "000.png").read_bytes() if name[0] > 254 else b"")
    rows = table(score(source=tmp_path / "odd"))
    assert [row["image"] for row in rows] == ["\\udcfe.png", "\\udcff.png"] and "empty" in rows[0]["error"]


def test_bf16_is_close(score):
    exact, close = (pq.read_table(score(str(bf16), bf16=bf16).out) for bf16 in (False, True))
    for category in CATEGORIES:
        difference = np.abs(exact[category].drop_null().to_numpy() - close[category].drop_null().to_numpy())
        assert 0 < difference.max() < 0.1


def test_a_batch_too_large_for_the_memory_is_halved(score, fitted, monkeypatch):
    seen, views = [], fitted.backbone.views

    def narrow(pixels, patches):
        seen.append(len(pixels))
        if len(pixels) > narrow.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return views(pixels, patches)

    monkeypatch.setattr(fitted.backbone, "views", narrow)
    narrow.most = 2
    assert score(batch_size=8).errors == 3
    assert seen[:3] == [7, 4, 2]  # seven of the first eight can be read
    narrow.most = 0
    with pytest.raises(BackboneError, match="one image alone"):
        score("none")
    monkeypatch.setattr(fitted.backbone, "views", lambda pixels, patches: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score("other")
    assert not any(hasattr(block, "shift_adapter") for block in fitted.backbone.model.modules())


# Stopped and continued


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    return fitted.save(tmp_path_factory.mktemp("saved") / "detector")


def _killed(saved, archive, out, moment):
    """Score until the file number `moment` would be put in place, or to the end; then die."""
    replace, done = os.replace, []

    def counting(*paths):
        if len(done) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(paths)
        replace(*paths)

    detector = SDMAD.load(saved, device="cpu")
    os.replace = counting
    try:
        score_archive(detector, archive, out, config=ScoringConfig(**QUICK))
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", range(6))
def test_kill_9_loses_at_most_the_part_in_work(score, saved, archive, whole, moment, tmp_path):
    """Killed when `_about.json` or one of the parts is written but not in place, or after all."""
    child = CHILDREN.Process(target=_killed, args=(saved, archive, tmp_path / "scores.parquet", moment))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    summary = score()
    assert summary.resumed == min(max(moment - 1, 0), 3) and summary.made == 3 - summary.resumed
    assert summary.errors == 3 and content(summary.out) == whole
    again = score()
    assert (again.resumed, again.made, again.errors) == (3, 0, 3)
    anew = score(resume=False)
    assert (anew.resumed, anew.made) == (0, 3) and content(anew.out) == whole


def test_parts_of_another_run_are_refused(score, fitted, monkeypatch, archive, names, tmp_path):
    before = content(score().out)
    with monkeypatch.context() as patch:
        patch.setattr(fitted, "thresholds_", fitted.thresholds_ + 0.01)
        with pytest.raises(CheckpointError, match=r"another detector and another thresholds; .*resume=False"):
            score()
    for change, what in (
        ({"explain": True}, "explain"),
        ({"bf16": True}, "bf16"),
        ({"rows_per_part": 4}, "rows per part"),
        ({"source": names[:-1], "root": archive}, "images and another list of images"),
        ({"source": [archive / name for name in reversed(names)], "root": archive}, "list of images"),
    ):
        with pytest.raises(CheckpointError, match=f"another {what}"):
            score(**change)
    assert content(tmp_path / "scores.parquet") == before
    assert score(batch_size=8).resumed == 3  # that is no other run
    (tmp_path / "scores.parquet" / "_about.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"_about.json: cannot be read .* to start anew"):
        score()


def swap(folder):
    a, b = (folder / "000.png").read_bytes(), (folder / "002.png").read_bytes()
    (folder / "000.png").write_bytes(b), (folder / "002.png").write_bytes(a)


def replace_in_place(folder):
    """Another picture of the same name, size and time."""
    path = folder / "ward" / "001.png"
    before, new = path.stat(), bytearray(path.read_bytes())
    new[-1] ^= 255
    path.write_bytes(new)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [swap, replace_in_place, lambda folder: (folder / "000.png").unlink()])
def test_parts_of_other_images_under_the_same_names_are_refused(score, archive, tmp_path, change):
    names = [archive / name for name in ("000.png", "ward/001.png", "002.png")]
    out, copy = score(source=names, root=archive, rows_per_part=2).out, tmp_path / "copy"
    before = content(out)
    shutil.copytree(archive, copy)
    again = {"source": [copy / name.relative_to(archive) for name in names], "root": copy, "rows_per_part": 2}
    assert score(**again).resumed == 2  # the same images elsewhere
    change(copy)
    with pytest.raises(CheckpointError, match=r"part-0000.* made of other images .*remove it .*resume=False"):
        score(**again)
    assert content(out) == before
    assert score(**again, resume=False).made == 2 and content(out) != before


def test_a_part_of_another_run_is_not_taken_for_one_of_this(score, tmp_path):
    score("other", explain=True)
    shutil.copy(tmp_path / "other" / "part-00001.parquet", score().out)
    with pytest.raises(CheckpointError, match=r"part-00001.* made of other images than there are now, or elsewhere"):
        score()


def test_images_in_memory_are_known_by_their_pixels(score, phantom_table):
    images = [*phantom_table.images[:3], Image.fromarray(phantom_table.images[3]), None]
    assert score(source=images).errors == 1 and score(source=images).resumed == 1
    with pytest.raises(CheckpointError, match="made of other images"):
        score(source=[images[1], images[0], *images[2:]])


def test_a_saved_detector_is_the_same_detector(fitted, tmp_path):
    loaded = SDMAD.load(fitted.save(tmp_path / "detector"), backbone=fitted.backbone)
    assert scoring.about(loaded) == scoring.about(fitted)


@contextmanager
def no_file_over(size):
    """The system refuses to write more than `size` bytes to a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_nothing(score, whole, tmp_path):
    with no_file_over(100), pytest.raises(OutputError, match=r"_about.json: cannot be written"):
        score()
    assert not os.listdir(tmp_path)
    with no_file_over(2000), pytest.raises(OutputError, match=r"part-00000.parquet: cannot be written"):
        score()
    assert os.listdir(tmp_path / "scores.parquet") == ["_about.json"]
    assert content(score().out) == whole


def test_a_damaged_part_is_made_again(score, whole):
    out = score().out
    (out / "part-00001.parquet").write_bytes(b"")  # what a power cut leaves
    damaged = bytearray((out / "part-00002.parquet").read_bytes())
    damaged[40] ^= 255
    (out / "part-00002.parquet").write_bytes(damaged)
    summary = score()
    assert (summary.resumed, summary.made) == (1, 2) and content(out) == whole


def test_two_processes_write_the_same_as_one(saved, archive, whole, tmp_path):
    """They find each other by gloo, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    children = []
    for rank in ("0", "1"):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        args = (launched | ranks, saved, archive, tmp_path / "scores.parquet", tmp_path / rank)
        children.append(CHILDREN.Process(target=_one_of_two, args=args))
        children[-1].start()
    for child in children:
        child.join()
    told = [(tmp_path / rank).read_text(encoding="utf-8") for rank in ("0", "1")]
    assert all("errors=3, resumed=0, made=3" in text for text in told)  # each knows of the other's
    assert [text.count("part-") for text in told] == [2, 1]
    assert content(tmp_path / "scores.parquet") == whole


def _one_of_two(variables, saved, archive, out, said):
    """Write what a process says, and which parts it made itself."""
    os.environ.update(variables)
    write, files = scoring.new_file, []
    scoring.new_file = lambda file: write(files.append(file.name) or file)
    summary = score_archive(SDMAD.load(saved, device="cpu"), archive, out, config=ScoringConfig(**QUICK))
    said.write_text(f"{summary, files}", encoding="utf-8")


# Refused


def test_bad_arguments_name_what_to_change(score, fitted, bank, tiny_clip, archive, monkeypatch, tmp_path):
    (tmp_path / "old.parquet").write_text("a table", encoding="utf-8")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    for options, kind, message in (
        ({"name": "old.parquet"}, OutputError, "old.parquet: exists and holds no _about.json"),
        ({"name": "thesis"}, OutputError, "thesis: exists and holds no _about.json"),
        ({"source": archive / "gone"}, DataError, "gone: cannot be read"),
        ({"source": tmp_path / "nothing"}, DataError, "nothing: holds no image"),
        ({"source": []}, DataError, "the list is empty"),
        ({"batch_size": 0}, SDMADError, "batch_size is 0"),
        ({"workers": -1}, SDMADError, "workers is -1"),
        ({"rows_per_part": 0}, SDMADError, "rows_per_part is 0"),
        ({"detector": SDMAD(bank, backbone=tiny_clip)}, NotFittedError, "fit"),
    ):
        with pytest.raises(kind, match=message):
            score(**options)
    monkeypatch.setattr(fitted, "bank", bank.model_copy(update={"categories": ("a", "a_detected", "b")}))
    with pytest.raises(OutputError, match="two columns would be called 'a_detected'"):
        score()
    assert sorted(os.listdir(tmp_path)) == ["nothing", "old.parquet", "thesis"]
