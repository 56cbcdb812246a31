"""Phantoms: the same seed draws the same image, and what is said of an image is true of it."""

import dataclasses
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from sdmad_lite.data import load_folder, split_train_test
from sdmad_lite.errors import DataError, OutputError
from sdmad_phantoms import ATTRIBUTES, MODALITIES, draw_phantom, modality_named, sample_phantoms
from sdmad_phantoms.modality import LEAST_PIXELS
from sdmad_phantoms.samples import IMAGES, load_masks, write_samples

MODULES = {name: import_module(f"sdmad_phantoms.{name}_signs") for name in MODALITIES}
TABLES = {name: [v for k, v in vars(module).items() if k.endswith("_SIGNS")] for name, module in MODULES.items()}
SIGNS = [(name, sign.id) for name, kind in MODALITIES.items() for sign in kind.bank.signs]


@pytest.fixture(scope="module", params=MODALITIES)
def kind(request):
    """Each modality in turn: a test that takes it, or what is made of it, runs three times."""
    return MODALITIES[request.param]


@pytest.fixture(scope="module")
def crowd(kind):
    """300 small phantoms of all categories."""
    return list(sample_phantoms(300, seed=3, size=32, modality=kind.name))


def owners(kind, sign: str) -> set[str]:
    return next(set(s.categories) for s in kind.bank.signs if s.id == sign)


def record(patient) -> tuple:
    return patient.patient_id, patient.age, patient.sex, patient.site


def distance(a, b) -> np.ndarray:
    """Grey levels (H, W) between two phantoms, in the colour that differs most."""
    difference = np.abs(a.image.astype(float) - b.image)
    return difference.max(axis=2) if difference.ndim == 3 else difference


# Reproducible


def test_the_same_seed_draws_the_same_phantom(kind):
    one, two, other = (draw_phantom(s, kind.bank.categories[:2], size=64, modality=kind.name) for s in (5, 5, 6))
    np.testing.assert_array_equal(one.image, two.image)
    assert (one.signs, one.sides, one.patient) == (two.signs, two.sides, two.patient)
    assert all(np.array_equal(one.masks[s], two.masks[s]) for s in one.signs)
    assert not np.array_equal(one.image, other.image)


def test_a_phantom_is_an_8_bit_square_with_contrast_grey_or_in_colour(kind):
    for size in (33, 128):
        image = draw_phantom(0, size=size, modality=kind.name).image
        assert image.shape == ((size, size, 3) if kind.name == "fundus" else (size, size))
        assert kind.bank.color == (image.ndim == 3) and image.dtype == np.uint8
        assert image.std() > 25 and np.ptp(image) > 120


def test_any_part_of_a_set_can_be_drawn_again(kind, crowd):
    for i, phantom in enumerate(sample_phantoms(9, seed=3, size=32, modality=kind.name)):
        np.testing.assert_array_equal(phantom.image, crowd[i].image)
    other = next(sample_phantoms(1, seed=4, size=32, modality=kind.name))
    assert not np.array_equal(other.image, crowd[0].image)


def test_images_of_one_patient_share_the_anatomy_and_differ_in_the_rest(kind, crowd):
    for a, b in zip(crowd[::2], crowd[1::2], strict=True):
        assert a.patient == b.patient and not np.array_equal(a.image, b.image)
    assert len({p.patient.patient_id for p in crowd}) == len({p.patient.anatomy for p in crowd}) == 150
    assert {p.patient.site for p in crowd} == set(kind.sites) and {p.patient.sex for p in crowd} == {"F", "M"}
    alone = sample_phantoms(6, seed=3, images_per_patient=1, size=32, modality=kind.name)
    assert len({p.patient.patient_id for p in alone}) == 6


# True to the bank


def test_every_sign_of_the_bank_is_drawn_and_no_other(kind, crowd):
    ids = {sign.id for sign in kind.bank.signs}
    assert {sign for p in crowd for sign in p.signs} == set().union(*TABLES[kind.name]) == ids
    assert set(kind.normal_unless) == {sign.id for sign in kind.bank.normal_signs}
    assert set().union(*kind.exclusive, *kind.normal_unless.values()) <= ids
    assert {*kind.kept_out, *(c for pair in kind.affinity for c in pair)} <= set(kind.bank.categories)


