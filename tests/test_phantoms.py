"""Phantoms: the same seed draws the same image, and what is said of an image is true of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from sdmad_lite.data import load_folder, split_train_test
from sdmad_lite.errors import DataError, OutputError
from sdmad_lite.phantoms import (
    AFFINITY,
    EXCLUSIVE,
    KEPT_OUT,
    NORMAL_UNLESS,
    chest_bank,
    draw_phantom,
    sample_categories,
    sample_phantoms,
    sample_signs,
)
from sdmad_lite.phantoms.samples import IMAGES, load_masks, write_samples

BANK = chest_bank()
IDS = [sign.id for sign in BANK.signs]
SEEN = [category for category in BANK.categories if category not in KEPT_OUT]


def owners(sign: str) -> set[str]:
    return next(set(s.categories) for s in BANK.signs if s.id == sign)


@pytest.fixture(scope="module")
def crowd():
    """300 small phantoms of all categories."""
    return list(sample_phantoms(300, seed=3, size=32))


# Reproducible


def test_the_same_seed_draws_the_same_phantom():
    one, two, other = (draw_phantom(seed, ["Emphysema", "Lung nodules"], size=64) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.image, two.image)
    assert (one.signs, one.sides, one.patient) == (two.signs, two.sides, two.patient)
    assert all(np.array_equal(one.masks[s], two.masks[s]) for s in one.signs)
    assert not np.array_equal(one.image, other.image)


def test_a_phantom_is_an_8_bit_square_with_contrast():
    for size in (32, 128):
        image = draw_phantom(0, size=size).image
        assert image.shape == (size, size) and image.dtype == np.uint8
        assert image.std() > 25 and image.max() - image.min() > 120


def test_any_part_of_a_set_can_be_drawn_again(crowd):
    for i, phantom in zip(range(9), sample_phantoms(9, seed=3, size=32), strict=True):
        np.testing.assert_array_equal(phantom.image, crowd[i].image)
    other = next(sample_phantoms(1, seed=4, size=32))
    assert not np.array_equal(other.image, crowd[0].image)


def test_images_of_one_patient_share_the_anatomy_and_differ_in_the_rest(crowd):
    for a, b in zip(crowd[::2], crowd[1::2], strict=True):
        assert a.patient == b.patient and not np.array_equal(a.image, b.image)
    assert len({p.patient.patient_id for p in crowd}) == 150
    assert len({p.patient.anatomy for p in crowd}) == 150
    alone = list(sample_phantoms(6, seed=3, images_per_patient=1, size=32))
    assert len({p.patient.patient_id for p in alone}) == 6


# True to the bank


def test_every_sign_of_the_bank_is_drawn_and_no_other(crowd):
    assert {sign for p in crowd for sign in p.signs} == set(IDS)
    assert set(NORMAL_UNLESS) == {sign.id for sign in BANK.normal_signs}
    assert set().union(*EXCLUSIVE, *NORMAL_UNLESS.values()) <= set(IDS)
    assert {category for pair in AFFINITY for category in pair} <= set(BANK.categories)


def test_a_category_shows_its_signs_mostly_two_or_more_and_no_sign_is_homeless(crowd):
    """One alone is rare: a narrow heart leaves only the vessels to cardiomegaly."""
    shown = [sum(category in owners(sign) for sign in p.signs) for p in crowd for category in p.categories]
    assert min(shown) >= 1 and np.mean(np.array(shown) >= 2) > 0.98
    for p in crowd:
        assert all(owners(sign) & set(p.categories) for sign in p.signs)
        assert len(set(p.signs)) == len(p.signs) == len(p.sides) and list(p.masks) == list(p.signs)


def test_signs_that_would_hide_each_other_are_not_drawn_together(crowd):
    for p in crowd:
        assert not [group for group in EXCLUSIVE if len(group & set(p.signs)) > 1]


def test_a_quarter_is_normal_and_many_have_several_categories(crowd):
    count = np.bincount([len(p.categories) for p in crowd], minlength=4) / len(crowd)
    assert 0.18 < count[0] < 0.32 and count[2] + count[3] > 0.3 and len(count) == 4
    for category in BANK.categories:
        assert sum(category in p.categories for p in crowd) > 20


def test_categories_that_go_together_do():
    """Cardiomegaly and edema, affinity 4, against cardiomegaly and nodules, affinity 1."""
    rng = np.random.default_rng(0)
    drawn = [sample_categories(rng, BANK.categories) for _ in range(3000)]
    hearts = [d for d in drawn if "Cardiomegaly" in d]
    together = {c: sum(c in d for d in hearts) for c in ("Pulmonary edema", "Lung nodules")}
    assert together["Pulmonary edema"] > 2 * together["Lung nodules"] > 0


def test_kept_out_categories_and_their_signs_never_appear_where_they_are_not_allowed():
    foreign = {sign for sign in IDS if not owners(sign) & set(SEEN)}
    assert len(foreign) > 8
    rng = np.random.default_rng(0)
    for _ in range(1000):
        categories = sample_categories(rng, SEEN)
        assert set(categories) <= set(SEEN)
        assert not foreign & set(sample_signs(rng, categories, BANK))
    for p in sample_phantoms(40, seed=1, categories=SEEN, size=32):
        assert set(p.categories) <= set(SEEN) and not foreign & set(p.signs)


def test_no_allowed_category_gives_normal_images():
    assert [p.categories for p in sample_phantoms(5, seed=0, categories=[], size=32)] == [()] * 5


def test_normal_signs_are_those_that_no_drawn_sign_contradicts(crowd):
    for p in crowd:
        normal = p.normal_signs()
        assert all((name in normal) != bool(NORMAL_UNLESS[name] & set(p.signs)) for name in NORMAL_UNLESS)
        if not p.signs:
            assert normal == [sign.id for sign in BANK.normal_signs]
    big_heart = draw_phantom(0, signs=["wide_heart"], size=32).normal_signs()
    assert big_heart == ["clear_lungs", "sharp_angles", "smooth_domes", "normal_vessels"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"categories": ["Emphysema", "Oedema"]}, "unknown category 'Oedema'.*Pleural effusion"),
        ({"signs": ["nodule", "clear_lungs"]}, "unknown sign 'clear_lungs'.*wide_heart"),
    ],
)
def test_unknown_names_are_named(arguments, named):
    with pytest.raises(DataError, match=named):
        draw_phantom(0, **arguments)
    if "categories" in arguments:
        with pytest.raises(DataError, match=named):
            list(sample_phantoms(20, 0, **arguments, size=32))


# True to the pixels

QUIET = ["wide_heart", "left_bulge", "right_bulge", "narrow_heart", "flat_diaphragm", "dark_lungs", "deep_sulcus"]
QUIET += ["raised_dome", "small_lungs", "blunted_angle", "meniscus", "hidden_diaphragm"]


@pytest.mark.parametrize("sign", QUIET)
def test_a_mask_lies_where_the_sign_changes_the_image(sign):
    """Signs that draw nothing at random leave everything else of a seed alike, so two images can be compared.

    Outside both masks the images agree but for the blur; inside they differ.
    """
    other = "right_bulge" if sign in ("narrow_heart", "left_bulge") else "left_bulge"
    inside, outside = [], []
    for seed in range(4):
        a, b = (draw_phantom(seed, signs=[name], size=96) for name in (sign, other))
        difference = np.abs(a.image.astype(float) - b.image)
        only, near = a.masks[sign] & ~b.masks[other], binary_dilation(a.masks[sign] | b.masks[other], iterations=4)
        assert a.masks[sign].dtype == bool and a.masks[sign].shape == (96, 96)
        inside.append(difference[only].mean())
        outside.append(difference[~near].mean())
    assert np.mean(inside) > 12 and np.mean(outside) < 1.5


@pytest.mark.parametrize("sign", IDS)
def test_every_sign_leaves_a_mask_on_most_images(sign):
    areas = [draw_phantom(seed, signs=[sign], size=64).masks[sign].mean() for seed in range(6)]
    assert np.mean(np.array(areas) > 0.001) > 0.5
    assert max(areas) < 0.6


def test_round_signs_are_brighter_or_darker_inside_their_mask_than_around_it():
    for sign, direction in (("nodule", 1), ("calcified", 1), ("lobar_opacity", 1), ("meniscus", 1), ("bulla", -1)):
        steps = []
        for seed in range(8):
            p = draw_phantom(seed, signs=[sign], size=96)
            mask = p.masks[sign]
            if mask.any():
                ring = binary_dilation(mask, iterations=5) & ~binary_dilation(mask, iterations=1)
                steps.append(p.image[mask].mean() - p.image[ring].mean())
        assert np.mean(np.sign(steps) == direction) > 0.6, sign


def test_a_sided_sign_lies_on_its_side():
    """The patient's right is on the left of the image."""
    seen = set()
    for seed in range(12):
        p = draw_phantom(seed, signs=["meniscus"], size=64)
        columns = np.nonzero(p.masks["meniscus"])[1]
        assert (columns.mean() < 32) == (p.sides[0] == "right")
        seen.add(p.sides[0])
    assert seen == {"left", "right"}


