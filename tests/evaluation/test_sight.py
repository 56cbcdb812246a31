"""What a CLIP may lack: words that its tokenizer knows, towers that were loaded, and sight of one's own images."""

from copy import copy, deepcopy

import numpy as np
import pytest
import torch

from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support, load_folder
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError, SDMADWarning
from sdmad_lite.evaluation.sight import check_sight
from sdmad_lite.signs import check_bank, load_bank, shipped_banks
from sdmad_lite.signs.lint import unread, untrained

SPELLED = [
    "肋膈角变钝",
    "右肺の円形陰影",
    "늑골횡격막각 둔화",
    "округлая тень",
    "αμβλεία γωνία",
    "ظل دائري",
    "זווית קהה",
    "कुंद कोण",
]
SPELLED += ["มุมชายโครงทู่", "góc sườn hoành tù"]
KNOWN = [
    "Verschattung im größeren Lungenfeld",
    "opacité arrondie à bords nets",
    "ángulo borrado",
    "opacità rotonda",
    "ø 5",
]


@pytest.fixture(scope="module")
def clip():
    return load_clip(device="cpu")


def test_texts_that_the_tokenizer_only_spells_are_found(clip):
    for tokenizer in (None, clip.tokenizer):
        assert unread([*SPELLED, *KNOWN], tokenizer) == SPELLED
    assert [text for name in shipped_banks() for text in unread(load_bank(name).texts, clip.tokenizer)] == []


def test_towers_that_nothing_was_loaded_into_are_named(clip):
    half = deepcopy(clip.model)
    fresh = load_clip(pretrained="random", device="cpu").model
    half.visual.load_state_dict(fresh.visual.state_dict())
    assert (untrained(clip.model), untrained(half), untrained(fresh)) == ([], ["image"], ["image", "text"])
    other = copy(clip)
    other.model = half
    (found,) = [one for one in check_bank("chest_phantoms", other) if one.rule == "untrained"]
    assert found.message == "the image tower of embedded holds the weights that it began with: nothing was loaded"


def test_fit_says_once_what_the_model_lacks(clip, phantom_table, bank):
    first, *others = bank.normal_signs
    strange = bank.model_copy(update={"normal_signs": (first.model_copy(update={"text": SPELLED[0]}), *others)})
    detector = SDMAD.training_free(strange, backbone=clip, augmentations=1)
    with pytest.warns(
        SDMADWarning, match=r"1 of \d+ signs, such as '肋膈角变钝', are in a script .*; write signs in English"
    ):
        detector.fit_table(phantom_table)


def test_a_loaded_model_stands_above_its_shuffled_weights_and_a_random_one_does_not(monkeypatch):
    monkeypatch.setattr("sdmad_lite.evaluation.sight.DRAWS", 9)
    bank = load_bank("chest_phantoms").restricted(["Cardiomegaly", "Pleural effusion"])
    table = load_folder("data_samples/chest", load_bank("chest_phantoms").categories).restricted(bank.categories)
    few = table.rows(draw_support(table, 4, 0))
    seen = check_sight(bank, load_clip(device="cpu"), few)
    assert seen.severity == "note" and seen.message.startswith(f"embedded on {len(few)} images: macro AUROC without")
    blind = load_clip(pretrained="random", device="cpu")
    assert check_sight(bank, blind, few).severity == "warning"
    with pytest.raises(DataError, match="no category has images with and without it"):
        check_sight(bank, blind, few.rows(np.flatnonzero(few.labels.sum(1) == 0)))
    torch.testing.assert_close(
        blind.model.state_dict(), load_clip(pretrained="random", device="cpu").model.state_dict()
    )
