"""The radiological signs that can be drawn on a chest phantom.

Two kinds: some change the anatomy (`SHAPE_SIGNS`: a wider heart, a flatter diaphragm), the others are
laid over it (`OVERLAY_SIGNS`: an opacity, a line). Either way the mask of a sign is where the image
differs with and without it. The shapes follow textbook descriptions in caricature; all our choice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .canvas import smooth_noise, soft
from .chest_anatomy import SIDES, Anatomy, Scene

# --- signs that change the anatomy: (anatomy, side, strength in [0, 1]) -> anatomy


def _pair(values: tuple[float, float], side: str, change: float) -> tuple[float, float]:
    return (values[0] + change, values[1]) if side == "right" else (values[0], values[1] + change)


def _wide_heart(a: Anatomy, side: str, s: float) -> Anatomy:
    cx, cy, rx, ry = a.heart
    return replace(a, heart=(cx + 0.02, cy + 0.02, rx + 0.10 + 0.09 * s, ry + 0.05 + 0.05 * s))


def _narrow_heart(a: Anatomy, side: str, s: float) -> Anatomy:
    cx, cy, rx, ry = a.heart
    return replace(a, heart=(cx - 0.04, cy + 0.01, rx - 0.10 - 0.04 * s, ry + 0.04))


def _flat_diaphragm(a: Anatomy, side: str, s: float) -> Anatomy:
    low = 0.16 + 0.06 * s
    return replace(a, dome=(a.dome[0] + low, a.dome[1] + low), sulcus=(a.sulcus[0] + 0.02, a.sulcus[1] + 0.02))


def _deep_sulcus(a: Anatomy, side: str, s: float) -> Anatomy:
    return replace(a, sulcus=_pair(a.sulcus, side, 0.22 + 0.1 * s))


def _raised_dome(a: Anatomy, side: str, s: float) -> Anatomy:
    return replace(a, dome=_pair(a.dome, side, -0.17 - 0.1 * s), sulcus=_pair(a.sulcus, side, -0.06))


def _small_lungs(a: Anatomy, side: str, s: float) -> Anatomy:
    up = 0.13 + 0.08 * s
    return replace(a, dome=(a.dome[0] - up, a.dome[1] - up), sulcus=(a.sulcus[0] - up, a.sulcus[1] - up))


SHAPE_SIGNS = {
    "wide_heart": _wide_heart,
    "left_bulge": lambda a, side, s: replace(a, left_bulge=0.20 + 0.05 * s),
    "right_bulge": lambda a, side, s: replace(a, right_bulge=0.18 + 0.06 * s),
    "narrow_heart": _narrow_heart,
    "flat_diaphragm": _flat_diaphragm,
    "dark_lungs": lambda a, side, s: replace(a, lung_grey=a.lung_grey - 0.09 - 0.04 * s),
    "deep_sulcus": _deep_sulcus,
    "raised_dome": _raised_dome,
    "small_lungs": _small_lungs,
    # away from the named side, as air under tension pushes
    "shift": lambda a, side, s: replace(a, shift=a.shift - SIDES[side] * (0.13 + 0.07 * s)),
}


# --- signs laid over the anatomy: (scene, side, strength, rng) changes the scene


def _inside(scene: Scene, side: str, rng: np.random.Generator, low: float, high: float, margin: float = 0.12):
    """A random point of the lung between two heights."""
    y = rng.uniform(low, high)
    wall = float(scene.anatomy.wall(y))
    inner = 0.22 if y < 0 else (0.42 if side == "left" else 0.28)
    return SIDES[side] * rng.uniform(inner, max(inner + 0.02, wall - margin)), y


def _to_the_edge(lung: np.ndarray) -> np.ndarray:
    """The lung with its soft border filled in, so that fluid meets the wall without a dark outline."""
    return np.clip(4 * lung, 0, 1)


def _meniscus_level(scene: Scene, side: str, top: float) -> np.ndarray:
    t = SIDES[side] * scene.canvas.x
    return scene.canvas.y - (top + 0.30 * np.clip(scene.anatomy.lung_width - t, 0, None) ** 0.8)


def _blunted_angle(scene, side, s, rng):
    a = scene.anatomy
    corner = a.sulcus[0 if side == "right" else 1]
    x, y = SIDES[side] * scene.canvas.x, scene.canvas.y
    reach = soft((x - a.lung_width) + 0.9 * (y - corner) + 0.24 + 0.08 * s, 0.015)
    scene.cover(0.95 * reach * _to_the_edge(scene.lung[side]), 0.63)


def _meniscus(scene, side, s, rng):
    level = soft(_meniscus_level(scene, side, 0.20 - 0.25 * s), 0.02)
    scene.cover(0.95 * level * _to_the_edge(scene.lung[side]), 0.66)


def _hidden_diaphragm(scene, side, s, rng):
    x, y = scene.canvas.x, scene.canvas.y
    t = SIDES[side] * x
    edge = scene.anatomy.diaphragm(side, t)
    haze = np.exp(-(((y - edge + 0.05) / (0.10 + 0.04 * s)) ** 2)) * soft(t - 0.12, 0.04)
    scene.cover(0.9 * haze * soft(scene.anatomy.lung_width - t, 0.02) * soft(edge - y + 0.1, 0.03), 0.60)


def _fissure(scene, side, s, rng):
    height = 0.02 + rng.uniform(-0.05, 0.05)
    tilt = rng.uniform(-0.05, 0.05)
    t = -scene.canvas.x  # the horizontal fissure is in the right lung
    line = soft(0.017 + 0.012 * s - np.abs(scene.canvas.y - height - tilt * t), 0.007) * soft(t - 0.22, 0.03)
    scene.cover(0.9 * line * scene.lung["right"], 0.66)


def _upper_vessels(scene, side, s, rng):
    paths, widths = [], []
    for sign in (-1, 1):
        for angle in np.linspace(-1.35, -0.55, 4) + rng.normal(0, 0.06, 4):
            steps = np.linspace(0, 1, 5)[:, None]
            direction = np.array([sign * np.cos(angle), np.sin(angle)])
            start = np.array([sign * 0.20 + scene.anatomy.shift, -0.06])
            path = start + steps * rng.uniform(0.42, 0.55) * direction
            for part, width in ((path[:3], 0.055), (path[2:], 0.035)):
                paths.append(part)
                widths.append(width)
    scene.cover((0.55 + 0.25 * s) * scene.canvas.lines(paths, widths, blur=0.7) * scene.lungs, 0.58)


def _batwing(scene, side, s, rng):
    haze = sum(scene.canvas.ellipse(g * 0.34, 0.0, 0.26, 0.36, angle=-g * 0.35, width=0.10) for g in (-1, 1))
    patchy = 1 + 0.25 * smooth_noise(rng, scene.canvas.size, 10)
    scene.cover((0.45 + 0.25 * s) * haze * patchy * scene.lungs, 0.62)


def _septal_lines(scene, side, s, rng):
    paths = []
    for sign in (-1, 1):
        for height in np.linspace(0.12, 0.52, 7) + rng.normal(0, 0.012, 7):
            outer = scene.anatomy.lung_width - 0.01
            paths.append(np.array([[sign * outer, height], [sign * (outer - rng.uniform(0.12, 0.18)), height - 0.01]]))
    layer = scene.canvas.lines(paths, [0.020] * len(paths), blur=0.35)
    scene.cover((0.8 + 0.2 * s) * layer * scene.lungs, 0.68)


def _lobe(scene, side, s, rng):
    cx, cy = _inside(scene, side, rng, -0.45, 0.30, margin=0.2)
    return scene.canvas.ellipse(cx, cy, 0.20 + 0.06 * s, 0.19 + 0.06 * s, rng.uniform(-0.6, 0.6), 0.035), (cx, cy)


def _lobar_opacity(scene, side, s, rng):
    patch, _ = _lobe(scene, side, s, rng)
    rough = 1 + 0.18 * smooth_noise(rng, scene.canvas.size, 14)
    scene.cover((0.75 + 0.15 * s) * patch * rough * _to_the_edge(scene.lung[side]), 0.64)


def _air_bronchogram(scene, side, s, rng):
    patch, (cx, cy) = _lobe(scene, side, s, rng)
    scene.cover(0.85 * patch * scene.lung[side], 0.64)
    outward = np.array([SIDES[side], rng.uniform(-0.4, 0.4)])
    start = np.array([cx, cy]) - 0.18 * outward
    paths = [np.array([start, start + 0.34 * outward])]
    for turn in (-0.6, -0.3, 0.35, 0.65):
        fork = start + rng.uniform(0.06, 0.16) * outward
        paths.append(np.array([fork, fork + 0.18 * (outward + np.array([0, 1.6 * turn]))]))
    scene.cover(0.85 * scene.canvas.lines(paths, [0.034] * 5, blur=0.35) * patch * scene.lung[side], 0.16)


def _lost_heart_border(scene, side, s, rng):
    cx, cy, rx, _ = scene.anatomy.heart
    edge = cx + scene.anatomy.shift + SIDES[side] * (rx - (0.06 if side == "right" else -0.02))
    haze = scene.canvas.ellipse(edge + SIDES[side] * 0.05, cy + 0.04, 0.15 + 0.04 * s, 0.26, width=0.05)
    scene.cover(0.9 * haze * _to_the_edge(scene.lung[side]), 0.68)


def _nodule(scene, side, s, rng):
    cx, cy = _inside(scene, side, rng, -0.5, 0.3)
    scene.cover(0.9 * scene.canvas.ellipse(cx, cy, *[0.075 + 0.035 * s] * 2, width=0.012) * scene.lungs, 0.64)


def _many_nodules(scene, side, s, rng):
    count = rng.integers(9, 15)
    points = np.array([_inside(scene, rng.choice(list(SIDES)), rng, -0.6, 0.42, 0.05) for _ in range(count)])
    scene.cover(0.85 * scene.canvas.dots(points, rng.uniform(0.030, 0.045, count)) * scene.lungs, 0.60)


def _calcified(scene, side, s, rng):
    count = rng.integers(4, 7)
    points = np.array([_inside(scene, side, rng, -0.6, 0.2) for _ in range(count)])
    scene.cover(scene.canvas.dots(points, rng.uniform(0.028, 0.038, count), width=0.006) * scene.lungs, 1.0)


def _cavity(scene, side, s, rng):
    cx, cy = _inside(scene, side, rng, -0.5, 0.1, margin=0.2)
    radius = 0.12 + 0.04 * s
    scene.cover(0.9 * scene.canvas.ellipse(cx, cy, radius * 0.9, radius * 0.9) * scene.lungs, 0.12)
    scene.cover(0.9 * scene.canvas.ring(cx, cy, radius, 0.06) * scene.lungs, 0.66)


def _bulla(scene, side, s, rng):
    cx, cy = _inside(scene, side, rng, -0.55, 0.1, margin=0.22)
    radius = 0.18 + 0.05 * s
    scene.cover(0.95 * scene.canvas.ellipse(cx, cy, radius, radius) * scene.lungs, 0.06)
    scene.cover(0.7 * scene.canvas.ring(cx, cy, radius, 0.018, 0.008) * scene.lungs, 0.50)


def _rim(scene, side, depth):
    """Distance of each pixel inside the outer lung edge, as a region of the given depth."""
    y = scene.canvas.y
    return SIDES[side] * scene.canvas.x - (scene.anatomy.wall(y) - depth * (1.15 - 0.5 * (y + 0.5)))


def _pleural_line(scene, side, s, rng):
    rim = _rim(scene, side, 0.16 + 0.07 * s)
    line = soft(0.014 - np.abs(rim), 0.006) * soft(0.35 - scene.canvas.y, 0.05)
    scene.cover(0.9 * line * scene.lung[side], 0.70)


def _bare_periphery(scene, side, s, rng):
    rim = soft(_rim(scene, side, 0.16 + 0.07 * s), 0.012) * soft(0.5 - scene.canvas.y, 0.05)
    scene.cover(0.92 * rim * scene.lung[side], 0.06)


def _band(scene, side, s, rng):
    cy = rng.uniform(0.08, 0.26)
    t, tilt = SIDES[side] * scene.canvas.x, rng.uniform(-0.25, 0.25)
    near = 0.40 if side == "left" else 0.26
    line = soft(0.028 + 0.014 * s - np.abs(scene.canvas.y - cy - tilt * (t - 0.5)), 0.010)
    scene.cover(0.85 * line * soft(t - near, 0.03) * soft(near + 0.36 - t, 0.03) * scene.lung[side], 0.66)


def _wedge(scene, side, s, rng):
    t, y = SIDES[side] * scene.canvas.x, scene.canvas.y
    slope, middle = 0.38 + 0.12 * s, rng.uniform(-0.45, 0.05)
    along = np.clip(t - 0.14, 0, None)
    wedge = soft(slope * along - np.abs(y + 0.05 - middle * along), 0.018) * soft(t - 0.16, 0.02)
    scene.cover(0.85 * wedge * _to_the_edge(scene.lung[side]), 0.64)


def _reticular(scene, side, s, rng):
    paths = []
    for sign in (-1, 1):
        for lean in (-1, 1):
            for offset in np.arange(-0.1, 1.0, 0.075) + rng.normal(0, 0.012, 15):
                across = np.linspace(0.26, 0.80, 8)
                wiggle = rng.normal(0, 0.012, 8)
                paths.append(np.stack([sign * across, offset + lean * 0.8 * (across - 0.53) + wiggle], 1))
    layer = scene.canvas.lines(paths, [0.013] * len(paths), blur=0.35)
    zone = soft(scene.canvas.y - 0.06, 0.06)
    scene.cover((0.75 + 0.25 * s) * layer * zone * scene.lungs, 0.58)


def _honeycomb(scene, side, s, rng):
    lung, t, y = scene.lung[side], SIDES[side] * scene.canvas.x, scene.canvas.y
    layer = np.zeros_like(t)
    for row, cy in enumerate((0.22, 0.32, 0.42, 0.52)):
        for cx in np.arange(0.46, 0.76, 0.105) + 0.05 * (row % 2):
            wall = scene.canvas.ring(
                SIDES[side] * cx + rng.normal(0, 0.006), cy + rng.normal(0, 0.006), 0.040, 0.022, 0.006
            )
            layer = np.maximum(layer, wall)
    zone = soft(t - 0.40, 0.03) * soft(y - 0.14, 0.03)
    scene.cover(0.35 * zone * lung, 0.12)
    scene.cover((0.70 + 0.25 * s) * layer * lung, 0.60)


def _shaggy_heart(scene, side, s, rng):
    cx, cy, rx, ry = scene.anatomy.heart
    paths = []
    for angle in np.concatenate([np.linspace(-0.9, 0.9, 13), np.pi + np.linspace(-0.8, 0.8, 11)]) + rng.normal(
        0, 0.04, 24
    ):
        direction = np.array([np.cos(angle), np.sin(angle)])
        start = np.array([cx + scene.anatomy.shift, cy]) + direction * [rx * 0.9, ry * 0.9]
        paths.append(np.array([start, start + direction * rng.uniform(0.08, 0.17)]))
    scene.cover((0.8 + 0.2 * s) * scene.canvas.lines(paths, [0.028] * len(paths), blur=0.4) * scene.lungs, 0.64)


OVERLAY_SIGNS = {
    "blunted_angle": _blunted_angle,
    "meniscus": _meniscus,
    "hidden_diaphragm": _hidden_diaphragm,
    "fissure": _fissure,
    "upper_vessels": _upper_vessels,
    "batwing": _batwing,
    "septal_lines": _septal_lines,
    "lobar_opacity": _lobar_opacity,
    "air_bronchogram": _air_bronchogram,
    "lost_heart_border": _lost_heart_border,
    "nodule": _nodule,
    "many_nodules": _many_nodules,
    "calcified": _calcified,
    "cavity": _cavity,
    "bulla": _bulla,
    "pleural_line": _pleural_line,
    "bare_periphery": _bare_periphery,
    "band": _band,
    "wedge": _wedge,
    "reticular": _reticular,
    "honeycomb": _honeycomb,
    "shaggy_heart": _shaggy_heart,
}
