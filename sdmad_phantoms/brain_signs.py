"""The radiological signs that can be drawn on a brain phantom.

Two kinds: some change the anatomy (`SHAPE_SIGNS`: wider ventricles, tighter sulci), the others are laid
over it (`OVERLAY_SIGNS`: a lesion), in the order of the table, so that none buries a smaller one. The mask
of a sign is where the image differs with and without it. The shapes follow textbook descriptions in
caricature; all our choice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .brain_anatomy import CORTEX, FLUID, NUCLEI, SIDES, Anatomy, Scene
from .canvas import smooth_noise, soft

# --- signs that change the anatomy: (anatomy, side, strength in [0, 1]) -> anatomy


def _large_ventricles(a: Anatomy, side: str, s: float) -> Anatomy:
    more = 0.052 + 0.03 * s
    return replace(a, ventricles=(a.ventricles[0] + more, a.ventricles[1] + more))


def _pressed_ventricle(a: Anatomy, side: str, s: float) -> Anatomy:
    right, left = a.ventricles
    flat = 0.010 - 0.004 * s
    return replace(a, ventricles=(flat, left) if side == "right" else (right, flat))


def _swollen_gyri(a: Anatomy, side: str, s: float) -> Anatomy:
    change = 0.8 + 0.2 * s
    return replace(a, swollen=(change, 0.0) if side == "right" else (0.0, change))


SHAPE_SIGNS = {
    "large_ventricles": _large_ventricles,
    "pressed_ventricle": _pressed_ventricle,
    # away from the named side, as a mass there pushes
    "midline_shift": lambda a, side, s: replace(a, shift=-SIDES[side] * (0.11 + 0.06 * s)),
    "round_third": lambda a, side, s: replace(a, round_third=0.075 + 0.03 * s),
    "tight_sulci": lambda a, side, s: replace(a, sulci=-0.02, sylvian=-0.01, gap=0.004),
    "wide_sulci": lambda a, side, s: replace(a, sulci=a.sulci + 0.017 + 0.007 * s),
    "swollen_gyri": _swollen_gyri,
    "wide_sylvian": lambda a, side, s: replace(a, sylvian=a.sylvian + 0.042 + 0.02 * s),
    "frontal_gap": lambda a, side, s: replace(a, gap=a.gap + 0.038 + 0.02 * s),
}


# --- signs laid over the anatomy: (scene, side, strength, rng) changes the scene


def _brain(scene: Scene) -> np.ndarray:
    """Share (H, W) of each pixel that is brain: not skull, sulcus or ventricle."""
    return soft(scene.cortex, 0.010) * soft(-scene.ventricle, 0.010)


def _white(scene: Scene) -> np.ndarray:
    """Share (H, W) of each pixel that is white matter or deep nucleus."""
    return soft(scene.cortex - CORTEX, 0.012) * soft(-scene.ventricle, 0.010)


def _nuclear(scene: Scene) -> np.ndarray:
    """The region (H, W) of the deep nuclei, which lesions of the white matter spare."""
    return (np.abs(scene.canvas.x) < 0.38) & (np.abs(scene.canvas.y) < 0.22)


def _range(scene: Scene, cx: float, cy: float, rough: np.ndarray | float = 0.0) -> np.ndarray:
    """Distance (H, W) from a point, made irregular by noise."""
    return np.sqrt((scene.canvas.x - cx) ** 2 + (scene.canvas.y - cy) ** 2) + rough


def _blob(scene: Scene, cx, cy, rx, ry, grey, angle=0.0, width=0.012, share=1.0) -> None:
    """Lay a filled ellipse over the scene, within a small window; `angle` turns its long side."""
    reach = 1.1 * max(rx, ry) + width
    window = scene.canvas.window(cx - reach, cy - reach, cx + reach, cy + reach)
    dx, dy = scene.canvas.x[window] - cx, scene.canvas.y[window] - cy
    c, s = np.cos(angle), np.sin(angle)
    inside = 1 - np.sqrt(((c * dx + s * dy) / rx) ** 2 + ((c * dy - s * dx) / ry) ** 2)
    scene.cover(share * soft(inside * min(rx, ry), width), grey, window)


def _spots(
    scene: Scene, where: np.ndarray, rng: np.random.Generator, count: int, gap: float
) -> list[tuple[float, float]]:
    """Up to `count` points of a (H, W) bool region, no two nearer than `gap`."""
    pixels, chosen = np.flatnonzero(where), []
    tries = pixels[rng.integers(len(pixels), size=8 * count)] if len(pixels) else pixels
    for x, y in zip(scene.canvas.x.ravel()[tries].tolist(), scene.canvas.y.ravel()[tries].tolist(), strict=True):
        if len(chosen) < count and all((x - a) ** 2 + (y - b) ** 2 >= gap**2 for a, b in chosen):
            chosen.append((x, y))
    return chosen


def _untouched(scene: Scene, cortex: float, ventricle: float) -> np.ndarray:
    """Where the brain still looks healthy, at least so far from the cortex' surface and the ventricles."""
    a = scene.anatomy
    healthy = (scene.image > a.white - 0.08) & (scene.image < a.grey + 0.06)
    return healthy & (scene.cortex > cortex) & (scene.ventricle < -ventricle)


