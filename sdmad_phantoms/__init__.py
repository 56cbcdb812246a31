"""Images to look at: phantoms drawn sign by sign, so that the truth is known for every pixel.

    for phantom in sample_phantoms(100, seed=0, modality="brain"):
        phantom.image, phantom.categories, phantom.signs, phantom.masks

Three modalities: chest radiographs, brain MRI slices, colour fundus photographs. A category is drawn as
two or more of its signs; categories co-occur as in life. These are caricatures for teaching the method;
they are no medical data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sdmad_lite.errors import DataError

from .brain import BRAIN
from .chest import CHEST
from .fundus import FUNDUS
from .modality import ATTRIBUTES, LEAST_PIXELS, Modality, Patient

__all__ = [
    "ATTRIBUTES",
    "BRAIN",
    "CHEST",
    "FUNDUS",
    "MODALITIES",
    "Modality",
    "Patient",
    "Phantom",
    "draw_phantom",
    "modality_named",
    "sample_phantoms",
]

LEAST_SIZE = 32
MODALITIES: dict[str, Modality] = {m.name: m for m in (CHEST, BRAIN, FUNDUS)}


@dataclass(frozen=True)
class Phantom:
    """One image with all that is true of it.

    image: (H, W) or (H, W, 3) uint8. signs: ids of the signs that can be seen; sides: the side of each;
    masks: for each, the (H, W) bool region where it changed the image.
    """

    image: np.ndarray
    categories: tuple[str, ...]
    signs: tuple[str, ...]
    sides: tuple[str, ...]
    masks: dict[str, np.ndarray]
    patient: Patient
    modality: str

    def normal_signs(self) -> list[str]:
        """Ids of the normal signs that are true of this image."""
        unless = MODALITIES[self.modality].normal_unless
        return [name for name, signs in unless.items() if not signs & set(self.signs)]


def modality_named(name: str) -> Modality:
    """The modality of that name.

    Raises:
        DataError: there is none.
    """
    if name not in MODALITIES:
        raise DataError(f"unknown modality {name!r}: there are {', '.join(MODALITIES)}")
    return MODALITIES[name]


def draw_phantom(
    seed: int | Sequence[int] | np.random.Generator,
    categories: Sequence[str] = (),
    signs: Sequence[str] | None = None,
    patient: Patient | None = None,
    size: int = 128,
    modality: str = "chest",
) -> Phantom:
    """Draw one phantom: give categories, and their signs are chosen; or give the signs too.

    A sign that another one hides is not reported. Where signs are chosen here, each category is drawn
    again until at least one of its signs can be seen.

    Args:
        seed: what `numpy.random.default_rng` takes; the same seed draws the same phantom.
        categories: of the modality's bank; empty for a normal image.
        signs: ids of signs to draw; chosen from the categories' signs when left out.
        patient: whose anatomy; a new person when left out.
        size: pixels per side, at least 32.
        modality: chest, brain or fundus.

    Raises:
        DataError: an unknown modality, category or sign, one named twice, a patient of another modality, or a
            size that is too small.
    """
    rng, kind = np.random.default_rng(seed), modality_named(modality)
    members = {sign.id: set(sign.categories) for sign in kind.bank.signs}
    for category in categories:
        if category not in kind.bank.categories:
            known = ", ".join(kind.bank.categories)
            raise DataError(f"unknown category {category!r}: the {modality} phantom has {known}")
    for sign in signs or ():
        if sign not in members:
            raise DataError(f"unknown sign {sign!r}: the {modality} phantom draws {', '.join(members)}")
    if repeated := [name for name, times in Counter([*categories, *(signs or ())]).items() if times > 1]:
        raise DataError(f"{repeated[0]!r} is named twice; name each category and sign once")
    if size < LEAST_SIZE:
        raise DataError(f"size {size}: signs cannot be seen in less than {LEAST_SIZE} pixels")
    patient = patient or kind.sample_patient(rng, "P0")
    if patient.modality != modality:
        raise DataError(
            f"patient {patient.patient_id} is of modality {patient.modality!r}, the phantom is {modality!r}"
        )
    while True:
        wanted = kind.sample_signs(rng, categories) if signs is None else list(signs)
        sides = [str(rng.choice(kind.sides)) for _ in wanted]
        if kind.same_side:
            owners = [next((c for c in categories if c in members[s]), s) for s in wanted]
            sides = [sides[owners.index(owner)] for owner in owners]
        image, masks = kind.draw(rng, patient, wanted, sides, rng.uniform(0, 1, len(wanted)), size)
        shown = [(s, side) for s, side in zip(wanted, sides, strict=True) if masks[s].mean() >= LEAST_PIXELS]
        if signs is not None or all(any(category in members[s] for s, _ in shown) for category in categories):
            break
    names, places = tuple(s for s, _ in shown), tuple(side for _, side in shown)
    return Phantom(image, tuple(categories), names, places, {s: masks[s] for s in names}, patient, modality)


def sample_phantoms(
    n: int,
    seed: int,
    categories: Sequence[str] | None = None,
    images_per_patient: int = 2,
    size: int = 128,
    modality: str = "chest",
    effects: Collection[str] = ATTRIBUTES,
    machine: str | None = None,
) -> Iterator[Phantom]:
    """n phantoms of simulated patients; image i depends on (seed, i) alone, so any part can be drawn again.

    Args:
        n: number of images.
        seed: of the whole set.
        categories: those that may occur; all of the bank when left out.
        images_per_patient: images that share one anatomy.
        size: pixels per side.
        modality: chest, brain or fundus.
        effects: which attributes leave their trace in the image; the same seed with another choice gives
            the same patients with the same signs.
        machine: that renders every image, one of the modality's `machines`, "dark" and "noisy", which are far from
            its sites; the same seed with another machine gives the same patients with the same signs.

    Raises:
        DataError: an unknown modality, category, attribute or machine.
    """
    kind = modality_named(modality)
    for i in range(n):
        number = i // images_per_patient
        patient = kind.sample_patient(np.random.default_rng([seed, 1, number]), f"P{number:05d}", effects, machine)
        rng = np.random.default_rng([seed, 2, i])
        yield draw_phantom(rng, kind.sample_categories(rng, categories), None, patient, size, modality)
