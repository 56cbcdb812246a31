"""Images to look at: phantoms drawn sign by sign, so that the truth is known for every pixel.

    for phantom in sample_phantoms(100, seed=0):
        phantom.image, phantom.categories, phantom.signs, phantom.masks

A category is drawn as two or more of its signs; categories co-occur as in life (`AFFINITY`).
These are caricatures for teaching the method; they are no medical data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..errors import DataError
from ..signs import SignBank, load_bank
from .canvas import Canvas
from .chest import SIDES, SITES, Anatomy, draw_bones, draw_vessels, expose, render
from .chest_signs import OVERLAY_SIGNS, SHAPE_SIGNS

KEPT_OUT = ("Pneumothorax", "Atelectasis", "Fibrosis")
"""Categories that the embedded CLIP never saw in pretraining."""

AFFINITY = {
    ("Cardiomegaly", "Pulmonary edema"): 4.0,
    ("Pleural effusion", "Pulmonary edema"): 3.0,
    ("Cardiomegaly", "Pleural effusion"): 2.0,
    ("Pleural effusion", "Consolidation"): 2.0,
    ("Pleural effusion", "Atelectasis"): 3.0,
    ("Emphysema", "Pneumothorax"): 3.0,
    ("Emphysema", "Lung nodules"): 2.0,
    ("Fibrosis", "Lung nodules"): 2.0,
    ("Fibrosis", "Emphysema"): 1.5,
    ("Consolidation", "Atelectasis"): 2.0,
}
"""How much more often than by chance two categories occur together (our choice, after textbook associations)."""

EXCLUSIVE = (
    {"flat_diaphragm", "raised_dome", "small_lungs", "hidden_diaphragm"},
    {"wide_heart", "narrow_heart"},
    {"left_bulge", "narrow_heart"},
    {"right_bulge", "narrow_heart"},
    {"blunted_angle", "meniscus", "deep_sulcus"},
    {"nodule", "many_nodules"},
    {"lost_heart_border", "shaggy_heart"},
)
"""Signs of which one image shows at most one, because one would hide or undo the other."""

NORMAL_UNLESS = {
    "clear_lungs": set(OVERLAY_SIGNS),
    "sharp_angles": {"blunted_angle", "meniscus", "hidden_diaphragm", "deep_sulcus"},
    "normal_heart": {
        "wide_heart",
        "left_bulge",
        "right_bulge",
        "narrow_heart",
        "lost_heart_border",
        "shaggy_heart",
        "shift",
    },
    "smooth_domes": {"flat_diaphragm", "raised_dome", "small_lungs", "hidden_diaphragm", "meniscus"},
    "normal_vessels": {"upper_vessels", "bare_periphery", "bulla", "dark_lungs", "reticular", "batwing"},
}
"""A normal sign is true of an image that shows none of these."""


@dataclass(frozen=True)
class Patient:
    """A simulated person; `anatomy` is shared by the person's images."""

    patient_id: str
    age: int
    sex: str
    site: str
    anatomy: Anatomy


@dataclass(frozen=True)
class Phantom:
    """One image with all that is true of it.

    image: (H, W) uint8. signs: ids of the signs drawn; sides: the side of each. masks: for each drawn
    sign, the (H, W) bool region where it changed the image; rarely empty, where others hide the sign.
    """

    image: np.ndarray
    categories: tuple[str, ...]
    signs: tuple[str, ...]
    sides: tuple[str, ...]
    masks: dict[str, np.ndarray]
    patient: Patient

    def normal_signs(self) -> list[str]:
        """Ids of the normal signs that are true of this image."""
        return [name for name, unless in NORMAL_UNLESS.items() if not unless & set(self.signs)]


@cache
def chest_bank() -> SignBank:
    """The bank whose signs this generator draws."""
    return load_bank("chest_phantoms")


def sample_patient(rng: np.random.Generator, patient_id: str) -> Patient:
    age, sex, site = int(rng.integers(20, 90)), str(rng.choice(["F", "M"])), str(rng.choice(list(SITES)))
    return Patient(patient_id, age, sex, site, Anatomy.sample(rng, age, sex))


def sample_categories(rng: np.random.Generator, allowed: Sequence[str], normal: float = 0.25) -> list[str]:
    """None with probability `normal`, else one to three categories that go together."""
    if rng.random() < normal or not allowed:
        return []
    chosen = [str(rng.choice(allowed))]
    for _ in range(int(rng.choice([0, 1, 2], p=[0.40, 0.40, 0.20]))):
        rest = [c for c in allowed if c not in chosen]
        if not rest:
            break
        weight = np.array([np.prod([_affinity(c, d) for d in chosen]) for c in rest])
        chosen.append(str(rng.choice(rest, p=weight / weight.sum())))
    return chosen


