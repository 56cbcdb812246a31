"""The pretraining script: it never reads what is held out, and a stopped run ends as an unbroken one."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pretrain
import pytest
import torch
from safetensors.torch import load_file

from sdmad_phantoms import MODALITIES


@pytest.mark.parametrize("kind", MODALITIES.values(), ids=MODALITIES)
def test_kept_out_signs_and_held_out_phrasings_are_never_said(kind):
    phrases = pretrain.Phrases(kind)
    told = {text.lower() for texts in [*phrases.words, *phrases.rest] for text in texts}
    unseen = {text.lower() for texts in phrases.unseen for text in texts}
    assert len(unseen) == pretrain.HELD_OUT * len(phrases.words) and not told & unseen
    new = [sign.text.lower() for sign in kind.bank.signs if sign not in kind.seen_signs]
    assert new and not told & {*new, *(name.lower() for name in kind.kept_out)}
    assert {sign.text.lower() for sign in kind.seen_signs} <= told
    written = json.loads((Path(pretrain.__file__).parent / "phrases" / f"{kind.name}.json").read_text())
    assert set(written["signs"]) == {sign.id for sign in [*kind.seen_signs, *kind.bank.normal_signs]}


def test_a_sign_is_on_a_side_where_most_of_its_region_is():
    phrases = pretrain.Phrases(MODALITIES["chest"])
    true, category = np.zeros((3, len(phrases.words)), bool), np.zeros((3, len(MODALITIES["chest"].seen)), bool)
    where = np.zeros((3, len(phrases.signs), 16, 16), np.uint8)
    where[0, 0, :, :4] = 255  # left in the image, the patient's right
    where[1, 0, :, 12:] = 255
    where[2, 0, :, 6:10] = 255  # across the middle
    facts = phrases.truth(true, where, category)
    first = len(phrases.words)
    assert facts[:, first : first + 2].tolist() == [[True, False], [False, True], [False, False]]
    assert not facts[:, first + 2 : first + len(phrases.sides)].any() and facts[:, -1].all()  # no category: nothing


def test_a_sign_moves_with_its_image():
    """A bright square and its map, zoomed, turned and shifted alike: the map's centre stays on the square's."""
    pictures, where = torch.zeros(20, 1, 128, 128), torch.zeros(20, 1, 16, 16)
    pictures[:, :, 32:48, 80:96], where[:, :, 4:6, 10:12] = 1, 1
    moved, region = pretrain.pose(pictures, where, torch.Generator().manual_seed(0))

    def centre(maps):  # (N, 2), in shares of the side
        axis = (torch.arange(maps.shape[-1]) + 0.5) / maps.shape[-1]
        maps = maps[:, 0] / maps[:, 0].sum((1, 2), keepdim=True)
        return torch.stack([maps.sum(2) @ axis, maps.sum(1) @ axis], 1)

    assert (centre(moved) - centre(region)).abs().max() < 0.01
    assert (centre(moved) - centre(pictures)).norm(dim=1).mean() > 0.02


def settings(images: int) -> Namespace:
    return Namespace(images=images, batch=9, lr=1e-3, cool=0.3, threads=1, every=1)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "CHUNK", 12)
    monkeypatch.setattr(pretrain, "WORK", tmp_path)
    for name in MODALITIES:
        (tmp_path / name).mkdir()
        pretrain.draw_chunk((name, 0))
    save = pretrain.save_checkpoint
    finals = []
    for run in ("unbroken", "stopped"):
        monkeypatch.setattr(pretrain, "CHECKPOINT", tmp_path / f"{run}.safetensors")
        monkeypatch.setattr(pretrain, "LOG", tmp_path / f"{run}.jsonl")
        if run == "stopped":

            def stop(*args):
                save(*args)
                raise KeyboardInterrupt

            monkeypatch.setattr(pretrain, "save_checkpoint", stop)
            with pytest.raises(KeyboardInterrupt):
                pretrain.train(settings(27))
            monkeypatch.setattr(pretrain, "save_checkpoint", save)
        pretrain.train(settings(27))
        finals.append(load_file(pretrain.CHECKPOINT))
    assert finals[0].keys() == finals[1].keys()
    assert all(torch.equal(value, finals[1][key]) for key, value in finals[0].items())
    assert json.loads((tmp_path / "unbroken.jsonl").read_text().splitlines()[-1])["images"] == 27