def _mass_place(scene: Scene, side: str) -> tuple[float, float]:
    """Where a mass within the brain sits: frontal or parietal, the same for all signs of the image."""
    chance = scene.frame.chance[0]
    return scene.place(side, 0.55 + 0.5 * chance if chance < 0.5 else 1.65 + 0.9 * chance, 0.62)


def _dura_place(scene: Scene, side: str) -> tuple[float, float]:
    """Where the dura is touched: the same for all signs of the image."""
    chance = scene.frame.chance[1]
    return scene.place(side, 0.55 + 0.9 * chance if chance < 0.5 else 1.6 + 0.9 * chance, 0.96)


def _finger_edema(scene, side, s, rng):
    distance = _range(scene, *_mass_place(scene, side), 0.06 * smooth_noise(rng, scene.canvas.size, 12))
    x, y = SIDES[side] * scene.canvas.x, np.abs(scene.canvas.y)
    outside_nuclei = soft(np.maximum(x - 0.38, y - 0.20), 0.05) * soft(x - 0.06, 0.03)
    scene.cover(0.9 * soft(0.40 + 0.08 * s - distance, 0.03) * _white(scene) * outside_nuclei, 0.80)


def _necrotic_mass(scene, side, s, rng):
    rough = 0.032 * smooth_noise(rng, scene.canvas.size, 15)
    distance, radius = _range(scene, *_mass_place(scene, side), rough), 0.20 + 0.05 * s
    inside = soft(scene.frame.depth - 0.01, 0.012)
    scene.cover(soft(radius - distance, 0.014) * inside, 0.90)
    scene.cover(soft(radius - 0.08 - distance - 0.4 * rough, 0.014) * inside, 0.15)


def _butterfly(scene, side, s, rng):
    x, y = np.abs(scene.canvas.x), scene.canvas.y + 0.022 * smooth_noise(rng, scene.canvas.size, 13)
    wing = 1 - np.sqrt(((x - 0.23 - 0.02 * s) / (0.17 + 0.03 * s)) ** 2 + ((y + 0.47 + 0.35 * (x - 0.2)) / 0.13) ** 2)
    bridge = 1 - np.sqrt((x / 0.18) ** 2 + ((y + 0.39) / 0.065) ** 2)
    brain = soft(scene.frame.depth - 0.02, 0.012) * soft(-scene.ventricle, 0.010)
    scene.cover(0.95 * soft(np.maximum(0.14 * wing, 0.065 * bridge), 0.014) * brain, 0.82)


def _dural_mass(scene, side, s, rng):
    distance = _range(scene, *_dura_place(scene, side))
    scene.cover(soft(0.215 - distance, 0.010) * soft(scene.frame.depth, 0.010), 0.74)


def _fluid_cleft(scene, side, s, rng):
    """The cleft lies around the place of the mass; what it encloses is pushed flat to the grey of cortex."""
    distance, inside = _range(scene, *_dura_place(scene, side)), soft(scene.frame.depth, 0.010)
    scene.cover(soft(0.215 + 0.028 + 0.012 * s - distance, 0.010) * inside, 0.04)
    scene.cover(soft(0.215 - distance, 0.010) * inside, scene.anatomy.grey)


