"""The chest radiograph as a modality: which signs go together, and how one image is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .canvas import Canvas
from .chest_anatomy import MACHINES, SITES, Anatomy, Renderer, expose
from .chest_signs import OVERLAY_SIGNS, SHAPE_SIGNS
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
    whole = anatomy()
    renderer = Renderer(Canvas(rng, size), whole, rng)
    scene = renderer.scene(whole)
    masks = {}
    for sign in shapes:
        without = renderer.scene(anatomy(left_out=sign))
        masks[sign] = renderer.change(without.image, scene.image)
    for i, sign in enumerate(signs):
        if sign in OVERLAY_SIGNS:
            before = scene.image
            OVERLAY_SIGNS[sign](scene, sides[i], strength[i], rng)
            masks[sign] = renderer.change(before, scene.image)
    return expose(renderer.finished(scene), scene, (SITES | MACHINES)[patient.scanner], rng), masks


CHEST = Modality(
    name="chest",
    kept_out=("Pneumothorax", "Atelectasis", "Fibrosis"),
    affinity={
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
    },
    exclusive=(
        frozenset({"flat_diaphragm", "raised_dome", "small_lungs", "hidden_diaphragm"}),
        frozenset({"wide_heart", "narrow_heart"}),
        frozenset({"left_bulge", "narrow_heart"}),
        frozenset({"right_bulge", "narrow_heart"}),
        frozenset({"blunted_angle", "meniscus", "deep_sulcus"}),
        frozenset({"nodule", "many_nodules"}),
        frozenset({"lost_heart_border", "shaggy_heart"}),
    ),
    normal_unless={
        "clear_lungs": frozenset(OVERLAY_SIGNS),
        "sharp_angles": frozenset({"blunted_angle", "meniscus", "hidden_diaphragm", "deep_sulcus"}),
        "normal_heart": frozenset(
            {
                "wide_heart",
                "left_bulge",
                "right_bulge",
                "narrow_heart",
                "lost_heart_border",
                "shaggy_heart",
                "shift",
            }
        ),
        "smooth_domes": frozenset({"flat_diaphragm", "raised_dome", "small_lungs", "hidden_diaphragm", "meniscus"}),
        "normal_vessels": frozenset({"upper_vessels", "bare_periphery", "bulla", "dark_lungs", "reticular", "batwing"}),
    },
    sides=("right", "left"),
    sites=tuple(SITES),
    machines=tuple(MACHINES),
    sample_anatomy=Anatomy.sample,
    draw=draw,
)
