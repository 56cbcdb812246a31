"""A command that is stopped, killed or without room on the disk leaves no half of anything, and no training is lost."""

import errno
import os
import signal
import time

import pytest
import torch
from PIL import Image
from processes import Command
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from sdmad_lite import RunConfig, cli
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import CheckpointError
from sdmad_lite.running.checkpoint import NAME


@pytest.fixture
def words(phantom_table, bank, tiny_clip_name, tmp_path) -> list[str]:
    """A fit on nine images, whose state is kept in another place than its detector."""
    support = phantom_table.rows(draw_support(phantom_table, 3, seed=0))
    (tmp_path / "data").mkdir()
    lines = [",".join(["image", *support.categories])]
    for number, (image, row) in enumerate(zip(support.images, support.labels, strict=True)):
        Image.fromarray(image).save(tmp_path / "data" / f"{number}.png")
        lines.append(",".join([f"{number}.png", *map(str, row)]))
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "bank.json").write_text(bank.model_dump_json())
    given = {"data": "data", "signs": "bank.json", "out": "out/det", "checkpoint": "state"}
    given = {f"--{name}": str(tmp_path / place) for name, place in given.items()}
    given |= {"--backbone": tiny_clip_name, "--device": "cpu", "--steps": "3"}
    return ["--quiet", "fit", *(word for pair in given.items() for word in pair)]


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("sdmad_lite.storage.save_file", FULL),
        ("sdmad_lite.storage.save_file", SafetensorError("I/O error: No space left on device")),
        ("pathlib.Path.write_text", FULL),
        ("pathlib.Path.rename", FULL),
        ("pathlib.Path.chmod", FULL),
        ("sdmad_lite.evaluation.seen_images.write_seen", FULL),
    ],
)
def test_a_full_disk_while_a_fit_is_saved_loses_nothing(words, tmp_path, monkeypatch, capsys, step, error):
    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "out/det" in said and "cannot be written" in said and "No space left" in said
    assert os.listdir(tmp_path / "out") == [] and os.listdir(tmp_path / "state") == [NAME]
    assert cli.main(words) == 0
    assert os.listdir(tmp_path / "out") == ["det"] and not (tmp_path / "state").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_stopped_command_leaves_nothing_or_the_next_one_tidies(words, tmp_path, number, code):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".det.mine").write_text("kept")
    long = [*words[:-1], "100000"]
    child = Command(long, tmp_path / "said")
    while len(os.listdir(tmp_path / "out")) < 2 and child.process.is_alive():
        time.sleep(0.05)
    time.sleep(0.5)  # in the middle of the training
    os.kill(child.process.pid, number)
    found, said = child.done()
    assert found == code and "Traceback" not in said
    left = [".det.mine"] if code == 130 else os.listdir(tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(left) and (len(left) == 2) == (code == -9)
    assert cli.main(words) == 0
    assert sorted(os.listdir(tmp_path / "out")) == [".det.mine", "det"]


# Planted checkpoints


def planted(change):
    """A checkpoint whose tensors are changed and that is signed anew, as whoever knows the code could."""

    def plant(file, checkpoint):
        tensors = load_file(file)
        change(tensors)
        checkpoint.write(tensors)

    return plant


def text(metadata):
    return lambda file, checkpoint: save_file({"x": torch.zeros(1)}, file, metadata)


def put(name, value):
    return planted(lambda tensors: tensors.update({name: value(tensors[name]) if callable(value) else value}))


PLANTED = {
    "empty": lambda file, checkpoint: file.write_bytes(b""),
    "a pickle": lambda file, checkpoint: torch.save({"x": torch.zeros(1)}, file),
    "a folder": lambda file, checkpoint: (file.unlink(), file.mkdir()),
    "a pipe": lambda file, checkpoint: (file.unlink(), os.mkfifo(file)),
    "no metadata": text(None),
    "no JSON": text({"identity": "{", "hash": "x"}),
    "a list": text({"identity": "[]", "hash": '""'}),
    "nested": text({"identity": "[" * 100_000, "hash": '""'}),
    "NaN": put("parameter.0", lambda t: t * float("nan")),
    "infinite": put("exp_avg.0", lambda t: t + float("inf")),
    "a negative square": put("exp_avg_sq.0", lambda t: t - 1),
    "another shape": put("parameter.0", lambda t: t[:1]),
    "another type": put("parameter.0", lambda t: t.double()),
    "half numbers": put("parameter.0", lambda t: t.bfloat16()),
    "a tensor too many": put("order", torch.zeros(3)),
    "a tensor missing": planted(lambda tensors: tensors.pop("parameter.1")),
    "too many steps": put("losses", lambda t: t.repeat(1000, 1)),
    "no step": put("losses", lambda t: t[:0]),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_planted_checkpoint_is_one_error(plant, tiny_clip, bank, phantom_table, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("sdmad_lite.running.resume.Checkpoint", noting(kept))
    how = {"backbone": tiny_clip, "alignment": AlignmentConfig(steps=3, augmentations=1), "run": RunConfig()}
    support = phantom_table.rows(draw_support(phantom_table, 3, seed=0))
    SDMAD(bank, **how).fit_table(support, checkpoint=tmp_path)
    try:
        plant(tmp_path / NAME, kept[0])
    except TypeError:  # what cannot be signed
        tensors = load_file(tmp_path / NAME) | {"parameter.0": torch.zeros(1, dtype=torch.bfloat16)}
        with safe_open(tmp_path / NAME, "pt") as content:
            save_file(tensors, tmp_path / NAME, content.metadata())
    with pytest.raises(CheckpointError, match=rf"{NAME}: this checkpoint is broken .*; delete it to begin anew"):
        SDMAD(bank, **how).fit_table(support, checkpoint=tmp_path)


def noting(kept):
    from sdmad_lite.running import Checkpoint

    return lambda *args: kept.append(Checkpoint(*args)) or kept[-1]
