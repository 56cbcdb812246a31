"""The pretraining script: it never reads what is held out, and a stopped run ends as an unbroken one."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pretrain
import pretrain_pool
import pretrain_words
import pytest
import torch
from processes import CHILDREN
from safetensors.torch import load_file, save_file

from sdmad_phantoms import MODALITIES
from sdmad_phantoms.findings import held_out, second_hold_out


@pytest.mark.parametrize("kind", MODALITIES.values(), ids=MODALITIES)
def test_kept_out_signs_and_held_out_phrasings_are_never_said(kind):
    phrases = pretrain_words.Phrases(kind)
    told = {text.lower() for texts in [*phrases.words, *phrases.rest] for text in texts}
    unseen = {text.lower() for texts in phrases.unseen for text in texts}
    assert len(unseen) == pretrain_words.HELD_OUT * len(phrases.words) and not told & unseen
    new = [sign.text.lower() for sign in kind.bank.signs if sign not in kind.seen_signs]
    assert new and not told & {*new, *(name.lower() for name in kind.kept_out)}
    assert {sign.text.lower() for sign in kind.seen_signs} <= told
    written = json.loads((Path(pretrain_words.__file__).parent / "phrases" / f"{kind.name}.json").read_text())
    assert set(written["signs"]) == {sign.id for sign in [*kind.seen_signs, *kind.bank.normal_signs]}


def test_a_sign_is_on_a_side_where_most_of_its_region_is():
    phrases = pretrain_words.Phrases(MODALITIES["chest"])
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
    matrix = pretrain.pose(20, torch.Generator().manual_seed(0))
    moved, region = pretrain.moved(pictures, matrix, "border"), pretrain.moved(where, matrix, "zeros")

    def centre(maps):  # (N, 2), in shares of the side
        axis = (torch.arange(maps.shape[-1]) + 0.5) / maps.shape[-1]
        maps = maps[:, 0] / maps[:, 0].sum((1, 2), keepdim=True)
        return torch.stack([maps.sum(2) @ axis, maps.sum(1) @ axis], 1)

    assert (centre(moved) - centre(region)).abs().max() < 0.01
    assert (centre(moved) - centre(pictures)).norm(dim=1).mean() > 0.02


def test_a_sentence_fits_a_finding_of_which_all_holds_that_it_says():
    """Codes of shape, tone, place ...; 0 is not said. Places are bits, for one lies in another."""
    finding = torch.zeros(1, 3, 9, dtype=torch.uint8)
    finding[0, 0, :3], finding[0, 1, :3] = torch.tensor([4, 1, 2]), torch.tensor([5, 2, 1])
    places = torch.tensor([[(1 << 2) | (1 << 5), 1 << 1, 0]])
    said = torch.zeros(6, 9, dtype=torch.uint8)
    said[:, :3] = torch.tensor([[4, 1, 2], [4, 0, 5], [4, 2, 0], [0, 0, 1], [0, 0, 0], [5, 2, 2]])
    expected = [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert pretrain_pool.fits(said, finding, places)[0].int().tolist() == expected


@pytest.mark.parametrize("name", MODALITIES)
def test_drawn_findings_are_not_held_out_and_their_own_sentences_fit(name):
    chunk = {key: torch.from_numpy(array) for key, array in pretrain_pool.findings_chunk(name, 0, 12).items()}
    codes = pretrain_words.Language(MODALITIES[name]).codes
    names = {attribute: {code: value for value, code in of.items()} for attribute, of in codes.items()}
    for image in range(12):
        own = pretrain_pool.fits(chunk["said"][image], chunk["attributes"][image, None], chunk["places"][image, None])
        if chunk["attributes"][image].any():
            assert own[0, ::2].any(1).all()  # each true sentence is of one of its findings
        for row in chunk["attributes"][image]:
            said = {a: names[a][int(code)] for a, code in zip(names, row, strict=True) if code}
            if said and said["shape"] != "structure":
                finding = pretrain_words.Finding(**said)
                assert not held_out(name, finding) and not second_hold_out(name, finding)
    assert (chunk["where"].flatten(2).any(2) == (chunk["attributes"][..., 0] > 0)).all()


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_pool, "get_context", lambda how: CHILDREN)
    pretrain_pool.draw_pool(tmp_path / "pool", 6, 6, 1, None, chunk=6)
    tokens, vectors = torch.ones(20, 36, dtype=torch.int16), torch.arange(-60, 60).to(torch.int8).view(20, 6)
    monkeypatch.setattr(pretrain_pool, "WAYS", 2)
    finals = []
    for run in ("unbroken", "stopped"):
        work = tmp_path / run
        work.mkdir()
        for name in MODALITIES:
            (work / name).symlink_to(tmp_path / "pool" / name)
        save_file({"tokens": tokens, "vectors": vectors}, work / "teacher.safetensors")
        args = Namespace(work=work, images=24, seconds=None, cool=0.3, text_share=0.3, batch=6, lr=1e-3, every=1)
        if run == "stopped":
            save = pretrain.save_checkpoint

            def stop(*given, save=save):
                save(*given)
                raise KeyboardInterrupt

            monkeypatch.setattr(pretrain, "save_checkpoint", stop)
            with pytest.raises(KeyboardInterrupt):
                pretrain.train(args)
            monkeypatch.setattr(pretrain, "save_checkpoint", save)
        pretrain.train(args)
        finals.append(load_file(work / "checkpoint.safetensors"))
    assert finals[0].keys() == finals[1].keys()
    assert all(torch.equal(value, finals[1][key]) for key, value in finals[0].items())
    assert json.loads((tmp_path / "unbroken" / "log.jsonl").read_text().splitlines()[-1])["images"] == 24
