"""Every bad input gets the error of the project, its message in full, and leaves nothing behind."""

import bad_input_page
import pytest
from bad_inputs import CASES, World, matches
from bad_inputs.world import CATEGORIES

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import load_data
from sdmad_lite.detector import SDMAD


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, tiny_clip_name):
    """A detector of the tiny CLIP that knows what it was fitted on, as `sdmad fit` writes it."""
    from sdmad_lite.evaluation.seen_images import write_seen

    world = World(tmp_path_factory.mktemp("fitted"), load_clip(tiny_clip_name, device="cpu"), None)
    table = load_data(world.data(), CATEGORIES).part("train")
    detector = SDMAD(
        world.bank(), backbone=world.backbone, alignment=AlignmentConfig(steps=1, augmentations=1)
    ).fit_table(table)
    folder = detector.save(world.path / "detector")
    write_seen(folder, table)
    return world


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}: {case.what}")
def test_bad_input(case, fitted, tmp_path):
    world = World(tmp_path, fitted.backbone, fitted.path / "detector")
    act = case.prepare(world)
    before = world.files()
    message = world.said(act)
    assert matches(case.message, message), message
    assert world.files() == before


def test_every_case_of_bad_input_has_a_name_of_its_own():
    assert len({(case.group, case.what) for case in CASES}) == len(CASES) >= 60


def test_the_page_of_bad_input_is_up_to_date():
    assert bad_input_page.PAGE.read_text(encoding="utf-8") == bad_input_page.page(), (
        "run python tools/bad_input_page.py"
    )
