"""What each process of `test_processes.py` runs under torchrun: `train_together.py FOLDER CLIP`."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from sdmad_lite.alignment import AlignmentConfig, RunConfig
from sdmad_lite.alignment import train as alignment
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import SDMADError
from sdmad_lite.files import is_main, world
from sdmad_lite.signs.bank import load_bank

torch.set_num_threads(1)
folder, clip = Path(sys.argv[1]), load_clip(sys.argv[2], device="cpu")
data, bank = np.load(folder / "support.npz"), load_bank(folder / "bank.json")
images, labels = list(data["images"]), data["labels"]


class Stop(Exception):
    pass


def detector(seed: int = 0) -> SDMAD:
    training = AlignmentConfig(steps=8, augmentations=2, batch_size=7)
    return SDMAD(
        bank,
        backbone=clip,
        alignment=training,
        random_state=seed,
        run=RunConfig(checkpoint_steps=5, checkpoint_seconds=3600),
    )


# an uninterrupted run; `encoded` counts the images that this process encodes in the steps
encoded, split = [], alignment.split_image_tower


def counting(backbone, *patches):
    below, embed = split(backbone, *patches)

    def counted(rows):
        if torch.is_grad_enabled():
            encoded.append(len(rows))
        return embed(rows)

    return below, counted


alignment.split_image_tower = counting
detector().fit(images, labels, progress=True).save(folder / "whole")
alignment.split_image_tower = split

# stopped in step 6, then another seed, then to the end
update, done = alignment.Training.update, []


def stopping(training, *args):
    if training.step == 6:
        raise Stop
    return update(training, *args)


alignment.Training.update = stopping
try:
    detector().fit(images, labels, checkpoint=folder / "checkpoints")
except Stop:
    alignment.Training.update = update
try:
    detector(seed=1).fit(images, labels, checkpoint=folder / "checkpoints")
except SDMADError as error:
    refused = f"{type(error).__name__}: {error}"


def noting(training, *args):
    update(training, *args)
    done.append(training.step)


alignment.Training.update = noting
detector().fit(images, labels, checkpoint=folder / "checkpoints").save(folder / "resumed")

told = {
    "world": world(),
    "pid": os.getpid(),
    "main": is_main(),
    "backend": torch.distributed.get_backend(),
    "encoded": encoded,
    "steps_after_the_stop": done,
    "refused": refused,
}
(folder / f"told_{world()[0]}.json").write_text(json.dumps(told))
torch.distributed.destroy_process_group()
