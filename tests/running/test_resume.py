"""A run that is stopped goes on: killed for good at random moments, with a broken checkpoint, with a full disk."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import CHILDREN
from safetensors import safe_open
from safetensors.torch import load, load_file

from sdmad_lite.alignment import AdapterConfig, AlignmentConfig, RunConfig, align, build_adapters
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import CheckpointError, OutputError, SDMADError
from sdmad_lite.files import HOST
from sdmad_lite.running.checkpoint import NAME, Checkpoint, CheckpointWarning

EVERY_STEP = RunConfig(checkpoint_steps=1)
LONG = AlignmentConfig(steps=90, augmentations=2, batch_size=4)


@pytest.fixture(scope="module")
def support(phantom_table):
    return phantom_table.rows(draw_support(phantom_table, 3, seed=0))


# Killed for good


def fit_and_save(clip: str, bank, support, folder: str, out: str) -> None:
    """What a child process does; it is killed somewhere on the way."""
    torch.set_num_threads(1)
    detector = SDMAD(bank, backbone=load_clip(clip, device="cpu"), alignment=LONG, run=EVERY_STEP)
    detector.fit_table(support, checkpoint=folder).save(out)


def step_of(folder) -> int:
    """Steps that the checkpoint holds, 0 where there is none."""
    if not (folder / NAME).exists():
        return 0
    return len(load((folder / NAME).read_bytes())["losses"])  # at once: the file may be replaced at any moment


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(
    tiny_clip_name, tiny_clip, bank, support, tmp_path
):
    reference = SDMAD(bank, backbone=tiny_clip, alignment=LONG).fit_table(support).save(tmp_path / "reference")
    folder, out = tmp_path / "checkpoints", tmp_path / "detector"
    rng = np.random.default_rng(0)
    kills = 0
    for _ in range(3):
        child = CHILDREN.Process(target=fit_and_save, args=(tiny_clip_name, bank, support, str(folder), str(out)))
        child.start()
        before = step_of(folder)
        wanted = before + rng.integers(1, 13)
        while step_of(folder) < wanted and child.is_alive():
            time.sleep(0.003)
        time.sleep(rng.uniform(0, 0.02))  # in the middle of whatever comes
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL and not out.exists()
        assert before < step_of(folder) < LONG.steps
        kills += 1
    last = CHILDREN.Process(target=fit_and_save, args=(tiny_clip_name, bank, support, str(folder), str(out)))
    last.start()
    last.join()
    assert last.exitcode == 0 and kills == 3
    assert json.loads((out / "detector.json").read_text()) == json.loads((reference / "detector.json").read_text())
    one, two = (load_file(place / "adapters.safetensors") for place in (reference, out))
    assert list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)
    assert not folder.exists()  # a finished run needs none


# In one process: stopped by an exception, so that what lies on the disk can be damaged in between


class Stop(Exception):
    pass


def run(clip, support, bank, folder=None, until=None, seed=0, labels=None, seen=None, **settings):
    """Stage 1 on the support set; stops with `Stop` after `until` steps, `seen` gets their numbers."""

    def watch(step):
        if seen is not None:
            seen.append(step)
        if step == until:
            raise Stop

    config = AlignmentConfig(**{"steps": 12, "augmentations": 2, "batch_size": 5, **settings})
    adapters = build_adapters(clip, AdapterConfig(), seed)
    labels = support.labels if labels is None else labels
    how = RunConfig(after_step=watch, checkpoint=folder, checkpoint_steps=1)
    aligned = align(clip, adapters, support.images, labels, bank, config, seed, how)
    tensors = [aligned.cosines, aligned.sign_embeddings, aligned.bias, torch.tensor(aligned.scale)]
    return [*adapters.state_dict().values(), *tensors], aligned


@pytest.fixture(scope="module")
def whole(tiny_clip_name, support, bank):
    """A run that nobody stopped."""
    return run(load_clip(tiny_clip_name, device="cpu"), support, bank)


@pytest.fixture(scope="module")
def left(tiny_clip_name, support, bank, tmp_path_factory):
    """What a run leaves behind that stopped after step 7."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stop):
        run(load_clip(tiny_clip_name, device="cpu"), support, bank, folder, until=7)
    return folder


@pytest.fixture
def stopped(left, tmp_path) -> Path:
    """A copy of it, to damage."""
    return shutil.copytree(left, tmp_path / "stopped")


def same(one, two) -> bool:
    return one[1].history == two[1].history and all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))


def test_it_goes_on_from_the_last_checkpoint_and_repeats_nothing(tiny_clip, support, bank, whole, stopped):
    assert step_of(stopped) == 7 and os.listdir(stopped) == [NAME]
    steps = []
    assert same(whole, run(tiny_clip, support, bank, stopped, seen=steps))
    assert steps == [8, 9, 10, 11, 12]


def test_it_goes_on_without_mixing_and_with_all_images_in_a_step(tiny_clip, support, bank, tmp_path):
    settings = {"mixup": 0, "batch_size": 100, "steps": 5}
    with pytest.raises(Stop):
        run(tiny_clip, support, bank, tmp_path, until=3, **settings)
    assert step_of(tmp_path) == 3
    assert same(run(tiny_clip, support, bank, **settings), run(tiny_clip, support, bank, tmp_path, **settings))