def test_a_category_shows_its_signs_mostly_two_or_more_and_no_sign_is_homeless(kind, crowd):
    """One alone is rare: a narrow heart, of emphysema, leaves only the vessels to cardiomegaly."""
    shown = [sum(category in owners(kind, sign) for sign in p.signs) for p in crowd for category in p.categories]
    assert min(shown) >= 1 and np.mean(np.array(shown) >= 2) > 0.98
    for p in crowd:
        assert all(owners(kind, sign) & set(p.categories) for sign in p.signs)
        assert not [group for group in kind.exclusive if len(group & set(p.signs)) > 1]
        assert len(set(p.signs)) == len(p.signs) == len(p.sides) and list(p.masks) == list(p.signs)
        assert all(m.dtype == bool and m.shape == (32, 32) and m.mean() >= LEAST_PIXELS for m in p.masks.values())


def test_a_quarter_is_normal_and_many_have_several_categories(kind, crowd):
    count = np.bincount([len(p.categories) for p in crowd], minlength=4) / len(crowd)
    assert 0.18 < count[0] < 0.32 and count[2] + count[3] > 0.3 and len(count) == 4
    assert all(sum(category in p.categories for p in crowd) > 20 for category in kind.bank.categories)


def test_categories_that_go_together_do(kind):
    """An affinity of 3 or 4 against one of 1."""
    category, friend, stranger = {
        "chest": ("Cardiomegaly", "Pulmonary edema", "Lung nodules"),
        "brain": ("Infarct", "Small vessel disease", "Meningioma"),
        "fundus": ("Diabetic retinopathy", "Hypertensive retinopathy", "Glaucoma"),
    }[kind.name]
    rng = np.random.default_rng(0)
    drawn = [d for d in (kind.sample_categories(rng) for _ in range(3000)) if category in d]
    assert sum(friend in d for d in drawn) > 1.7 * sum(stranger in d for d in drawn) > 0


def test_kept_out_categories_and_their_signs_never_appear_where_they_are_not_allowed(kind):
    foreign = {sign.id for sign in kind.bank.signs} - {sign.id for sign in kind.seen_signs}
    assert len(foreign) > 3 and all(owners(kind, sign) <= set(kind.kept_out) for sign in foreign)
    assert set(kind.seen) == set(kind.bank.categories) - set(kind.kept_out)
    rng = np.random.default_rng(0)
    for _ in range(500):
        categories = kind.sample_categories(rng, kind.seen)
        assert set(categories) <= set(kind.seen) and not foreign & set(kind.sample_signs(rng, categories))
    for p in sample_phantoms(40, seed=1, categories=kind.seen, size=32, modality=kind.name):
        assert set(p.categories) <= set(kind.seen) and not foreign & set(p.signs)
    normal = sample_phantoms(5, seed=0, categories=[], size=32, modality=kind.name)
    assert [(p.categories, p.signs, p.masks) for p in normal] == [((), (), {})] * 5


def test_normal_signs_are_those_that_no_drawn_sign_contradicts(kind, crowd):
    for p in crowd:
        normal = p.normal_signs()
        assert all((name in normal) != bool(signs & set(p.signs)) for name, signs in kind.normal_unless.items())
        assert p.signs or normal == [sign.id for sign in kind.bank.normal_signs]
    sign, left = {
        "chest": ("wide_heart", "clear_lungs sharp_angles smooth_domes normal_vessels"),
        "brain": ("midline_shift", "even_white_matter normal_sulci"),
        "fundus": ("large_cup", "clear_retina even_macula regular_vessels"),
    }[kind.name]
    assert draw_phantom(0, signs=[sign], size=32, modality=kind.name).normal_signs() == left.split()


