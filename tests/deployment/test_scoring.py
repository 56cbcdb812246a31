"""Scoring an archive: what the table says, that a stop loses nothing, and that several processes change nothing."""

import csv
import json
import os
import pickle
import resource
import signal
import socket
import weakref
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import CATEGORIES
from PIL import Image
from scipy.special import logit

from sdmad_lite.alignment.train import AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.deployment import scoring
from sdmad_lite.deployment.archive import Batches
from sdmad_lite.deployment.parts import Parts
from sdmad_lite.deployment.scoring import score_archive
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import BackboneError, CheckpointError, DataError, NotFittedError, OutputError
from sdmad_lite.selection.sign_selector import SelectionConfig

GOOD = 20


@pytest.fixture(scope="module")
def fitted(tiny_clip_name, bank, phantom_table):
    support = phantom_table.rows(draw_support(phantom_table, 3, seed=0))
    drops = SelectionConfig(rule="rank")  # so that zero weights are met
    return SDMAD(
        bank,
        backbone=load_clip(tiny_clip_name, device="cpu"),
        alignment=AlignmentConfig(steps=3, augmentations=2),
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
    Image.fromarray(np.full((8, 8, 3), (200, 30, 30), np.uint8)).save(folder / "colour.png")
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
        options = {"rows_per_part": 8, "batch_size": 4, "workers": 0, "progress": False} | options
        return score_archive(detector, source, tmp_path / name, **options)

    return call


@pytest.fixture(scope="module")
def whole(fitted, archive, tmp_path_factory):
    """Bytes of the table that an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole") / "scores.parquet"
    score_archive(fitted, archive, out, rows_per_part=8, batch_size=4, workers=0, progress=False)
    return out.read_bytes()


# The table


def test_each_image_has_a_row_in_order_and_a_broken_one_says_why(score, fitted, archive, names):
    summary = score()
    rows = pq.read_table(summary.out).to_pylist()
    assert [row["image"] for row in rows] == names and len(names) == GOOD + 3
    bad = {row["image"]: row["error"] for row in rows if row["error"]}
    assert (summary.images, summary.errors, summary.parts, summary.resumed) == (GOOD + 3, 3, (3,), 0)
    assert "empty" in bad["007.png"] and "truncated" in bad["ward/torn.png"] and "colour" in bad["colour.png"]
    assert all(value is None for row in rows if row["error"] for value in list(row.values())[2:])
    good = [row for row in rows if not row["error"]]
    expected = fitted.predict_proba([archive / row["image"] for row in good])
    np.testing.assert_allclose([[row[c] for c in CATEGORIES] for row in good], expected, atol=1e-5)
    called = np.array([[row[f"{c}_called"] for c in CATEGORIES] for row in good])
    np.testing.assert_array_equal(called, expected >= fitted.thresholds_)
    about = json.loads(pq.read_schema(summary.out).metadata[b"sdmad"])
    assert list(about["thresholds"].values()) == fitted.thresholds_.tolist() and "clinical" in about["notice"]
    assert os.listdir(summary.out.parent) == ["scores.parquet"]


def test_all_formats_say_the_same(score):
    rows = pq.read_table(score().out).to_pylist()
    lines = score("scores.jsonl").out.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    with score("scores.csv").out.open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    texts = ("image", "error")
    assert [{k: (v or None) if k in texts or not v else float(v) for k, v in row.items()} for row in table] == rows
    about = json.loads(score("scores.csv").out.with_name("scores.csv.about.json").read_text(encoding="utf-8"))
    assert about["thresholds"].keys() == set(CATEGORIES)


def test_explained_columns_sum_to_the_logit(score, fitted, archive):
    rows = pq.read_table(score(explain=True).out).to_pylist()
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
    assert score("workers.parquet", workers=2).out.read_bytes() == whole
    assert torch.equal(torch.get_rng_state(), state)  # nor do they touch the caller's random numbers
    score("scores.parquet")
    small, large = (pq.read_table(score(f"{size}.parquet", batch_size=size).out) for size in (1, 8))
    for category in CATEGORIES:
        np.testing.assert_allclose(
            small[category].drop_null().to_numpy(), large[category].drop_null().to_numpy(), atol=1e-5
        )


def test_a_worker_may_be_started_anew(fitted, archive, names, tmp_path):
    (tmp_path / "s.csv.parts").mkdir()
    lines = [json.dumps(name) + "\n" for name in names[:3]]
    (tmp_path / "s.csv.parts" / "images.jsonl").write_text("".join(lines), encoding="utf-8")
    batches = Batches(Parts(tmp_path / "s.csv", 3, 3, (0,)), archive, None, fitted.backbone.preprocess, False)
    again = pickle.loads(pickle.dumps(batches))  # as `spawn` sends it
    assert again[0, 1, 3][1] == names[1:3] and torch.equal(again[0, 0, 3][3], batches[0, 0, 3][3])


def test_tables_lists_and_images_in_memory(score, fitted, phantom_table, archive):
    summary = score(source=phantom_table.rows(range(9)))
    rows = pq.read_table(summary.out).to_pylist()
    assert [row["image"] for row in rows] == [f"image {i}" for i in range(9)] and summary.errors == 0
    expected = fitted.predict_proba(phantom_table.images[:9])
    np.testing.assert_allclose([[row[c] for c in CATEGORIES] for row in rows], expected, atol=1e-5)
    paths = [archive / "ward/001.png", archive / "gone.png", archive / "000.png"]
    rows = pq.read_table(score(source=(path for path in paths), root=archive).out).to_pylist()
    assert [row["image"] for row in rows] == ["ward/001.png", "gone.png", "000.png"]
    assert "no such image" in rows[1]["error"]
    rows = pq.read_table(score(source=[None, paths[0]]).out).to_pylist()
    assert "expected a path" in rows[0]["error"] and rows[1]["image"] == str(paths[0]) and not rows[1]["error"]


def test_bf16_is_close(score):
    exact, close = (pq.read_table(score(f"{bf16}.parquet", bf16=bf16).out) for bf16 in (False, True))
    for category in CATEGORIES:
        difference = np.abs(exact[category].drop_null().to_numpy() - close[category].drop_null().to_numpy())
        assert 0 < difference.max() < 0.1


# Memory


def test_no_more_than_a_part_is_kept(score, monkeypatch):
    lengths, tables, alive = [], [], []
    make, read = scoring._table, Parts._read

    def counting(rows, schema):
        lengths.append(sum(len(row["image"]) for row in rows))
        return make(rows, schema)

    def watching(self, part):
        alive.append(sum(table() is not None for table in tables))
        table = read(self, part)
        tables.append(weakref.ref(table))
        return table

    monkeypatch.setattr(scoring, "_table", counting)
    monkeypatch.setattr(Parts, "_read", watching)
    heard, record_activations = [], scoring.record_activations

    def listening(backbone):
        heard.append(record_activations(backbone))
        return heard[-1]

    monkeypatch.setattr(scoring, "record_activations", listening)
    score()
    assert lengths == [8, 8, 7] and max(alive) <= 1
    assert len(heard) == 1  # installed once for the whole run


def test_a_batch_too_large_for_the_memory_is_halved(score, fitted, monkeypatch, whole):
    seen, features = [], fitted.backbone.image_features

    def narrow(pixels):
        seen.append(len(pixels))
        if len(pixels) > narrow.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return features(pixels)

    monkeypatch.setattr(fitted.backbone, "image_features", narrow)
    narrow.most = 2
    table = pq.read_table(score(batch_size=8).out)
    assert seen[:3] == [7, 3, 1] and max(seen[1:]) <= 3  # seven of the first eight can be read
    assert table["error"].null_count == GOOD
    narrow.most = 0
    with pytest.raises(BackboneError, match="one image alone"):
        score()
    monkeypatch.setattr(fitted.backbone, "image_features", lambda pixels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score()


# Stopped and continued


def stop_at(monkeypatch, part, error):
    write = Parts.write

    def stop(self, number, table, maker):
        if number == part:
            raise error
        write(self, number, table, maker)

    monkeypatch.setattr(Parts, "write", stop)


def test_a_stopped_run_goes_on_and_ends_the_same(score, monkeypatch, whole, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 2, KeyboardInterrupt())
        score()
    assert not (tmp_path / "scores.parquet").exists()
    summary = score()
    assert (summary.resumed, summary.parts) == (2, (1,)) and summary.out.read_bytes() == whole
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 2, KeyboardInterrupt())
        score()
    assert summary.out.read_bytes() == whole  # the earlier table stands until the new one is whole
    anew = score(resume=False)
    assert (anew.resumed, anew.parts) == (0, (3,)) and anew.out.read_bytes() == whole


def test_parts_of_another_run_are_refused(score, fitted, monkeypatch, archive, names, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 2, KeyboardInterrupt())
        score()
    before = sorted(path.name for path in (tmp_path / "scores.parquet.parts").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(fitted, "thresholds_", fitted.thresholds_ + 0.01)
        with pytest.raises(CheckpointError, match=r"another detector; .*resume=False"):
            score()
    for change, what in (
        ({"explain": True}, "set of options"),
        ({"bf16": True}, "set of options"),
        ({"rows_per_part": 4}, "rows in a part"),
        ({"source": names[:-1], "root": archive}, "list of images"),
    ):
        with pytest.raises(CheckpointError, match=f"another {what}"):
            score(**change)
    assert sorted(path.name for path in (tmp_path / "scores.parquet.parts").iterdir()) == before
    assert score(batch_size=8).resumed == 2  # that is no other run
    (tmp_path / "other.parquet.parts").mkdir()
    (tmp_path / "other.parquet.parts" / "thesis.tex").touch()
    with pytest.raises(OutputError, match="something else"):
        score("other.parquet")
    (tmp_path / "third.parquet.parts").mkdir()
    (tmp_path / "third.parquet.parts" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"manifest.json: cannot be read .* to start anew"):
        score("third.parquet")
    assert (tmp_path / "other.parquet.parts" / "thesis.tex").exists()


def test_a_saved_detector_is_the_same_detector(fitted, tmp_path):
    loaded = SDMAD.load(fitted.save(tmp_path / "detector"), backbone=fitted.backbone)
    assert scoring.fingerprint(loaded) == scoring.fingerprint(fitted)


@contextmanager
def no_file_over(size):
    """The system refuses to write more than `size` bytes to a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["scores.parquet", "scores.csv", "scores.jsonl"])
