"""Panels of a detector at work, and the space that episodes teach."""

import numpy as np
import pytest
import torch

from sdmad_course.work_panels import RemedyCase, StreamCase, episode, meta_learnt, remedy_panel, stream_panel
from sdmad_lite.errors import DataError
from sdmad_lite.evaluation.baselines import prototypes

NAMES = ("A", "B")
LABELS = np.array([[0, 0], [1, 0], [0, 1], [0, 0]] * 10)


def test_a_remedy_is_told_at_both_places():
    home = LABELS * 4.0 - 2
    case = RemedyCase(
        LABELS, NAMES, np.array([0.5, 0.5]), {"none": np.stack([home, home - 3]), "shift": np.stack([home, home])}
    )
    panel = remedy_panel(case)
    assert "home: AUROC <b>1.000</b>, 100% found, 0% of normal" in panel.state.value
    assert "hospital: AUROC <b>1.000</b>, 0% found" in panel.state.value
    panel.controls["remedy"].value = "shift"
    assert "hospital: AUROC <b>1.000</b>, 100% found" in panel.state.value
    with pytest.raises(DataError, match="logits, none: shape"):
        RemedyCase(LABELS, NAMES, np.array([0.5, 0.5]), {"none": home})


def test_the_stream_shows_what_is_known_so_far():
    u = np.random.default_rng(0).normal(size=(40, 4))
    panel = stream_panel(StreamCase(u, LABELS, NAMES, {0: np.array([0.5, 0.6]), 20: np.array([0.9, 0.8])}))
    assert "after 0 cases AUROC <b>0.500</b>" in panel.state.value
    panel.controls["cases"].value = 30
    assert "after 20 cases AUROC <b>0.900</b>, at first 0.500" in panel.state.value
    panel.controls["category"].value = "B"
    assert "<b>0.800</b>" in panel.state.value


def test_an_episode_asks_what_it_has_not_shown():
    few, asked = episode(LABELS, 2, 3, np.random.default_rng(0))
    assert not set(few) & set(asked) and len(few) == 6 and len(asked) == 9


def test_meta_learning_finds_what_tells_and_leaves_noise_out():
    rng = np.random.default_rng(0)
    u = np.column_stack([LABELS * 2 - 1, rng.normal(0, 2, (40, 6))])
    u = torch.nn.functional.normalize(torch.tensor(u, dtype=torch.float32), dim=1)
    moved = torch.nn.functional.normalize(u @ meta_learnt(u, LABELS, 3, episodes=60), dim=1)
    gaps = []
    for x in (u, moved):
        scores = prototypes(x[:12], LABELS[:12], x[12:]).numpy()
        gaps.append(scores[LABELS[12:] == 1].mean() - scores[LABELS[12:] == 0].mean())
    assert gaps[1] > gaps[0]
