"""Heat maps and how they are judged: regions and patches by hand, a map that points right and one that points wrong."""

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from sdmad_lite.data import ImageTable
from sdmad_lite.detector import SDMAD
from sdmad_lite.explain import sign_maps


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("explain_eval")


def test_a_sign_map_is_the_cosine_of_each_patch(tiny_clip, bank, phantom_table):
    maps = sign_maps(tiny_clip, bank, phantom_table.images[0])
    with torch.no_grad():
        patches = tiny_clip.patch_features(tiny_clip.prepare([phantom_table.images[0]]))[0]
    v = tiny_clip.encode_texts(bank.texts)
    assert maps.shape == (len(bank.texts), *patches.shape[:2])
    assert maps[2, 1, 3] == pytest.approx(float(patches[1, 3] @ v[2]), abs=1e-5)


def test_touched_patches_by_hand(script):
    """A region of rows 3 and 4, column 0, in 8 x 8 pixels of four patches by four: rows 1 and 2, column 0."""
    mask = np.zeros((8, 8), bool)
    mask[3:5, 0] = True
    found = script.touched(mask, (4, 4))
    assert found.sum() == 2 and found[1, 0] and found[2, 0]
    odd = np.zeros((7, 5), bool)
    odd[6, 4] = True
    assert np.argwhere(script.touched(odd, (2, 2))).tolist() == [[1, 1]]


def test_parts_that_do_not_sum_to_the_logit_would_be_found(script, tiny_clip, bank, phantom_table):
    images = phantom_table.images[:3]
    detector = SDMAD(bank, backbone=tiny_clip).fit_table(phantom_table)
    assert script.sum_error(detector, images) < 1e-5
    explain = detector.explain
    detector.explain = lambda image: [type(e)(**{**vars(e), "bias": e.bias + 0.5}) for e in explain(image)]
    assert script.sum_error(detector, images) == pytest.approx(0.5, abs=1e-5)


@pytest.fixture
def drawn(tmp_path, bank):
    """One image whose first sign was drawn in the upper left quarter."""
    sign = next(s for s in bank.signs if s.id)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    mask = np.zeros((32, 32), np.uint16)
    mask[:16, :16] = 1
    picture = np.full((32, 32), 90, np.uint8)
    picture[:16, :16] = 200
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    Image.fromarray(picture).save(tmp_path / "images" / "0.png")
    table = ImageTable((tmp_path / "images" / "0.png",), np.zeros((1, 3), int), bank.categories, {"signs": (sign.id,)})
    return table, bank.texts.index(sign.text)


@pytest.mark.parametrize(("place", "hit"), [((0, 1), 1.0), ((3, 3), 0.0)])
def test_the_pointing_game(script, tiny_clip, bank, drawn, monkeypatch, place, hit):
    table, s = drawn
    maps = np.zeros((len(bank.texts), 4, 4))
    maps[(s, *place)] = 1
    monkeypatch.setattr(script, "sign_maps", lambda *args: maps)
    assert script.pointing(tiny_clip, bank, table) == [(bank.texts[s], hit, 4 / 16)]


def test_a_map_that_names_what_matters_loses_the_cosine_sooner(script, tiny_clip, bank, drawn, monkeypatch):
    """A stand-in whose cosine with every sign is the brightness of the upper left quarter."""
    table, s = drawn
    maps = np.zeros((len(bank.texts), 4, 4))
    maps[s, :2, :2] = 1
    monkeypatch.setattr(script, "sign_maps", lambda *args: maps)

    class Bright:
        def encode_texts(self, texts):
            return torch.ones(len(texts), 1)

        def encode_images(self, images, color):
            return torch.tensor([[float(np.asarray(image)[:16, :16].mean())] for image in images])

    found = script.courses(Bright(), bank, table, [0], np.random.default_rng(0))
    assert found.shape == (1, 2, 2)
    (deleted, at_random), (inserted, at_random_too) = found[0]
    assert deleted < at_random - 5 and inserted > at_random_too + 5