def test_a_full_disk_loses_nothing(score, monkeypatch, tmp_path, name):
    parts = tmp_path / f"{name}.parts"
    with no_file_over(100), pytest.raises(OutputError, match=rf"{name}.parts: cannot be written .*choose another"):
        score(name)
    assert not os.listdir(tmp_path)
    with no_file_over(2000), pytest.raises(OutputError, match=r"00000.parquet: cannot be written .*it goes on"):
        score(name)
    assert sorted(os.listdir(parts)) == ["images.jsonl", "manifest.json"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        score(name)
    (tmp_path / name).write_text("earlier", encoding="utf-8")
    with no_file_over(1500), pytest.raises(OutputError, match=rf"{name}: cannot be written .*it goes on"):
        score(name)
    assert (tmp_path / name).read_text(encoding="utf-8") == "earlier" and not (parts / "joined.tmp").exists()
    summary = score(name)
    assert (summary.resumed, summary.parts) == (3, (0,)) and summary.out.stat().st_size > 1500


def test_a_damaged_part_is_made_again_or_named(score, monkeypatch, whole, tmp_path):
    parts = tmp_path / "scores.parquet.parts"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        score()
    (parts / "00001.parquet").write_bytes(b"")  # what a power cut leaves
    content = bytearray((parts / "00002.parquet").read_bytes())
    content[40] ^= 255
    (parts / "00002.parquet").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"00002.parquet: is damaged .*remove this one file"):
        score()
    (parts / "00002.parquet").unlink()
    summary = score()
    assert (summary.resumed, summary.parts) == (2, (1,)) and summary.out.read_bytes() == whole


