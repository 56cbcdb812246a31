"""The colour fundus photograph as a modality: which signs go together, and how one image is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .canvas import Canvas
from .fundus_anatomy import MACHINES, SITES, Anatomy, compose, draw_disc, draw_field, draw_ground, draw_vessels, expose
from .fundus_signs import DISC_SIGNS, GROUND_SIGNS, TOP_SIGNS, VESSEL_SIGNS, Painting
from .modality import Drawing, Modality, Patient, reshaped

VISIBLE = 0.04


def draw(
    rng: np.random.Generator,
    patient: Patient,
    signs: Sequence[str],
    sides: Sequence[str],
    strength: np.ndarray,
    size: int,
) -> Drawing:
    """See `Modality.draw`."""
    shapes = {**DISC_SIGNS, **VESSEL_SIGNS}

    def anatomy_without(left_out: str | None) -> Anatomy:
        return reshaped(patient.anatomy, shapes, signs, sides, strength, left_out)

    def changed(before: np.ndarray, after: np.ndarray, seen: np.ndarray) -> np.ndarray:
        difference = after - before
        difference *= seen
        return np.abs(difference, out=difference).max(axis=0) > VISIBLE

    def paint(kind: dict, painting: Painting) -> Iterator[tuple[str, np.ndarray]]:
        for sign in kind:  # in the order of the layers
            if sign in signs:
                i, before = list(signs).index(sign), painting.picture
                kind[sign](painting, sides[i], strength[i], rng)
                yield sign, before

    site, canvas, anatomy = (
        (SITES | MACHINES)[patient.scanner],
        Canvas(rng, size, pose=1.4, warp=0.0),
        anatomy_without(None),
    )
    field, masks = draw_field(size, site, rng), {}
    disc, vessels = draw_disc(canvas, anatomy), draw_vessels(canvas, anatomy)
    window, share, colour = disc
    reach = compose(np.ones_like(vessels), (window, share, np.zeros_like(colour)), vessels) * field  # of the ground
    painting = Painting(canvas, anatomy, draw_ground(canvas, anatomy, rng))
    for sign, before in paint(GROUND_SIGNS, painting):
        masks[sign] = changed(before, painting.picture, reach)
    ground = painting.picture
    painting.picture = picture = compose(ground, disc, vessels)
    for sign in signs:
        if sign in DISC_SIGNS:
            masks[sign] = changed(compose(ground, draw_disc(canvas, anatomy_without(sign)), vessels), picture, field)
        elif sign in VESSEL_SIGNS:
            masks[sign] = changed(compose(ground, disc, draw_vessels(canvas, anatomy_without(sign))), picture, field)
    for sign, before in paint(TOP_SIGNS, painting):
        masks[sign] = changed(before, painting.picture, field)
    return expose(painting.picture, field, anatomy.lens, site, rng), masks


SPOTS = frozenset(
    {
        "microaneurysms",
        "blot_bleeds",
        "hard_exudates",
        "cotton_wool",
        "flame_bleeds",
        "macular_star",
        "disc_splinter",
        "soft_drusen",
        "hard_drusen",
        "pale_atrophy",
        "macular_blood",
        "bone_spicules",
        "sector_blood",
    }
)

FUNDUS = Modality(
    name="fundus",
    kept_out=("Retinal vein occlusion", "Papilledema"),
    affinity={
        ("Diabetic retinopathy", "Hypertensive retinopathy"): 3.0,
        ("Hypertensive retinopathy", "Retinal vein occlusion"): 3.0,
        ("Diabetic retinopathy", "Retinal vein occlusion"): 1.5,
        ("Glaucoma", "Retinal vein occlusion"): 2.0,
        ("Glaucoma", "Pathological myopia"): 2.0,
        ("Macular degeneration", "Pathological myopia"): 1.5,
        ("Hypertensive retinopathy", "Papilledema"): 2.0,
        ("Glaucoma", "Papilledema"): 0.3,
        ("Pathological myopia", "Papilledema"): 0.4,
    },
    exclusive=(
        frozenset({"large_cup", "rim_notch", "swollen_disc", "waxy_disc"}),
        frozenset({"large_cup", "rim_notch", "blurred_disc"}),
        frozenset({"tilted_disc", "swollen_disc"}),
        frozenset({"tilted_disc", "blurred_disc"}),
        frozenset({"waxy_disc", "blurred_disc"}),
        frozenset({"disc_crescent", "swollen_disc"}),
        frozenset({"disc_crescent", "blurred_disc"}),
        frozenset({"disc_crescent", "disc_folds"}),
        frozenset({"new_vessels", "rim_notch"}),
        frozenset({"new_vessels", "disc_splinter"}),
        frozenset({"disc_splinter", "swollen_disc"}),
        frozenset({"pale_atrophy", "macular_blood", "soft_drusen", "macular_star"}),
        frozenset({"hard_drusen", "macular_star"}),
        frozenset({"tessellated", "dark_periphery"}),
        frozenset({"nerve_wedge", "dark_periphery"}),
        frozenset({"nerve_wedge", "sector_blood"}),
        frozenset({"flame_bleeds", "sector_blood"}),
        frozenset({"nicking", "twisted_veins"}),
    ),
    normal_unless={
        "clear_retina": SPOTS,
        "sharp_disc": frozenset({*DISC_SIGNS, "disc_crescent", "disc_splinter", "new_vessels"}),
        "even_macula": frozenset({"macular_star", "soft_drusen", "hard_drusen", "pale_atrophy", "macular_blood"}),
        "regular_vessels": frozenset({*VESSEL_SIGNS, "new_vessels", "sector_blood"}),
    },
    sides=("upper", "lower"),
    sites=tuple(SITES),
    machines=tuple(MACHINES),
    sample_anatomy=Anatomy.sample,
    draw=draw,
)
