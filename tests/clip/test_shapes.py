"""Pictures that are not square: what the model sees of them, and where its heat maps lie."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sdmad_lite.clip.backbone import SHAPES, load_clip
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import BackboneError, SDMADWarning
from sdmad_lite.explain import sign_maps


@pytest.fixture(scope="module")
def clips(tiny_clip_name):
    return {shape: load_clip(tiny_clip_name, device="cpu", shape=shape) for shape in SHAPES}


def lit(width: int, height: int, x: float, y: float) -> Image.Image:
    """A dark image with a light spot whose middle lies at x and y, in shares."""
    down, across = np.mgrid[:height, :width] / max(width, height)
    near = np.hypot(across - x * width / max(width, height), down - y * height / max(width, height)) < 0.06
    return Image.fromarray(np.where(near, 255, 0).astype(np.uint8))


def test_square_pictures_are_read_alike_in_every_shape(clips):
    pixels = [clip.prepare([np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)]) for clip in clips.values()]
    assert all(torch.equal(pixels[0], other) for other in pixels)


@pytest.mark.parametrize("size", [(96, 48), (48, 96)])
def test_all_of_a_picture_is_seen_unless_it_is_cut_and_then_that_is_said(clips, size):
    end = (0.97, 0.5) if size[0] > size[1] else (0.5, 0.97)
    seen = {name: clip.prepare([lit(*size, *end)]) for name, clip in clips.items() if name != "crop"}
    assert all(pixels.std() > 0.01 for pixels in seen.values())
    with pytest.warns(SDMADWarning, match="not square, cut to the middle square"):
        assert clips["crop"].prepare([lit(*size, *end)]).std() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 128), (90, 64)])
def test_heat_maps_lie_where_the_pixels_lie(clips, tiny_clip_name, bank, monkeypatch, shape, size):
    clip, share = clips[shape], (0.5, 0.42)

    def light(pixels):
        """Of each patch how light it is, as its embedding."""
        return torch.nn.functional.avg_pool2d(pixels[:, :1], pixels.shape[-1] // 8).permute(0, 2, 3, 1)

    monkeypatch.setattr(clip, "patch_features", light)
    monkeypatch.setattr(clip, "encode_texts", lambda texts: torch.ones(1, 1))
    with pytest.warns(SDMADWarning) if shape == "crop" and size[0] != size[1] else np.errstate():
        heat = sign_maps(clip, bank, lit(*size, *share))[0]
    height, width = heat.shape
    row, column = np.unravel_index(np.nanargmax(heat), heat.shape)
    assert abs((column + 0.5) / width - share[0]) <= 0.6 / width and abs((row + 0.5) / height - share[1]) <= 1 / height
    assert np.isnan(heat).any() == (shape == "crop" and size[0] != size[1])


def test_a_detector_keeps_its_shape_and_one_of_0_1_0_the_old_one(clips, bank, phantom_table, tiny_clip_name, tmp_path):
    detector = SDMAD.training_free(bank, backbone=clips["pad"]).fit_table(phantom_table)
    detector.save(tmp_path / "new")
    for backbone in (None, clips["squash"]):
        assert SDMAD.load(tmp_path / "new", backbone, "cpu").backbone.shape == "pad"
    assert SDMAD.load(tmp_path / "new", clips["pad"]).backbone is clips["pad"] and clips["squash"].shape == "squash"
    state = json.loads((tmp_path / "new" / "detector.json").read_text())
    del state["backbone"]["shape"]
    (tmp_path / "new" / "detector.json").write_text(json.dumps(state))
    assert SDMAD.load(tmp_path / "new", device="cpu").backbone.shape == "crop"
    assert load_clip(tiny_clip_name, device="cpu").shape == "squash"
    with pytest.raises(BackboneError, match="shape='round' is not known; give squash, pad, crop or own"):
        load_clip(tiny_clip_name, device="cpu", shape="round")