# The sample set


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("samples") / "chest", images=10, seed=5)


def test_a_written_set_loads_with_its_signs_and_masks(samples):
    table = load_folder(samples, BANK.categories)
    assert len(table) == 10 and table.categories == BANK.categories
    for i, phantom in enumerate(sample_phantoms(10, seed=5)):
        np.testing.assert_array_equal(np.asarray(Image.open(table.images[i])), phantom.image)
        assert [c for c, y in zip(table.categories, table.labels[i], strict=True) if y] == sorted(
            phantom.categories, key=BANK.categories.index
        )
        assert table.meta["signs"][i].split() == list(phantom.signs)
        assert table.meta["patient_id"][i] == phantom.patient.patient_id
        masks = load_masks(table, i)
        assert list(masks) == list(phantom.masks)
        assert all(np.array_equal(masks[s], phantom.masks[s]) for s in masks)


def test_a_written_set_is_split_by_patient(samples):
    train, test = split_train_test(load_folder(samples))
    assert len(train) + len(test) == 10 and not set(train.patients()) & set(test.patients())


def test_masks_that_are_not_there_are_named(samples, tmp_path):
    table = load_folder(samples)
    row = next(i for i, signs in enumerate(table.meta["signs"]) if signs)
    moved = dataclasses.replace(table, images=tuple(tmp_path / "images" / p.name for p in table.images))
    with pytest.raises(DataError, match=r"masks/\d+\.png: no such mask file"):
        load_masks(moved, row)
    with pytest.raises(DataError, match="no 'signs' column"):
        load_masks(dataclasses.replace(table, meta={}), row)


def test_a_set_is_never_written_over_foreign_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"exists and holds no labels.csv"):
        write_samples(tmp_path, images=2)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_committed_samples_are_byte_for_byte_what_the_generator_writes(tmp_path):
    """If this fails after a change to the generator, `make samples` writes the set anew."""
    committed = Path(__file__).parents[1] / "data_samples" / "chest"
    fresh = write_samples(tmp_path / "chest")
    names = [sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*")) for root in (committed, fresh)]
    assert names[0] == names[1] and len(names[0]) > IMAGES
    assert [name for name in names[0] if (committed / name).read_bytes() != (fresh / name).read_bytes()] == []