def _dural_tail(scene, side, s, rng):
    distance = _range(scene, *_dura_place(scene, side))
    thick = np.clip(0.034 * (1 - distance / (0.58 + 0.12 * s)), -0.02, 0.026)
    scene.cover(soft(thick - np.abs(scene.frame.depth - 0.012), 0.008), 0.98)


def _junction_nodules(scene, side, s, rng):
    near = np.abs(scene.cortex - CORTEX - 0.02) < 0.02
    where = near & (scene.frame.depth > 0.06) & (scene.frame.depth < 0.24) & _untouched(scene, 0.0, 0.06)
    for x, y in _spots(scene, where, rng, 4 + round(4 * s), 0.24):
        radius = rng.uniform(0.052, 0.070)
        _blob(scene, x, y, radius, radius, 0.92)


def _blood_dots(scene, side, s, rng):
    for x, y in _spots(scene, _untouched(scene, 0.05, 0.05), rng, 5 + round(4 * s), 0.13):
        radius = rng.uniform(0.030, 0.038)
        _blob(scene, x, y, radius, radius, 0.0, width=0.006)


def _cortical_wedge(scene, side, s, rng):
    angle = rng.uniform(0.9, 2.3)
    (cx, cy), (ex, ey) = (scene.place(side, angle, share) for share in (0.30, 1.0))
    ux, uy = np.array([ex - cx, ey - cy]) / np.hypot(ex - cx, ey - cy)
    dx, dy = scene.canvas.x - cx, scene.canvas.y - cy
    along, aside = dx * ux + dy * uy, np.abs(dx * uy - dy * ux) + 0.012 * smooth_noise(rng, scene.canvas.size, 9)
    share = soft((0.50 + 0.18 * s) * along - aside, 0.016) * soft(along - 0.05, 0.02)
    scene.cover(0.92 * share * _brain(scene), 0.82)


def _old_cavity(scene, side, s, rng):
    cx, cy = scene.place(side, rng.uniform(0.7, 2.4), 0.84)
    distance, radius = _range(scene, cx, cy, 0.028 * smooth_noise(rng, scene.canvas.size, 12)), 0.20 + 0.05 * s
    brain = soft(scene.frame.depth - 0.004, 0.008) * soft(-scene.ventricle, 0.010)
    scene.cover(0.9 * soft(radius + 0.045 - distance, 0.014) * brain * soft(scene.cortex, 0.01), 0.74)
    scene.cover(soft(radius - distance, 0.012) * brain, FLUID)


def _lacune(scene, side, s, rng):
    cx, cy, *_ = NUCLEI[rng.choice([1, 2])]
    x, y = SIDES[side] * (cx + rng.normal(0, 0.012)), cy + rng.normal(0, 0.03)
    radius = 0.042 + 0.014 * s
    _blob(scene, x, y, radius + 0.020, radius + 0.020, 0.68)
    _blob(scene, x, y, radius, radius, 0.05, width=0.008)


def _confluent_halo(scene, side, s, rng):
    edge = 0.09 + 0.05 * s + 0.03 * smooth_noise(rng, scene.canvas.size, 11)
    lateral = soft(np.abs(scene.canvas.x) - 0.06, 0.03) * soft(np.abs(scene.canvas.y - 0.10) - 0.07, 0.05)
    scene.cover(0.9 * soft(edge + scene.ventricle, 0.025) * _white(scene) * lateral, 0.82)


def _smooth_rim(scene, side, s, rng):
    rim = soft(0.024 + 0.012 * s + scene.ventricle, 0.010) * soft(-scene.ventricle, 0.008)
    scene.cover(rim * soft(np.abs(scene.canvas.x) - 0.05, 0.02), 0.88)


