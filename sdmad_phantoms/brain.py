"""The brain MRI slice as a modality: which signs go together, and how one image is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .brain_anatomy import MACHINES, SIDES, SITES, Anatomy, expose, frame, render
from .brain_signs import OVERLAY_SIGNS, SHAPE_SIGNS
from .canvas import Canvas
from .modality import Drawing, Modality, Patient, reshaped


def draw(
    rng: np.random.Generator,
    patient: Patient,
    signs: Sequence[str],
    sides: Sequence[str],
    strength: np.ndarray,
    size: int,
) -> Drawing:
    """See `Modality.draw`."""

    def anatomy(left_out: str | None = None) -> Anatomy:
        return reshaped(patient.anatomy, SHAPE_SIGNS, signs, sides, strength, left_out)

    shapes = [sign for sign in signs if sign in SHAPE_SIGNS]
    base = frame(Canvas(rng, size, warp=0.012), patient.anatomy, (rng.uniform(), rng.uniform()))
    scene = render(base, anatomy())
    masks = {}
    for sign in shapes:
        without = render(base, anatomy(left_out=sign))
        masks[sign] = np.abs(scene.image - without.image) > 0.04
    for sign, lay_over in OVERLAY_SIGNS.items():
        if sign in signs:
            i, before = signs.index(sign), scene.image.copy()
            lay_over(scene, sides[i], strength[i], rng)
            masks[sign] = np.abs(scene.image - before) > 0.04
    return expose(scene.image, (SITES | MACHINES)[patient.scanner], rng), masks


DURAL = frozenset({"dural_mass", "fluid_cleft", "dural_tail", "bright_crescent", "layered_blood"})
SULCAL = frozenset({"tight_sulci", "wide_sulci", "swollen_gyri", "wide_sylvian", "frontal_gap"})

BRAIN = Modality(
    name="brain",
    kept_out=("Multiple sclerosis", "Subdural haematoma"),
    affinity={
        ("Infarct", "Small vessel disease"): 4.0,
        ("Small vessel disease", "Brain atrophy"): 3.0,
        ("Infarct", "Brain atrophy"): 2.0,
        ("Brain atrophy", "Subdural haematoma"): 3.0,
        ("Multiple sclerosis", "Brain atrophy"): 2.0,
        ("Glioma", "Hydrocephalus"): 1.5,
        ("Metastases", "Hydrocephalus"): 2.0,
        ("Glioma", "Metastases"): 0.3,
        ("Glioma", "Multiple sclerosis"): 0.3,
        ("Hydrocephalus", "Brain atrophy"): 0.3,
    },
    exclusive=(
        frozenset({"large_ventricles", "pressed_ventricle"}),
        frozenset({"tight_sulci", "wide_sulci", "swollen_gyri"}),
        frozenset({"tight_sulci", "wide_sylvian"}),
        frozenset({"tight_sulci", "frontal_gap"}),
        frozenset({"swollen_gyri", "wide_sylvian"}),
        frozenset({"confluent_halo", "smooth_rim"}),
        frozenset({"confluent_halo", "upright_ovals"}),
        frozenset({"bright_crescent", "layered_blood"}),
        frozenset({"butterfly", "necrotic_mass"}),
    ),
    normal_unless={
        "even_white_matter": frozenset(OVERLAY_SIGNS) - DURAL,
        "slim_ventricles": frozenset(
            {"large_ventricles", "pressed_ventricle", "midline_shift", "round_third", "butterfly"}
        ),
        "straight_midline": frozenset({"midline_shift"}),
        "normal_sulci": SULCAL,
    },
    sides=tuple(SIDES),
    sites=tuple(SITES),
    machines=tuple(MACHINES),
    sample_anatomy=Anatomy.sample,
    draw=draw,
    same_side=True,
)