def test_unknown_names_are_named(kind):
    categories, normal = [kind.bank.categories[0], "Oedema"], kind.bank.normal_signs[0].id
    wrong = f"unknown category 'Oedema': the {kind.name} phantom has .*{kind.bank.categories[-1]}"
    with pytest.raises(DataError, match=wrong):
        draw_phantom(0, categories, modality=kind.name)
    with pytest.raises(DataError, match=wrong):
        list(sample_phantoms(20, 0, categories, size=32, modality=kind.name))
    with pytest.raises(DataError, match=f"unknown sign '{normal}': .*{kind.bank.signs[-1].id}"):
        draw_phantom(0, signs=[kind.bank.signs[0].id, normal], modality=kind.name)


BRAIN_PATIENT = MODALITIES["brain"].sample_patient(np.random.default_rng(0), "P0")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda out: draw_phantom(0, size=8), "size 8: signs cannot be seen in less than 32 pixels"),
        (lambda out: draw_phantom(0, signs=["nodule", "nodule"]), "'nodule' is named twice"),
        (lambda out: draw_phantom(0, ["Fibrosis", "Fibrosis"]), "'Fibrosis' is named twice"),
        (lambda out: draw_phantom(0, patient=BRAIN_PATIENT), "P0 is of modality 'brain', the phantom is 'chest'"),
        (lambda out: next(sample_phantoms(1, 0, effects="age")), r"give a list, such as \['age'\]"),
        (lambda out: next(sample_phantoms(1, 0, effects=["age", "weight"])), "unknown attribute 'weight'; there are"),
        (lambda out: next(sample_phantoms(1, 0, machine="bright")), "no .bright.; there are dark, noisy, A, B, C"),
        (lambda out: write_samples(out, images=0), "at least one is needed"),
        (lambda out: modality_named("knee"), "unknown modality 'knee': there are chest, brain, fundus"),
        (lambda out: draw_phantom(0, modality="knee"), "unknown modality 'knee'"),
        (lambda out: next(sample_phantoms(1, 0, modality="knee")), "unknown modality 'knee'"),
        (lambda out: write_samples(out, modality="knee"), "unknown modality 'knee'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, call, named):
    with pytest.raises(DataError, match=named):
        call(tmp_path / "out")
    assert not any(tmp_path.iterdir())


# True to the record


class Stated:
    """A source of chance of which the first three draws, the record, are stated."""

    def __init__(self, seed, age, sex, site):
        self.rng, self.stated = np.random.default_rng(seed), [age, sex, site]

    def __getattr__(self, name):
        draw = getattr(self.rng, name)
        return (lambda *args: (draw(*args), self.stated.pop(0))[1]) if self.stated else draw


def test_switched_off_effects_change_neither_the_patients_nor_their_signs(kind):
    on, off = (list(sample_phantoms(40, 5, size=32, modality=kind.name, effects=e)) for e in (ATTRIBUTES, ()))
    for a, b in zip(on, off, strict=True):
        assert record(a.patient) == record(b.patient)
        assert (a.categories, a.signs, a.sides) == (b.categories, b.signs, b.sides)
        assert a.patient.scanner == a.patient.site and b.patient.scanner == kind.sites[0]
    assert np.mean([np.array_equal(a.image, b.image) for a, b in zip(on, off, strict=True)]) < 0.1


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_attribute_leaves_its_trace_in_the_image_only_where_its_effect_is_on(kind, attribute):
    """Two patients by the same chance, of whom the record tells that one attribute differs."""
    values = {"age": (25, 85), "sex": ("F", "M"), "site": kind.sites[:2]}[attribute]
    pairs = [{"age": 40, "sex": "F", "site": kind.sites[1]} | {attribute: value} for value in values]
    others = [name for name in ATTRIBUTES if name != attribute]
    for effects, traces in ((ATTRIBUTES, True), ([attribute], True), (others, False), ([], False)):
        for seed in range(3):
            patients = [kind.sample_patient(Stated(seed, **stated), "P0", effects) for stated in pairs]
            assert [record(patient)[1:] for patient in patients] == [tuple(stated.values()) for stated in pairs]
            a, b = (draw_phantom(seed, patient=patient, size=64, modality=kind.name) for patient in patients)
            assert distance(a, b).mean() > 1.5 if traces else np.array_equal(a.image, b.image)
            assert traces or a.patient.anatomy == b.patient.anatomy


def test_a_far_machine_renders_the_same_patients_with_the_same_signs(kind):
    home, *far = (list(sample_phantoms(12, 5, size=32, modality=kind.name, machine=m)) for m in (None, *kind.machines))
    for machine, phantoms in zip(("dark", "noisy"), far, strict=True):
        assert {(p.patient.site, p.patient.scanner) for p in phantoms} == {(machine, machine)}
        for a, b in zip(home, phantoms, strict=True):
            assert (a.categories, a.signs, a.patient.anatomy) == (b.categories, b.signs, b.patient.anatomy)
    light, dark, noisy = (np.stack([p.image for p in phantoms]).astype(float) for phantoms in (home, *far))
    assert dark.mean() < 0.7 * light.mean()
    grain = [np.median(np.abs(np.diff(images, axis=1))) for images in (light, noisy)]
    assert grain[1] > 1.5 * grain[0]


# True to the pixels

BRIGHT = {"nodule", "calcified", "lobar_opacity", "meniscus", "dural_mass", "bright_crescent", "deep_dots"}
BRIGHT |= {"junction_nodules", "cotton_wool", "large_cup", "pale_atrophy", "hard_exudates"}
DARK = {"bulla", "dark_lungs", "bare_periphery", "blood_dots", "wide_sulci", "large_ventricles", "blot_bleeds"}
DARK |= {"nerve_wedge", "macular_blood"}


def with_and_without(name: str, sign: str, seed: int):
    """Two phantoms that differ by one sign alone: for the second it is drawn on a copy, which is thrown away."""
    one = draw_phantom(seed, signs=[sign], size=64, modality=name)
    table = next(table for table in TABLES[name] if sign in table)
    draw = table[sign]

    def lost(subject, *rest):
        """Gives back an anatomy as it was, and draws on a copy of a scene."""
        return subject if len(rest) == 2 else draw(deepcopy(subject), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(table, sign, lost)
        return one, draw_phantom(seed, signs=[sign], size=64, modality=name)


@pytest.mark.parametrize(("name", "sign"), SIGNS)
def test_a_mask_lies_where_the_sign_changes_the_image(name, sign):
    inside, outside, step = [], [], []
    for seed in range(3):
        a, b = with_and_without(name, sign, seed)
        assert a.signs == (sign,) and b.signs == ()
        mask, change = a.masks[sign], distance(a, b)
        assert mask.dtype == bool and mask.shape == (64, 64) and LEAST_PIXELS < mask.mean() < 0.75
        inside.append(change[mask].mean())
        outside.append(change[~binary_dilation(mask, iterations=2)].mean())  # beyond the blur
        step.append(a.image[mask].mean() - b.image[mask].mean())
    assert np.mean(inside) > 8 and np.max(outside) < 3
    assert (sign not in BRIGHT or min(step) > 5) and (sign not in DARK or max(step) < -5)


def test_a_sided_sign_lies_on_its_side(kind):
    """The first side is on the left of the image, where the patient's right is; in an eye it is above."""
    sided = {"chest": ("meniscus", "bulla"), "brain": ("dural_mass", "cortical_wedge"), "fundus": ("sector_blood",)}
    for sign in sided[kind.name]:
        phantoms = [draw_phantom(seed, signs=[sign], size=64, modality=kind.name) for seed in range(12)]
        for p in phantoms:
            middle = np.nonzero(p.masks[sign])[0 if kind.name == "fundus" else 1].mean()
            assert (middle < 31.5) == (p.sides[0] == kind.sides[0])
        assert {p.sides[0] for p in phantoms} == set(kind.sides)


def test_signs_of_one_brain_lesion_share_a_side_as_nowhere_else(kind):
    categories = {"chest": ["Consolidation"], "brain": ["Meningioma"], "fundus": ["Glaucoma"]}[kind.name]
    sides = [set(draw_phantom(s, categories, size=32, modality=kind.name).sides) for s in range(12)]
    assert set().union(*sides) == set(kind.sides) and all(len(one) == 1 for one in sides) == (kind.name == "brain")
    lesions = [draw_phantom(s, ["Meningioma", "Infarct"], size=32, modality="brain").sides for s in range(12)]
    assert any(len(set(one)) == 2 for one in lesions)


def test_a_hidden_sign_is_not_reported(kind):
    """Fluid fills the angle of its side; tight sulci are not wide; a disc that swells loses its cup."""
    signs = {
        "chest": ["meniscus", "blunted_angle"],
        "brain": ["wide_sulci", "tight_sulci"],
        "fundus": ["large_cup", "swollen_disc"],
    }[kind.name]
    left = "meniscus" if kind.name == "chest" else signs[1]
    drawn = [draw_phantom(seed, signs=signs, size=64, modality=kind.name) for seed in range(12)]
    hidden = [p for p in drawn if p.signs == (left,)]
    assert hidden and all(list(p.masks) == [left] and len(p.sides) == 1 for p in hidden)


# The sample sets


@pytest.fixture(scope="module")
def samples(kind, tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("samples") / kind.name, images=10, seed=5, modality=kind.name)


def test_a_written_set_loads_with_its_signs_and_masks(kind, samples):
    table, bank = load_folder(samples, kind.bank.categories), kind.bank
    assert len(table) == 10 and table.categories == bank.categories
    for i, phantom in enumerate(sample_phantoms(10, seed=5, modality=kind.name)):
        stored, loss = np.asarray(Image.open(table.images[i])), 6 if bank.color else 0  # colour is JPEG
        assert stored.shape == phantom.image.shape and np.abs(stored - phantom.image.astype(float)).mean() <= loss
        assert [bool(y) for y in table.labels[i]] == [c in phantom.categories for c in bank.categories]
        stated = [table.meta[column][i] for column in ("patient_id", "age", "sex", "site")]
        assert stated == [str(value) for value in record(phantom.patient)]
        assert table.meta["signs"][i].split() == list(phantom.signs)
        masks = load_masks(table, i)
        assert list(masks) == list(phantom.masks)
        assert all(m.dtype == bool and np.array_equal(m, phantom.masks[s]) for s, m in masks.items())


def test_a_written_set_is_split_by_patient_and_its_readme_counts(kind, samples):
    train, test = split_train_test(load_folder(samples, kind.bank.categories))
    assert len(train) + len(test) == 10 and not set(train.patients()) & set(test.patients())
    readme = (samples / "README.md").read_text(encoding="utf-8")
    title = f"# {kind.name.capitalize()} phantoms\n\n10 drawn images, 128 x 128 pixels, of 5 simulated"
    assert readme.startswith(title)
    for category, a, b in zip(kind.bank.categories, train.labels.sum(0), test.labels.sum(0), strict=True):
        assert f"\n| {category} | {a + b} | {a} | {b} |\n" in readme


def test_masks_that_are_not_there_are_named(samples, tmp_path):
    table = load_folder(samples)
    row = next(i for i, signs in enumerate(table.meta["signs"]) if signs)
    moved = dataclasses.replace(table, images=tuple(tmp_path / "images" / p.name for p in table.images))
    with pytest.raises(DataError, match=r"masks/\d+\.png: no such mask file"):
        load_masks(moved, row)
    with pytest.raises(DataError, match="no 'signs' column"):
        load_masks(dataclasses.replace(table, meta={}), row)


def test_a_set_takes_the_place_of_an_earlier_one_but_never_of_foreign_files(tmp_path):
    for images in (4, 2):
        write_samples(tmp_path / "brain", images, modality="brain")
    assert len(list((tmp_path / "brain" / "images").iterdir())) == 2
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"exists and holds no labels.csv"):
        write_samples(tmp_path, images=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["brain", "thesis.tex"]


def test_the_committed_samples_are_byte_for_byte_what_the_generator_writes(kind, tmp_path):
    """If this fails after a change to the generator, `make samples` writes the sets anew."""
    committed = Path(__file__).parents[2] / "data_samples" / kind.name
    assert committed.is_dir()  # before 600 images are drawn
    fresh = write_samples(tmp_path / kind.name, modality=kind.name)
    names = [sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*")) for root in (committed, fresh)]
    assert names[0] == names[1] and len(names[0]) > IMAGES
    assert [name for name in names[0] if (committed / name).read_bytes() != (fresh / name).read_bytes()] == []