@pytest.mark.parametrize("moment", range(6))
def test_kill_9_loses_at_most_the_part_in_work(score, whole, moment):
    child = os.fork()
    if not child:
        _die_at(moment)
        score()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    summary = score()
    assert summary.resumed == min(max(moment - 1, 0), 3) and summary.out.read_bytes() == whole
    assert os.listdir(summary.out.parent) == ["scores.parquet"]


def _die_at(moment: int) -> None:
    """Kill this process when the manifest, one of the parts or the table is written but not in place, or after all."""
    replace, done = os.replace, []

    def counting(*paths):
        if len(done) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(paths)
        replace(*paths)
        if len(done) == moment == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counting


def test_two_processes_write_the_same_file_as_one(score, whole, tmp_path):
    """They find each other by gloo, with the variables that torchrun sets; forking them saves the imports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    children = []
    for rank in ("0", "1"):
        children.append(os.fork())
        if not children[-1]:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ.update(launched | ranks)
            AcceleratorState._reset_state(reset_partial_state=True)  # of a test before this one
            try:
                (tmp_path / f"{rank}.txt").write_text(str(score()), encoding="utf-8")
            finally:
                os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    for rank in ("0", "1"):  # each made some parts, and each knows of the other's
        text = (tmp_path / f"{rank}.txt").read_text(encoding="utf-8")
        assert "parts=(2, 1)" in text and f"process={rank}" in text
    assert (tmp_path / "scores.parquet").read_bytes() == whole


# Refused


def test_bad_arguments_name_what_to_change(score, bank, tiny_clip, archive, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "nothing").mkdir()
    for options, kind, message in (
        ({"name": "scores.xlsx"}, OutputError, r"scores.xlsx: unknown ending '.xlsx'; use one of .parquet"),
        ({"name": "folder.csv"}, OutputError, "is a folder"),
        ({"source": archive / "gone"}, DataError, "is not a folder"),
        ({"source": tmp_path / "nothing"}, DataError, "no image to score"),
        ({"source": iter([np.zeros((4, 4), np.uint8)])}, DataError, "as a list"),
        ({"batch_size": 0}, DataError, "batch_size is 0"),
        ({"workers": -1}, DataError, "workers is -1"),
        ({"detector": SDMAD(bank, backbone=tiny_clip)}, NotFittedError, "fit"),
    ):
        with pytest.raises(kind, match=message):
            score(**options)
    assert not list(tmp_path.glob("*.parts"))
    with pytest.raises(OutputError, match="two columns would be called 'error'"):
        score(detector=_renamed(score))


def _renamed(score):
    from types import SimpleNamespace

    bank = SimpleNamespace(categories=["error"], texts=[], color=False, model_dump_json=str)
    backbone = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(bank=bank, backbone=backbone, _fitted=lambda: None)
