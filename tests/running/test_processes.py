"""Two processes are two, and together they give what one gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdmad_lite.alignment import AlignmentConfig, own_device
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.files import is_main, world
from sdmad_lite.running import Processes

WORKER = Path(__file__).with_name("train_together.py")
TRAINING = AlignmentConfig(steps=8, augmentations=2, batch_size=7)  # an odd batch: the shares are unequal


@pytest.fixture(scope="module")
def support(phantom_table):
    return phantom_table.rows(draw_support(phantom_table, 3, seed=0))


def test_two_processes_train_what_one_trains(tiny_clip, tiny_clip_name, bank, support, phantom_table, tmp_path):
    """Weights may differ by 1e-4, for Adam divides small gradients by themselves; probabilities by 1e-5."""
    (tmp_path / "bank.json").write_text(bank.model_dump_json())
    np.savez(tmp_path / "support.npz", images=np.stack(support.images), labels=support.labels)
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(WORKER)]
    done = subprocess.run([*together, str(tmp_path), tiny_clip_name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    told = [json.loads((tmp_path / f"told_{rank}.json").read_text()) for rank in (0, 1)]
    assert [t["world"] for t in told] == [[0, 2], [1, 2]] and told[0]["pid"] != told[1]["pid"]
    assert [t["main"] for t in told] == [True, False] and [t["backend"] for t in told] == ["gloo", "gloo"]
    assert [t["encoded"] for t in told] == [[3] * TRAINING.steps, [4] * TRAINING.steps]  # of 7 images in each step
    assert told[0]["steps_after_the_stop"] == told[1]["steps_after_the_stop"] == [6, 7, 8]
    assert all(t["refused"].startswith("CheckpointError: ") and "differs in: seed" in t["refused"] for t in told)

    alone = SDMAD(bank, backbone=tiny_clip, alignment=TRAINING).fit_table(support)
    for name in ("whole", "resumed"):
        loaded = SDMAD.load(tmp_path / name, tiny_clip)
        for one, two in zip(alone.adapters_.parameters(), loaded.adapters_.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-4)
        images = phantom_table.images[:8]
        np.testing.assert_allclose(loaded.predict_proba(images), alone.predict_proba(images), atol=1e-5)
        assert loaded.reasons_ == alone.reasons_
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [0, 1, 2, 6, 7, 100])
def test_shares_cover_every_row_once_or_all_rows_go_to_all(count, rows):
    shares = []
    for index in range(count):
        processes = Processes(torch.device("cpu"))
        processes.index, processes.count = index, count
        shares.append(list(range(rows))[processes.share(rows)])
    if rows < count:
        assert shares == [list(range(rows))] * count
    else:
        assert [row for share in shares for row in share] == list(range(rows)) and max(map(len, shares)) - min(
            map(len, shares)
        ) <= 1


def test_the_launcher_says_who_is_main(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world() == (0, 1) and is_main() and own_device() is None and own_device("cpu") == "cpu"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert world() == (1, 2) and not is_main()


def test_alone_nothing_is_sent():
    alone = Processes(torch.device("cpu"))
    part = torch.ones(3, 2, requires_grad=True)
    assert alone.encode(lambda rows: part, part) is part and alone.from_main(lambda: b"x") == b"x"
    alone.average_gradients([part])