def _affinity(a: str, b: str) -> float:
    return AFFINITY.get((a, b), AFFINITY.get((b, a), 1.0))


def sample_signs(rng: np.random.Generator, categories: Sequence[str], bank: SignBank) -> list[str]:
    """Two or more compatible signs for each category (rarely one, where others hide the rest), most typically two."""
    chosen: list[str] = []
    for category in categories:
        own = [sign.id for sign in bank.signs if category in sign.categories]
        wanted = min(len(own), int(rng.choice([2, 3, 4], p=[0.55, 0.35, 0.10])))
        have = sum(sign in chosen for sign in own)
        for sign in rng.permutation(own):
            if have >= wanted:
                break
            if sign not in chosen and not _excluded(str(sign), chosen):
                chosen.append(str(sign))
                have += 1
    return chosen


def _excluded(sign: str, chosen: Sequence[str]) -> bool:
    return any(sign in group and group & set(chosen) for group in EXCLUSIVE)


def draw_phantom(
    seed: int | np.random.Generator,
    categories: Sequence[str] = (),
    signs: Sequence[str] | None = None,
    patient: Patient | None = None,
    size: int = 128,
) -> Phantom:
    """Draw one phantom: give categories, and their signs are chosen; or give the signs too.

    Args:
        seed: a number or a NumPy generator; the same seed draws the same phantom.
        categories: of `chest_bank()`; empty for a normal image.
        signs: ids of signs to draw; chosen from the categories' signs when left out.
        patient: whose anatomy; a new person when left out.
        size: pixels per side.

    Raises:
        DataError: an unknown category or sign.
    """
    rng = np.random.default_rng(seed)
    bank = chest_bank()
    for category in categories:
        if category not in bank.categories:
            raise DataError(f"unknown category {category!r}: the chest phantom has {', '.join(bank.categories)}")
    patient = patient or sample_patient(rng, "P0")
    signs = sample_signs(rng, categories, bank) if signs is None else list(signs)
    for sign in signs:
        if sign not in SHAPE_SIGNS and sign not in OVERLAY_SIGNS:
            raise DataError(
                f"unknown sign {sign!r}: the chest phantom draws {', '.join([*SHAPE_SIGNS, *OVERLAY_SIGNS])}"
            )
    sides = [str(rng.choice(list(SIDES))) for _ in signs]
    strength = rng.uniform(0, 1, len(signs))

    def anatomy_with(shapes: list[int]) -> Anatomy:
        anatomy = patient.anatomy
        for i in shapes:
            anatomy = SHAPE_SIGNS[signs[i]](anatomy, sides[i], strength[i])
        return anatomy

    shapes = [i for i, sign in enumerate(signs) if sign in SHAPE_SIGNS]
    canvas, anatomy = Canvas(rng, size), anatomy_with(shapes)
    vessels, bones = draw_vessels(canvas, anatomy, rng), draw_bones(canvas, rng)
    scene = render(canvas, anatomy, vessels, bones)
    plain = scene.grey()
    masks = {}
    for i in shapes:
        without = render(canvas, anatomy_with([j for j in shapes if j != i]), vessels, bones)
        masks[signs[i]] = np.abs(plain - without.grey()) > 0.04
    for i, sign in enumerate(signs):
        if sign in OVERLAY_SIGNS:
            before = scene.grey()
            OVERLAY_SIGNS[sign](scene, sides[i], strength[i], rng)
            masks[sign] = np.abs(scene.grey() - before) > 0.04
    image = expose(scene.grey(), SITES[patient.site], rng)
    return Phantom(image, tuple(categories), tuple(signs), tuple(sides), {s: masks[s] for s in signs}, patient)


def sample_phantoms(
    n: int, seed: int, categories: Sequence[str] | None = None, images_per_patient: int = 2, size: int = 128
) -> Iterator[Phantom]:
    """n phantoms of simulated patients; image i depends on (seed, i) alone, so any part can be drawn again.

    Args:
        n: number of images.
        seed: of the whole set.
        categories: those that may occur; all of the bank when left out.
        images_per_patient: images that share one anatomy.
        size: pixels per side.
    """
    allowed = list(chest_bank().categories if categories is None else categories)
    for i in range(n):
        number = i // images_per_patient
        patient = sample_patient(np.random.default_rng([seed, 1, number]), f"P{number:05d}")
        rng = np.random.default_rng([seed, 2, i])
        yield draw_phantom(rng, sample_categories(rng, allowed), patient=patient, size=size)