def _deep_dots(scene, side, s, rng):
    where = _untouched(scene, CORTEX + 0.03, 0.06) & ~_nuclear(scene)
    for x, y in _spots(scene, where, rng, 9 + round(7 * s), 0.09):
        radius = rng.uniform(0.025, 0.034)
        _blob(scene, x, y, radius, radius * rng.uniform(0.9, 1.2), 0.88, width=0.008)


def _upright_ovals(scene, side, s, rng):
    """Ovals that stand on the wall of a lateral ventricle, their long axis square to it."""
    wall = (np.abs(scene.ventricle + 0.075) < 0.012) & (scene.cortex > 0.10)
    where = wall & (np.abs(scene.canvas.x) > 0.10) & (np.abs(scene.canvas.y - 0.10) > 0.10)
    down, across = np.gradient(scene.ventricle)
    for x, y in _spots(scene, where, rng, 5 + round(3 * s), 0.16):
        row, column = np.unravel_index(np.argmin(_range(scene, x, y)), where.shape)
        angle = np.arctan2(down[row, column], across[row, column])
        _blob(scene, x, y, rng.uniform(0.085, 0.11), rng.uniform(0.032, 0.040), 0.92, angle, width=0.008)


def _cortex_plaques(scene, side, s, rng):
    where = (np.abs(scene.cortex - CORTEX) < 0.015) & (scene.frame.depth > 0.05) & _untouched(scene, 0.0, 0.1)
    for x, y in _spots(scene, where, rng, 5 + round(4 * s), 0.22):
        window = scene.canvas.window(x - 0.14, y - 0.14, x + 0.14, y + 0.14)
        distance = np.hypot(scene.canvas.x[window] - x, scene.canvas.y[window] - y)
        band = soft(0.026 - np.abs(scene.cortex[window] - CORTEX + 0.004), 0.010)
        scene.cover(soft(rng.uniform(0.08, 0.11) - distance, 0.015) * band, 0.92, window)


def _black_holes(scene, side, s, rng):
    for x, y in _spots(scene, _untouched(scene, CORTEX + 0.03, 0.08) & ~_nuclear(scene), rng, 3 + round(3 * s), 0.19):
        radius = rng.uniform(0.036, 0.046)
        _blob(scene, x, y, radius + 0.034, radius + 0.030, 0.86, width=0.008)
        _blob(scene, x, y, radius, radius * 0.9, 0.06, width=0.008)


def _crescent(scene, side, thick, centre):
    """Share (H, W) between the skull and a brain pushed inwards."""
    distance = _range(scene, *scene.place(side, centre, 1.0))
    deep = thick * np.clip(1 - (distance / 0.80) ** 2, -0.2, None)
    return soft(deep - scene.frame.depth, 0.012) * soft(scene.frame.depth + 0.004, 0.008)


def _bright_crescent(scene, side, s, rng):
    scene.cover(_crescent(scene, side, 0.14 + 0.05 * s, rng.uniform(1.2, 1.8)), 0.90)


def _layered_blood(scene, side, s, rng):
    """Heavier blood settles behind, at the bottom of the image; the fluid above it is dark."""
    share, level = _crescent(scene, side, 0.17 + 0.05 * s, rng.uniform(1.3, 1.7)), rng.uniform(-0.10, 0.12)
    low = soft(scene.canvas.y - level, 0.012)
    scene.cover(share * (1 - low), 0.20)
    scene.cover(share * low, 0.92)


OVERLAY_SIGNS = {
    "confluent_halo": _confluent_halo,
    "finger_edema": _finger_edema,
    "cortical_wedge": _cortical_wedge,
    "old_cavity": _old_cavity,
    "bright_crescent": _bright_crescent,
    "layered_blood": _layered_blood,
    "smooth_rim": _smooth_rim,
    "butterfly": _butterfly,
    "fluid_cleft": _fluid_cleft,
    "dural_mass": _dural_mass,
    "dural_tail": _dural_tail,
    "necrotic_mass": _necrotic_mass,
    "lacune": _lacune,
    "upright_ovals": _upright_ovals,
    "cortex_plaques": _cortex_plaques,
    "black_holes": _black_holes,
    "junction_nodules": _junction_nodules,
    "deep_dots": _deep_dots,
    "blood_dots": _blood_dots,
}
