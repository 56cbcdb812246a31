"""What a kind of image must say of itself so that phantoms of it can be sampled: a `Modality`.

The modules `chest`, `brain` and `fundus` each define one; sampling is the same for all and stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sdmad_lite.errors import DataError
from sdmad_lite.signs.bank import Sign, SignBank, load_bank

ATTRIBUTES = ("age", "sex", "site")
"""What is recorded of every patient; each may leave its trace in the image or not."""

NEUTRAL_AGE, NEUTRAL_SEX = 55, "M"
LEAST_PIXELS = 1 / 2000
"""A sign that changed a smaller share of the image cannot be seen and is not reported."""


@dataclass(frozen=True)
class Patient:
    """A simulated person; `anatomy` is shared by the person's images.

    age, sex and site are the record; `scanner` is the site whose machine renders the images, the same
    unless the site's effect is switched off.
    """

    patient_id: str
    age: int
    sex: str
    site: str
    scanner: str
    anatomy: Hashable
    modality: str


Drawing = tuple[np.ndarray, dict[str, np.ndarray]]


def reshaped(
    anatomy: Hashable,
    shapes: Mapping[str, Callable],
    signs: Sequence[str],
    sides: Sequence[str],
    strength: np.ndarray,
    left_out: str | None = None,
) -> Hashable:
    """The anatomy after every one of `signs` that changes its shape, but for one that is left out."""
    for sign, side, much in zip(signs, sides, strength, strict=True):
        if sign in shapes and sign != left_out:
            anatomy = shapes[sign](anatomy, side, much)
    return anatomy


@dataclass(frozen=True)
class Modality:
    """One kind of image.

    name: of the folder and the argument. kept_out: categories that the embedded CLIP never saw.
    affinity: how much more often than by chance two categories occur together (our choice, after textbook
    associations). exclusive: groups of signs of which one image shows at most one, because one would hide
    or undo the other. normal_unless: a normal sign is true of an image that shows none of these.
    sides: the two places that a sided sign can take. sites: scanners or cameras.
    machines: two that are far from those of the sites, one much darker and one much noisier.
    sample_anatomy: (rng, age, sex) -> hashable anatomy; it consumes the same random numbers for every
    age and sex. draw: (rng, patient, signs, sides, strength, size) -> the image, (H, W) or (H, W, 3)
    uint8, and for each sign the (H, W) bool region that it changed. same_side: whether the signs of one
    category lie on one side, as those of a tumour do.
    """

    name: str
    kept_out: tuple[str, ...]
    affinity: Mapping[tuple[str, str], float]
    exclusive: tuple[frozenset[str], ...]
    normal_unless: Mapping[str, frozenset[str]]
    sides: tuple[str, str]
    sites: tuple[str, ...]
    machines: tuple[str, ...]
    sample_anatomy: Callable[[np.random.Generator, float, str], Hashable]
    draw: Callable[..., Drawing]
    same_side: bool = False

    @cached_property
    def bank(self) -> SignBank:
        """The bank whose signs this modality draws."""
        return load_bank(f"{self.name}_phantoms")

    @property
    def seen(self) -> list[str]:
        """Categories of pretraining."""
        return [category for category in self.bank.categories if category not in self.kept_out]

    @property
    def seen_signs(self) -> list[Sign]:
        """Signs of the categories of pretraining."""
        return [sign for sign in self.bank.signs if set(sign.categories) & set(self.seen)]

    def sample_patient(
        self,
        rng: np.random.Generator,
        patient_id: str,
        effects: Collection[str] = ATTRIBUTES,
        machine: str | None = None,
    ) -> Patient:
        """A new person. The record is the same whichever effects are on; only the looks differ.

        Args:
            rng: the source of chance.
            patient_id: the person's name.
            effects: which of ATTRIBUTES leave their trace in the image.
            machine: one of `machines` or `sites` that renders whatever the person's site; it becomes the site.

        Raises:
            DataError: an unknown attribute or machine.
        """
        if isinstance(effects, str):
            raise DataError(f"effects: give a list, such as [{effects!r}]")
        if unknown := set(effects) - set(ATTRIBUTES):
            raise DataError(f"effects: unknown attribute {sorted(unknown)[0]!r}; there are {', '.join(ATTRIBUTES)}")
        if machine is not None and machine not in (*self.machines, *self.sites):
            there = ", ".join((*self.machines, *self.sites))
            raise DataError(f"machine: the {self.name} phantom has no {machine!r}; there are {there}")
        age, sex, site = int(rng.integers(20, 90)), str(rng.choice(["F", "M"])), str(rng.choice(self.sites))
        shown_age, shown_sex = age if "age" in effects else NEUTRAL_AGE, sex if "sex" in effects else NEUTRAL_SEX
        anatomy = self.sample_anatomy(rng, shown_age, shown_sex)
        scanner = machine or (site if "site" in effects else self.sites[0])
        return Patient(patient_id, age, sex, machine or site, scanner, anatomy, self.name)

    def sample_categories(
        self, rng: np.random.Generator, allowed: Sequence[str] | None = None, normal: float = 0.25
    ) -> list[str]:
        """None with probability `normal`, else one to three categories that go together."""
        allowed = list(self.bank.categories if allowed is None else allowed)
        if rng.random() < normal or not allowed:
            return []
        chosen = [str(rng.choice(allowed))]
        for _ in range(int(rng.choice([0, 1, 2], p=[0.40, 0.40, 0.20]))):
            rest = [c for c in allowed if c not in chosen]
            if not rest:
                break
            weight = np.array([np.prod([self._affinity(c, d) for d in chosen]) for c in rest])
            chosen.append(str(rng.choice(rest, p=weight / weight.sum())))
        return chosen

    def _affinity(self, a: str, b: str) -> float:
        return self.affinity.get((a, b), self.affinity.get((b, a), 1.0))

    def sample_signs(self, rng: np.random.Generator, categories: Sequence[str]) -> list[str]:
        """Two or more compatible signs for each category, mostly two; rarely one, where others exclude the rest."""
        chosen: list[str] = []
        for category in categories:
            own = [sign.id for sign in self.bank.signs if category in sign.categories]
            wanted = min(len(own), int(rng.choice([2, 3, 4], p=[0.55, 0.35, 0.10])))
            have = sum(sign in chosen for sign in own)
            for sign in rng.permutation(own):
                if have >= wanted:
                    break
                if sign not in chosen and not self._excluded(str(sign), chosen):
                    chosen.append(str(sign))
                    have += 1
        return chosen

    def _excluded(self, sign: str, chosen: Sequence[str]) -> bool:
        return any(sign in group and group & set(chosen) for group in self.exclusive)