def test_a_checkpoint_is_due_by_steps_or_by_time(tmp_path):
    assert [step for step in range(1, 10) if Checkpoint(tmp_path, {}, steps=3).due(step)] == [3, 6, 9]
    assert not Checkpoint(tmp_path, {}, seconds=60).due(5) and Checkpoint(tmp_path, {}, seconds=0).due(5)


@pytest.mark.parametrize("damage", ["empty", "in the header", "one byte short", "a flipped bit"])
def test_a_broken_checkpoint_is_named_and_left_for_whoever_wants_to_look(tiny_clip, support, bank, stopped, damage):
    content = bytearray((stopped / NAME).read_bytes())
    content[-1] ^= damage == "a flipped bit"
    keep = {"empty": 0, "in the header": 100, "one byte short": -1}.get(damage, len(content))
    (stopped / NAME).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=rf"{NAME}: this checkpoint is broken \(.*; delete it to begin anew"):
        run(tiny_clip, support, bank, stopped)
    assert (stopped / NAME).read_bytes() == content[:keep]


def test_a_checkpoint_that_may_not_be_read_is_not_called_worthless(tiny_clip, support, bank, stopped, monkeypatch):
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr("pathlib.Path.open", lambda *given: (_ for _ in ()).throw(refused))
    with pytest.raises(CheckpointError, match=r"broken \(Permission denied\); make it readable, or delete it"):
        run(tiny_clip, support, bank, stopped)


def test_numbers_that_are_not_finite_are_no_end_of_a_training(tiny_clip, support, bank, tmp_path):
    with pytest.raises(SDMADError, match=rf"not finite; lower lr of AlignmentConfig, or delete .*{NAME} to begin anew"):
        run(tiny_clip, support, bank, tmp_path, steps=2, lr=1e30)


OTHERS = {
    "seed": {"seed": 1},
    "alignment settings": {"lr": 1e-3},
    "labels": {"labels": "turned"},
    "images": {"support": "turned"},
    "sign bank": {"bank": "fewer"},
    "backbone": {"clip": "other"},
}


@pytest.mark.parametrize(("name", "change"), OTHERS.items(), ids=OTHERS)
def test_a_checkpoint_of_another_run_is_refused_by_name(tiny_clip, support, bank, tmp_path, stopped, name, change):
    before = (stopped / NAME).read_bytes()
    new = {"clip": tiny_clip, "support": support, "bank": bank, **change}
    if "labels" in change:
        new["labels"] = support.labels[::-1].copy()
    if "support" in change:
        new["support"] = support.rows([1, 0, *range(2, len(support))])
        new["labels"] = support.labels
    if "bank" in change:
        new["bank"] = type(bank)(**{**bank.model_dump(), "signs": bank.model_dump()["signs"][1:]})
    if "clip" in change:
        from conftest import write_clip

        new["clip"] = load_clip(write_clip(tmp_path / "clip", seed=5), device="cpu")
    with pytest.raises(CheckpointError, match=rf"differs in: {name}; give the same as then, or another folder"):
        run(folder=stopped, **new)
    assert (stopped / NAME).read_bytes() == before


def test_a_full_disk_is_told_and_stops_nothing(tiny_clip, support, bank, whole, stopped, monkeypatch):
    kept = (stopped / NAME).read_bytes()

    def full(tensors, path, header):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("sdmad_lite.running.checkpoint.save_file", full)
        message = r"no checkpoint was written .*No space left.*earlier one is kept and the training goes on"
        with pytest.warns(CheckpointWarning, match=message) as warned:
            resumed = run(tiny_clip, support, bank, stopped)
    assert len(warned) == 5 and same(whole, resumed)
    assert (stopped / NAME).read_bytes() == kept


def test_a_place_where_nothing_can_be_written_is_refused_before_the_training(tiny_clip, bank, support, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"file.*cannot be written.*choose another"):
        SDMAD(bank, backbone=tiny_clip, alignment=LONG).fit_table(support, checkpoint=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_a_killed_write_left_is_removed_and_other_files_are_not(tiny_clip, bank, support, tmp_path):
    child = CHILDREN.Process()
    child.start()
    child.join()
    (tmp_path / f".{NAME}.{HOST}-{child.pid}-abcdefgh").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    short = AlignmentConfig(steps=3, augmentations=2)
    detector = SDMAD(bank, backbone=tiny_clip, alignment=short, run=EVERY_STEP).fit_table(support, checkpoint=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", NAME]
    detector.save(tmp_path / "detector")
    assert sorted(os.listdir(tmp_path)) == ["detector", "notes.txt"]


def test_a_checkpoint_holds_no_pickle_and_can_be_read_by_anyone(left):
    with safe_open(left / NAME, "pt") as content:
        identity, names = json.loads(content.metadata()["identity"]), set(content.keys())
    assert set(identity) >= set(OTHERS) and names >= {"parameter.0", "exp_avg.0", "losses"}
