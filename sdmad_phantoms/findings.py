"""A language of findings: composed marks that no category names, drawn anywhere, and sentences that say them.

A finding is a shape (a line, a ring, haze), how it looks (bright, thin, blurred, many) and where it lies (along the
chest wall, around the ventricles). Tens of thousands of compositions teach the embedded CLIP what the words mean, so
that a sign that it never saw can be understood from its words. What the kept-out categories show is left out:
`held_out` says which compositions, `second_hold_out` leaves out another tenth by name, for measuring.
All our choice; caricatures for teaching and research.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from . import brain_anatomy, chest_anatomy, fundus_anatomy
from .canvas import Canvas, smooth_noise, soft
from .fundus_signs import Painting
from .modality import Patient

ATTRIBUTES = ("shape", "tone", "place", "side", "size", "edge", "thick", "number", "course")
VISIBLE = 0.04


@dataclass(frozen=True)
class Finding:
    """One composed finding; an attribute that does not apply is empty."""

    shape: str
    tone: str = ""
    place: str = ""
    side: str = ""
    size: str = ""
    edge: str = ""
    thick: str = ""
    number: str = ""
    course: str = ""

    def says(self) -> dict[str, str]:
        """The attributes that apply."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True)
class Shape:
    """What a shape leaves open: which attributes it has, and how it is drawn."""

    draw: Callable[[Terrain, Finding, np.random.Generator], np.ndarray]
    size: bool = False
    edge: bool = False
    thick: bool = False
    number: tuple[str, ...] = ()
    course: tuple[str, ...] = ()


@dataclass
class Place:
    """inside: share (H, W) where a finding may lie. level: distance (H, W) from the structure that names it."""

    inside: np.ndarray
    level: np.ndarray | None = None


@dataclass
class Terrain:
    """What a scene offers to findings. across: signed coordinate (H, W), negative on the first side of the modality."""

    canvas: Canvas
    places: Mapping[str, Place]
    across: np.ndarray
    centre: tuple[np.ndarray, np.ndarray]  # (H, W) offsets from where wedges point
    sides: tuple[str, str]

    def region(self, f: Finding) -> np.ndarray:
        """Share (H, W) of the place on the finding's side."""
        inside = self.places[f.place].inside
        if f.side:
            inside = inside * soft(self.across * (1 if f.side == self.sides[1] else -1), 0.02)
        return inside

    def points(self, region: np.ndarray, count: int, gap: float, rng: np.random.Generator) -> np.ndarray:
        """Up to `count` points (P, 2) well inside a region, no two nearer than `gap`."""
        pixels, chosen = np.flatnonzero(region > 0.7), []
        if not len(pixels):
            pixels = np.flatnonzero(region >= region.max() - 1e-9)
        tries = pixels[rng.integers(len(pixels), size=8 * count)]
        for x, y in zip(self.canvas.x.ravel()[tries], self.canvas.y.ravel()[tries], strict=True):
            if len(chosen) < count and all((x - a) ** 2 + (y - b) ** 2 >= gap**2 for a, b in chosen):
                chosen.append((x, y))
        return np.array(chosen)


# --- shapes: (terrain, finding, rng) -> share (H, W), not yet cut to the region

COUNTS = {"single": (1, 1), "few": (3, 5), "many": (8, 14)}
ANGLES = {"horizontal": (-0.15, 0.15), "vertical": (1.42, 1.72), "oblique": (0.6, 0.95)}


def _size(f: Finding, small: float, large: float, rng: np.random.Generator) -> float:
    middle = {"small": small, "large": large}.get(f.size, (small + large) / 2)
    return middle * rng.uniform(0.9, 1.15)


def _edge(f: Finding) -> float:
    return {"sharp": 0.012, "blurred": 0.09}.get(f.edge, 0.025)


def _many(f: Finding, rng: np.random.Generator) -> int:
    low, high = COUNTS.get(f.number, (1, 1))
    return int(rng.integers(low, high + 1))


def _angle(f: Finding, rng: np.random.Generator) -> float:
    low, high = ANGLES.get(f.course, (0.0, np.pi))
    return rng.uniform(low, high) * (rng.choice([-1, 1]) if f.course == "oblique" else 1)


def _ellipses(t: Terrain, f: Finding, rng, long: float) -> np.ndarray:
    layer, count = np.zeros_like(t.canvas.x), _many(f, rng)
    few = 1.0 if count == 1 else (0.75 if count < 6 else 0.55)
    for cx, cy in t.points(t.region(f), count, 0.14 * few, rng):
        r = _size(f, 0.055, 0.15, rng) * few
        layer = np.maximum(layer, t.canvas.ellipse(cx, cy, r * long, r / np.sqrt(long), _angle(f, rng), _edge(f)))
    return layer


def _rings(t: Terrain, f: Finding, rng) -> np.ndarray:
    layer, count = np.zeros_like(t.canvas.x), _many(f, rng)
    few = 1.0 if count == 1 else (0.8 if count < 6 else 0.6)
    for cx, cy in t.points(t.region(f), count, 0.2 * few, rng):
        r = _size(f, 0.075, 0.17, rng) * few
        layer = np.maximum(layer, t.canvas.ring(cx, cy, r, {"thin": 0.02, "thick": 0.055}.get(f.thick, 0.035)))
    return layer


def _dots(t: Terrain, f: Finding, rng) -> np.ndarray:
    count = int(rng.integers(14, 30))
    points = t.points(t.region(f), count, 0.045, rng)
    return t.canvas.dots(points, rng.uniform(0.014, 0.022, len(points)) * (1.4 if f.size == "large" else 1.0), 0.01)


def _cluster(t: Terrain, f: Finding, rng) -> np.ndarray:
    middle = t.points(t.region(f), 1, 0, rng)[0]
    points = middle + rng.normal(0, 0.055, (12, 2))
    return t.canvas.dots(points, rng.uniform(0.018, 0.03, 12), 0.01)


def _along(t: Terrain, f: Finding) -> np.ndarray:
    level = t.places[f.place].level
    assert level is not None
    return level


def _lines(t: Terrain, f: Finding, rng) -> np.ndarray:
    width = {"thin": 0.016, "thick": 0.05}.get(f.thick, 0.03)
    if f.course == "along":  # a level line of the distance from the structure
        return soft(width / 2 + 0.004 - np.abs(_along(t, f) - rng.uniform(0.03, 0.09)), 0.008)
    paths, region = [], t.region(f)
    for cx, cy in t.points(region, _many(f, rng), 0.12, rng):
        angle, half = _angle(f, rng), _size(f, 0.11, 0.28, rng) / 2
        step = half * np.array([np.cos(angle), np.sin(angle)])
        middle = np.array([cx, cy])
        paths.append(np.array([middle - step, middle + rng.normal(0, 0.01, 2), middle + step]))
    return t.canvas.lines(paths, [width] * len(paths), blur=0.4)


def _band(t: Terrain, f: Finding, rng) -> np.ndarray:
    """A straight band across the whole region."""
    (cx, cy), angle = t.points(t.region(f), 1, 0, rng)[0], _angle(f, rng)
    off = np.abs((t.canvas.y - cy) * np.cos(angle) - (t.canvas.x - cx) * np.sin(angle))
    return soft({"thin": 0.028, "thick": 0.075}.get(f.thick, 0.05) - off, max(0.012, _edge(f) / 2))


def _crescent(t: Terrain, f: Finding, rng) -> np.ndarray:
    """Lies along the structure, thickest in its middle."""
    cx, cy = t.points(t.region(f) * (_along(t, f) < 0.08), 1, 0, rng)[0]
    reach = _size(f, 0.30, 0.55, rng)
    far = np.hypot(t.canvas.x - cx, t.canvas.y - cy) / reach
    thick = {"thin": 0.05, "thick": 0.12}.get(f.thick, 0.08) * np.clip(1 - far**2, -0.2, None)
    return soft(thick - _along(t, f), 0.012)


def _wedge(t: Terrain, f: Finding, rng) -> np.ndarray:
    """A triangle whose tip points to the centre (inwards) or away from it (outwards)."""
    cx, cy = t.points(t.region(f), 1, 0, rng)[0]
    dx, dy = t.centre
    at = np.argmin((t.canvas.x - cx) ** 2 + (t.canvas.y - cy) ** 2)
    away = np.array([dx.ravel()[at], dy.ravel()[at]])
    away = away / (np.hypot(*away) + 1e-6) * (1 if f.course == "inwards" else -1)
    length = _size(f, 0.22, 0.42, rng)
    along = (t.canvas.x - cx) * away[0] + (t.canvas.y - cy) * away[1] + length / 2
    aside = np.abs((t.canvas.y - cy) * away[0] - (t.canvas.x - cx) * away[1])
    return soft(np.minimum(0.55 * along - aside, length - along), _edge(f))


def _net(t: Terrain, f: Finding, rng) -> np.ndarray:
    pitch, width = (0.075, 0.014) if f.thick == "thin" else (0.11, 0.028)
    turn, wave = rng.uniform(0, np.pi), 0.02 * smooth_noise(rng, t.canvas.size, 8)
    layer = np.zeros_like(t.canvas.x)
    for angle in (turn, turn + np.pi / 2):
        level = (t.canvas.x * np.cos(angle) + t.canvas.y * np.sin(angle) + wave) / pitch
        layer = np.maximum(layer, soft(width / 2 - np.abs(level - np.floor(level) - 0.5) * pitch, 0.008))
    return layer


def _stripes(t: Terrain, f: Finding, rng) -> np.ndarray:
    """Parallel short lines."""
    paths, angle = [], _angle(f, rng)
    step = rng.uniform(0.05, 0.07) * np.array([np.cos(angle), np.sin(angle)])
    points = t.points(t.region(f), 10, 0.075, rng)
    paths = [np.array([p - step, p + step]) for p in points]
    return t.canvas.lines(paths, [0.02 if f.thick == "thin" else 0.032] * len(paths), blur=0.35)


def _rays(t: Terrain, f: Finding, rng) -> np.ndarray:
    """A star of lines from one point."""
    (cx, cy), count = t.points(t.region(f), 1, 0, rng)[0], int(rng.integers(8, 12))
    inner, outer = 0.03, _size(f, 0.12, 0.24, rng)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.08, count)
    paths = [np.array([cx, cy]) + np.outer([inner, outer], [np.cos(a), np.sin(a)]) for a in angle]
    return t.canvas.lines(paths, [0.02] * count, blur=0.3)


def _haze(t: Terrain, f: Finding, rng) -> np.ndarray:
    cx, cy = t.points(t.region(f), 1, 0, rng)[0]
    r = _size(f, 0.16, 0.32, rng)
    return 0.7 * t.canvas.ellipse(cx, cy, r, r * rng.uniform(0.7, 1), rng.uniform(0, 3), 0.13)


def _patch(t: Terrain, f: Finding, rng) -> np.ndarray:
    """An irregular patch."""
    cx, cy = t.points(t.region(f), 1, 0, rng)[0]
    rough = 0.05 * smooth_noise(rng, t.canvas.size, 12)
    return soft(_size(f, 0.10, 0.22, rng) - np.hypot(t.canvas.x - cx, t.canvas.y - cy) + rough, _edge(f))


def _target(t: Terrain, f: Finding, rng) -> np.ndarray:
    """Discs that get a rim of the other tone; the rim comes as negative shares."""
    layer = np.zeros_like(t.canvas.x)
    for cx, cy in t.points(t.region(f), _many(f, rng), 0.24, rng):
        r = _size(f, 0.05, 0.10, rng)
        disc, rim = t.canvas.ellipse(cx, cy, r, r, 0.0, 0.01), t.canvas.ring(cx, cy, r + 0.022, 0.044, 0.008)
        layer = np.where(rim > disc, -rim, np.maximum(disc, layer))
    return layer


def _filled(t: Terrain, f: Finding, rng) -> np.ndarray:
    """The whole place has another tone."""
    return 0.85 * (1 + 0.1 * smooth_noise(rng, t.canvas.size, 10))


SHAPES: dict[str, Shape] = {
    "spot": Shape(lambda t, f, rng: _ellipses(t, f, rng, 1.0), size=True, edge=True, number=("single", "few", "many")),
    "oval": Shape(
        lambda t, f, rng: _ellipses(t, f, rng, 1.9),
        size=True,
        number=("single", "few", "many"),
        course=("horizontal", "vertical", "oblique"),
    ),
    "ring": Shape(_rings, size=True, thick=True, number=("single", "few", "many")),
    "dots": Shape(_dots, size=True),
    "cluster": Shape(_cluster),
    "line": Shape(
        _lines,
        size=True,
        thick=True,
        number=("single", "few", "many"),
        course=("horizontal", "vertical", "oblique", "along"),
    ),
    "band": Shape(_band, thick=True, edge=True, course=("horizontal", "vertical", "oblique")),
    "crescent": Shape(_crescent, size=True, thick=True),
    "wedge": Shape(_wedge, size=True, edge=True, course=("inwards", "outwards")),
    "net": Shape(_net, thick=True),
    "stripes": Shape(_stripes, thick=True, course=("horizontal", "vertical", "oblique")),
    "rays": Shape(_rays, size=True),
    "haze": Shape(_haze, size=True),
    "patch": Shape(_patch, size=True, edge=True),
    "target": Shape(_target, size=True, number=("single", "few")),
    "filled": Shape(_filled),
}


# --- terrains: what each modality offers


def chest_terrain(scene: chest_anatomy.Scene) -> Terrain:
    """Zones of the lungs, and what runs along wall, diaphragm and heart."""
    canvas, a = scene.canvas, scene.anatomy
    x, y, t = canvas.x, canvas.y, np.abs(canvas.x)
    lungs = np.clip(3 * scene.lungs, 0, 1)
    wall = a.wall(y) - t
    floor = np.where(x < 0, a.diaphragm("right", t), a.diaphragm("left", t)) - y
    cx, cy, rx, ry = a.heart
    heart = (np.hypot((x - cx - a.shift) / rx, (y - cy) / ry) - 1) * min(rx, ry)

    def zone(low: float, high: float) -> np.ndarray:
        return lungs * soft(y - low, 0.04) * soft(high - y, 0.04)

    places = {
        "apex": Place(zone(-1.0, -0.52)),
        "upper zone": Place(zone(-0.75, -0.22)),
        "middle zone": Place(zone(-0.25, 0.12)),
        "lower zone": Place(zone(0.10, 0.80)),
        "whole lung": Place(lungs),
        "hilum": Place(lungs * soft(0.24 - np.hypot(t - 0.30, y + 0.02), 0.04)),
        "periphery": Place(lungs * soft(0.20 - wall, 0.03), np.maximum(wall, 0)),
        "diaphragm": Place(lungs * soft(0.20 - floor, 0.03), np.maximum(floor, 0)),
        "heart border": Place(lungs * soft(0.17 - heart, 0.03), np.maximum(heart, 0)),
        "heart": Place(soft(-heart - 0.02, 0.02)),
    }
    return Terrain(canvas, places, x, (x - np.sign(x) * 0.2, y + 0.02), ("right", "left"))


def brain_terrain(scene: brain_anatomy.Scene) -> Terrain:
    """Lobes, and what runs along skull, cortex and ventricles."""
    canvas, x, y = scene.canvas, scene.canvas.x, scene.canvas.y
    brain = soft(scene.cortex, 0.010) * soft(-scene.ventricle, 0.010)
    white = soft(scene.cortex - brain_anatomy.CORTEX, 0.012) * soft(-scene.ventricle, 0.010)
    t = np.abs(x)
    deep = soft(0.38 - t, 0.03) * soft(0.22 - np.abs(y), 0.03)
    inside = soft(scene.frame.depth, 0.01)
    places = {
        "frontal lobe": Place(brain * soft(-0.32 - y, 0.05)),
        "occipital lobe": Place(brain * soft(y - 0.40, 0.05)),
        "temporal lobe": Place(brain * soft(t - 0.36, 0.04) * soft(0.30 - np.abs(y), 0.05)),
        "white matter": Place(white * (1 - deep)),
        "deep nuclei": Place(brain * deep),
        "midline": Place(brain * soft(0.13 - t, 0.03)),
        "whole hemisphere": Place(brain),
        "cortex": Place(brain * soft(0.075 - scene.cortex, 0.015), np.maximum(scene.cortex, 0)),
        "ventricle wall": Place(brain * soft(0.13 + scene.ventricle, 0.02), np.maximum(-scene.ventricle, 0)),
        "skull": Place(inside * soft(0.20 - scene.frame.depth, 0.02), np.maximum(scene.frame.depth, 0)),
        "ventricle": Place(soft(scene.ventricle, 0.01)),
    }
    return Terrain(canvas, places, x, (x, y), ("right", "left"))


def fundus_terrain(p: Painting, field: np.ndarray) -> Terrain:
    """Macula, disc, arcades and periphery."""
    u, v = p.anatomy.from_disc(p.canvas)
    mu, mv = p.from_fovea()
    disc, fovea = np.hypot(u, v) - p.anatomy.radius, np.hypot(mu, mv)
    out = np.hypot(p.canvas.x, p.canvas.y)
    seen = soft(field - 0.5, 0.2)
    off = seen * soft(disc, 0.01)
    arcade = np.abs(np.hypot((mu + 0.15) / 1.1, mv) - 0.55)
    places = {
        "macula": Place(off * soft(0.30 - fovea, 0.03), fovea),
        "fovea": Place(off * soft(0.12 - fovea, 0.02)),
        "optic disc": Place(seen * soft(-disc, 0.01)),
        "disc margin": Place(off * soft(0.16 - disc, 0.02), np.maximum(disc, 0)),
        "arcades": Place(off * soft(0.12 - arcade, 0.03)),
        "nasal retina": Place(off * soft(-u - 0.16, 0.03)),
        "temporal retina": Place(off * soft(u - 1.05, 0.05)),
        "periphery": Place(off * soft(out - 0.62, 0.04)),
        "whole retina": Place(off),
    }
    return Terrain(p.canvas, places, v, (u, v), ("lower", "upper"))


# --- structures that are larger, smaller, brighter than usual: name -> change -> anatomy

Change = Callable[[object, str, float], object]
STRUCTURES: dict[str, dict[tuple[str, str], Change]] = {
    "chest": {
        ("heart", "larger"): lambda a, side, s: replace(
            a, heart=(a.heart[0] + 0.02, a.heart[1], a.heart[2] + 0.09 + 0.08 * s, a.heart[3] + 0.06)
        ),
        ("heart", "smaller"): lambda a, side, s: replace(
            a, heart=(a.heart[0] - 0.03, a.heart[1], a.heart[2] - 0.09 - 0.04 * s, a.heart[3] - 0.02)
        ),
        ("heart", "bulging"): lambda a, side, s: (
            replace(a, left_bulge=0.2 + 0.05 * s) if side == "left" else replace(a, right_bulge=0.18 + 0.06 * s)
        ),
        ("lungs", "darker"): lambda a, side, s: replace(a, lung_grey=a.lung_grey - 0.09 - 0.04 * s),
        ("lungs", "brighter"): lambda a, side, s: replace(a, lung_grey=a.lung_grey + 0.11 + 0.05 * s),
        ("lungs", "narrower"): lambda a, side, s: replace(a, lung_width=a.lung_width - 0.10 - 0.04 * s),
        ("diaphragm", "lower"): lambda a, side, s: replace(a, dome=(a.dome[0] + 0.16, a.dome[1] + 0.16 + 0.04 * s)),
        ("aortic knob", "larger"): lambda a, side, s: replace(a, knob=a.knob + 0.06 + 0.03 * s),
        ("aorta", "wider"): lambda a, side, s: replace(a, aorta=a.aorta + 0.06 + 0.03 * s),
        ("vessels", "brighter"): lambda a, side, s: replace(a, vessels=a.vessels + 0.7 + 0.3 * s),
        ("vessels", "fainter"): lambda a, side, s: replace(a, vessels=0.25 - 0.2 * s),
        ("breasts", "brighter"): lambda a, side, s: replace(a, breast=0.14 + 0.04 * s),
    },
    "brain": {
        ("ventricles", "larger"): lambda a, side, s: replace(
            a, ventricles=(a.ventricles[0] + 0.05 + 0.03 * s, a.ventricles[1] + 0.05 + 0.03 * s)
        ),
        ("ventricles", "smaller"): lambda a, side, s: replace(a, ventricles=(0.014 - 0.005 * s, 0.014 - 0.005 * s)),
        ("ventricle of one side", "larger"): lambda a, side, s: replace(
            a,
            ventricles=(
                a.ventricles[0] + (0.06 + 0.03 * s) * (side == "right"),
                a.ventricles[1] + (0.06 + 0.03 * s) * (side == "left"),
            ),
        ),
        ("ventricle of one side", "smaller"): lambda a, side, s: replace(
            a, ventricles=(0.010, a.ventricles[1]) if side == "right" else (a.ventricles[0], 0.010)
        ),
        ("third ventricle", "larger"): lambda a, side, s: replace(a, round_third=0.075 + 0.03 * s),
        ("sulci", "wider"): lambda a, side, s: replace(a, sulci=a.sulci + 0.017 + 0.007 * s),
        ("sulci", "narrower"): lambda a, side, s: replace(a, sulci=-0.02, sylvian=-0.01, gap=0.004),
        ("Sylvian fissure", "wider"): lambda a, side, s: replace(a, sylvian=a.sylvian + 0.042 + 0.02 * s),
        ("frontal gap", "wider"): lambda a, side, s: replace(a, gap=a.gap + 0.038 + 0.02 * s),
        ("white matter", "brighter"): lambda a, side, s: replace(a, white=a.white + 0.09 + 0.03 * s),
        ("white matter", "darker"): lambda a, side, s: replace(a, white=a.white - 0.09 - 0.03 * s),
        ("grey matter", "brighter"): lambda a, side, s: replace(a, grey=a.grey + 0.12 + 0.04 * s),
        ("hemisphere", "swollen"): lambda a, side, s: replace(a, swollen=(0.9, 0.0) if side == "right" else (0.0, 0.9)),
    },
    "fundus": {
        ("optic cup", "larger"): lambda a, side, s: replace(a, cup=0.70 + 0.1 * s),
        ("optic disc", "smaller"): lambda a, side, s: replace(a, radius=(0.72 - 0.06 * s) * a.radius),
        ("optic disc", "paler"): lambda a, side, s: replace(a, waxy=0.85 + 0.15 * s),
        ("optic disc", "narrower"): lambda a, side, s: replace(a, aspect=0.56 - 0.06 * s, tilt=0.5),
        ("arteries", "thinner"): lambda a, side, s: replace(a, artery=(0.42 - 0.08 * s) * a.artery),
        ("arteries", "thicker"): lambda a, side, s: replace(a, artery=(1.6 + 0.2 * s) * a.artery),
        ("veins", "thinner"): lambda a, side, s: replace(a, vein=(0.45 - 0.08 * s) * a.vein),
        ("veins", "thicker"): lambda a, side, s: replace(a, vein=(1.5 + 0.2 * s) * a.vein),
        ("retina", "darker"): lambda a, side, s: replace(a, pigment=min(1.1, a.pigment + 0.45)),
        ("retina", "paler"): lambda a, side, s: replace(a, pigment=a.pigment - 0.45),
        ("macula", "darker"): lambda a, side, s: replace(a, macula=a.macula + 0.20 + 0.06 * s),
        ("macula", "paler"): lambda a, side, s: replace(a, macula=0.08),
    },
}
SIDED = {("heart", "bulging"), ("ventricle of one side", "larger"), ("ventricle of one side", "smaller")} | {
    ("hemisphere", "swollen")
}
TONES = {
    "chest": {"bright": 0.68, "dark": 0.06},
    "brain": {"bright": 0.90, "dark": 0.07},
    "fundus": {
        "yellow": (1.0, 0.88, 0.38),
        "white": (0.98, 0.95, 0.86),
        "red": (0.50, 0.03, 0.04),
        "black": (0.08, 0.06, 0.06),
        "grey": (0.40, 0.32, 0.30),
    },
}


# --- what is held out


def held_out(modality: str, f: Finding) -> bool:
    """Whether this composition is one that a sign of a kept-out category shows, in any reading of its words."""
    if modality == "chest":
        low = f.place in ("lower zone", "diaphragm", "whole lung")
        return (
            (f.place == "periphery" and (f.shape in ("line", "crescent", "band") or f.tone == "dark"))
            or (f.tone == "bright" and low and f.shape in ("line", "band") and f.course == "horizontal")
            or (f.tone == "bright" and f.shape == "wedge" and f.course == "inwards")
            or (f.tone == "bright" and low and f.shape in ("net", "ring"))
            or (f.tone == "bright" and f.place == "heart border" and f.shape in ("rays", "stripes", "net"))
        )
    if modality == "brain":
        return (
            (f.tone == "bright" and f.place in ("ventricle wall", "ventricle") and f.shape in ("spot", "oval"))
            or (f.tone == "bright" and f.place == "cortex" and f.shape in ("spot", "patch", "oval", "crescent"))
            or (f.tone == "dark" and f.shape == "target")
            or (f.place == "skull" and f.shape in ("crescent", "band"))
        )
    return (
        (f.tone == "red" and f.shape in ("stripes", "line") and f.place in ("whole retina", "arcades", "periphery"))
        or (f.place == "disc margin" and f.shape in ("ring", "line", "haze", "net"))
        or (f.place == "optic disc" and f.shape in ("haze", "filled"))
    )


def second_hold_out(modality: str, f: Finding) -> bool:
    """A tenth of the pairs of shape, tone and place, by name: never drawn in pretraining, for measuring."""
    return zlib.crc32(f"{modality} {f.shape} {f.tone} {f.place}".encode()) % 10 == 0


def for_measuring(modality: str, f: Finding) -> bool:
    """Whether a finding may measure words: of the second hold-out, no structure, nothing like a kept-out category."""
    return second_hold_out(modality, f) and not held_out(modality, f) and f.shape != "structure"


# --- sampling and drawing

ALONG = {
    "chest": ("periphery", "diaphragm", "heart border"),
    "brain": ("cortex", "ventricle wall", "skull"),
    "fundus": ("macula", "disc margin"),
}
PLACES = {
    "chest": ("apex", "upper zone", "middle zone", "lower zone", "whole lung", "hilum", "periphery", "diaphragm",
              "heart border", "heart"),
    "brain": ("frontal lobe", "occipital lobe", "temporal lobe", "white matter", "deep nuclei", "midline",
              "whole hemisphere", "cortex", "ventricle wall", "skull", "ventricle"),
    "fundus": ("macula", "fovea", "optic disc", "disc margin", "arcades", "nasal retina", "temporal retina",
               "periphery", "whole retina"),
}  # fmt: skip
NARROW = {"heart", "midline", "ventricle", "cortex", "fovea", "optic disc"}


def sample_finding(modality: str, rng: np.random.Generator, sides: Sequence[str], wanted=None) -> Finding:
    """A composition at random; `wanted` says which may be drawn (those of pretraining when left out)."""
    wanted = wanted or (lambda f: not held_out(modality, f) and not second_hold_out(modality, f))
    while True:
        if rng.random() < 0.12:
            place, change = list(STRUCTURES[modality])[rng.integers(len(STRUCTURES[modality]))]
            side = str(rng.choice(sides)) if (place, change) in SIDED else ""
            f = Finding("structure", tone=change, place=place, side=side)
        else:
            name = str(rng.choice(list(SHAPES)))
            shape, place = SHAPES[name], str(rng.choice(PLACES[modality]))
            course = str(rng.choice(shape.course)) if shape.course else ""
            if name == "line" and place in ALONG[modality] and rng.random() < 0.6:
                course = "along"
            if (course == "along" or name == "crescent") and place not in ALONG[modality]:
                continue
            if place in NARROW and name in ("haze", "band", "net", "wedge", "crescent"):
                continue
            if name == "filled" and place in ("midline",):
                continue
            number = str(rng.choice(shape.number)) if shape.number else ""
            if course == "along":
                number = ""
            f = Finding(
                name,
                tone=str(rng.choice(list(TONES[modality]))),
                place=place,
                side=str(rng.choice(sides)) if rng.random() < 0.75 else "",
                size=str(rng.choice(["small", "large"])) if shape.size and course != "along" else "",
                edge=str(rng.choice(["sharp", "blurred"])) if shape.edge else "",
                thick=str(rng.choice(["thin", "thick"])) if shape.thick else "",
                number=number,
                course=course,
            )
        if wanted(f):
            return f


def lay(t: Terrain, f: Finding, rng: np.random.Generator) -> np.ndarray:
    """Signed share (H, W) that the finding covers: positive in its own tone, negative in the other one."""
    share = SHAPES[f.shape].draw(t, f, rng)
    return np.clip(share, -1, 1) * t.region(f)


def other(modality: str, tone: str) -> str:
    """The tone of the rim of a target."""
    return {"bright": "dark", "dark": "bright", "yellow": "red", "red": "yellow", "white": "black"}.get(tone, "white")


def draw_findings(
    modality: str, patient: Patient, findings: Sequence[Finding], rng: np.random.Generator, size: int = 128
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image, (H, W) or (H, W, 3) uint8, and where (H, W) bool each finding changed it."""
    return {"chest": _on_chest, "brain": _on_brain, "fundus": _on_fundus}[modality](patient, findings, rng, size)


def _structures(modality: str, anatomy, findings: Sequence[Finding], left_out: Finding | None = None):
    for f in findings:
        if f.shape == "structure" and f is not left_out:
            anatomy = STRUCTURES[modality][f.place, f.tone](anatomy, f.side, 0.5)
    return anatomy


def _on_chest(patient, findings, rng, size):
    whole = _structures("chest", patient.anatomy, findings)
    renderer = chest_anatomy.Renderer(Canvas(rng, size), whole, rng)
    scene, masks = renderer.scene(whole), {}
    for i, f in enumerate(findings):
        if f.shape == "structure":
            before = renderer.scene(_structures("chest", patient.anatomy, findings, f)).image
            if f.place in ("vessels", "breasts", "lungs"):
                before = (
                    chest_anatomy.Renderer(
                        renderer.canvas, _structures("chest", patient.anatomy, findings, f), np.random.default_rng(0)
                    )
                    .scene(_structures("chest", patient.anatomy, findings, f))
                    .image
                )
            masks[i] = renderer.change(before, scene.image)
    t = chest_terrain(scene)
    for i, f in enumerate(findings):
        if f.shape != "structure":
            before, share = scene.image, lay(t, f, rng)
            scene.cover(share, TONES["chest"][f.tone])
            scene.cover(-share, TONES["chest"][other("chest", f.tone)])
            masks[i] = renderer.change(before, scene.image)
    image = chest_anatomy.expose(renderer.finished(scene), scene, chest_anatomy.SITES[patient.scanner], rng)
    return image, [masks[i] for i in range(len(findings))]


def _on_brain(patient, findings, rng, size):
    base = brain_anatomy.frame(Canvas(rng, size, warp=0.012), patient.anatomy, (rng.uniform(), rng.uniform()))
    scene, masks = brain_anatomy.render(base, _structures("brain", patient.anatomy, findings)), {}
    for i, f in enumerate(findings):
        if f.shape == "structure":
            before = brain_anatomy.render(base, _structures("brain", patient.anatomy, findings, f)).image
            masks[i] = np.abs(scene.image - before) > VISIBLE
    t = brain_terrain(scene)
    for i, f in enumerate(findings):
        if f.shape != "structure":
            before, share = scene.image.copy(), lay(t, f, rng)
            scene.cover(share.clip(0, 1), TONES["brain"][f.tone])
            scene.cover((-share).clip(0, 1), TONES["brain"][other("brain", f.tone)])
            masks[i] = np.abs(scene.image - before) > VISIBLE
    image = brain_anatomy.expose(scene.image, brain_anatomy.SITES[patient.scanner], rng)
    return image, [masks[i] for i in range(len(findings))]


GROUND = {"filled", "haze", "patch", "wedge", "net", "band"}  # painted beneath the vessels


def _on_fundus(patient, findings, rng, size):
    F = fundus_anatomy
    anatomy = _structures("fundus", patient.anatomy, findings)
    site, canvas = F.SITES[patient.scanner], Canvas(rng, size, pose=1.4, warp=0.0)
    field, masks = F.draw_field(size, site, rng), {}
    disc, vessels = F.draw_disc(canvas, anatomy), F.draw_vessels(canvas, anatomy)
    seed = int(rng.integers(2**31))
    p = Painting(canvas, anatomy, F.draw_ground(canvas, anatomy, np.random.default_rng(seed)))
    t = fundus_terrain(p, field)

    def lay_on(i: int, f: Finding, seen: np.ndarray) -> None:
        before, share = p.picture, lay(t, f, rng)
        p.cover(share.clip(0, 1), TONES["fundus"][f.tone])
        if f.shape == "target":
            p.cover((-share).clip(0, 1), TONES["fundus"][other("fundus", f.tone)])
        masks[i] = (np.abs(p.picture - before) * seen).max(0) > VISIBLE

    under = [f.shape in GROUND and f.place != "optic disc" for f in findings]
    for i, f in enumerate(findings):
        if under[i]:
            lay_on(i, f, field)
    ground = p.picture
    p.picture = F.compose(ground, disc, vessels)
    for i, f in enumerate(findings):
        if f.shape == "structure":
            bare = _structures("fundus", patient.anatomy, findings, f)
            plain = (
                F.draw_ground(canvas, bare, np.random.default_rng(seed)) if f.place in ("retina", "macula") else ground
            )
            before = F.compose(plain, F.draw_disc(canvas, bare), F.draw_vessels(canvas, bare))
            masks[i] = (np.abs(p.picture - before) * field).max(0) > VISIBLE
    for i, f in enumerate(findings):
        if f.shape != "structure" and not under[i]:
            lay_on(i, f, field)
    return F.expose(p.picture, field, anatomy.lens, site, rng), [masks[i] for i in range(len(findings))]


# --- sentences

WORDS = json.loads((Path(__file__).parent / "finding_words.json").read_text())
PLURAL = {"spot", "oval", "ring", "line", "target"}


def sentence(modality: str, said: Mapping[str, str], rng: np.random.Generator) -> str:
    """One way to say some attributes of a finding: `said` is what `Finding.says` gives, or a part of it."""

    def word(attribute: str) -> str:
        value = said.get(attribute)
        return str(rng.choice(WORDS[attribute][value])) if value else ""

    side = word("side")
    if said.get("shape") == "structure":
        change, what = (
            str(rng.choice(WORDS["change"][said["tone"]])),
            str(rng.choice(WORDS["structure"][said["place"]])),
        )
        text = (
            f"{change} {what}"
            if rng.random() < 0.65
            else f"{what} {rng.choice(['is', 'are', 'looks', 'appear'])} {change}"
        )
        return f"{text} {side}".strip()
    number = said.get("number", "")
    shape = word("shape") or str(rng.choice(["finding", "abnormality", "change", "mark", "lesion"]))
    if number in ("few", "many") and said.get("shape") in PLURAL:
        head, _, rest = shape.partition(" with ")
        head = head if head.endswith("s") else f"{head}s"
        shape = f"{head} with {rest}" if rest else head
    front = [word("size"), word("edge"), word("thick"), word("tone")]
    course, place = word("course"), ""
    if said.get("place"):
        place = str(rng.choice(WORDS["place"][modality][said["place"]]))
    back = [place, side]
    if course and said["course"] in ("horizontal", "vertical", "oblique") and rng.random() < 0.7:
        front.append(course)
        course = ""
    if rng.random() < 0.3:
        rng.shuffle(front)
    if course:
        back.insert(int(rng.integers(0, 2)), course)
    if rng.random() < 0.25:
        back.reverse()
    count = word("number") if number and rng.random() < 0.8 else ""
    if number == "single" and count in ("a", "an") and rng.random() < 0.6:
        count = ""
    lead = " ".join(filter(None, [count, *front, shape]))
    tail = " ".join(filter(None, back))
    if tail and rng.random() < 0.12:
        return f"{tail}: {lead}"
    return " ".join(filter(None, [lead, tail]))


def part(said: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """Some of the attributes, mostly with the shape or the tone, so that something is told."""
    if said.get("shape") == "structure":
        return dict(said)
    keep = {"shape": 0.92, "tone": 0.8, "place": 0.75, "side": 0.3, "size": 0.35, "edge": 0.4, "thick": 0.5,
            "number": 0.5, "course": 0.6}  # fmt: skip
    chosen = {k: v for k, v in said.items() if rng.random() < keep[k]}
    return chosen or dict(said)


def altered(modality: str, said: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The same with one attribute changed: what a careful reader would not confuse."""
    if said.get("shape") == "structure":
        others = [key for key in STRUCTURES[modality] if key != (said["place"], said["tone"])]
        place, change = others[rng.integers(len(others))]
        return {"shape": "structure", "place": place, "tone": change}
    name = str(rng.choice([k for k in said if k != "side"] or list(said)))
    values = {
        "shape": list(SHAPES), "tone": list(TONES[modality]), "place": list(PLACES[modality]),
        "size": ["small", "large"], "edge": ["sharp", "blurred"], "thick": ["thin", "thick"],
        "number": ["single", "few", "many"],
        "course": ["horizontal", "vertical", "oblique"], "side": list(said.values()),
    }[name]  # fmt: skip
    new = [v for v in values if v != said[name]]
    return {**said, name: str(rng.choice(new))} if new else dict(said)


INSIDE = {  # place -> places that hold it, so that both are true
    "chest": {p: ("whole lung",) for p in ("apex", "upper zone", "middle zone", "lower zone", "hilum", "periphery",
                                           "diaphragm", "heart border")} | {"apex": ("whole lung", "upper zone")},
    "brain": {p: ("whole hemisphere",) for p in ("frontal lobe", "occipital lobe", "temporal lobe", "white matter",
                                                 "deep nuclei", "midline", "cortex", "ventricle wall")},
    "fundus": {p: ("whole retina",) for p in ("macula", "disc margin", "arcades", "nasal retina",
                                              "temporal retina", "periphery")} | {"fovea": ("whole retina", "macula")},
}  # fmt: skip


def true_of(modality: str, said: Mapping[str, str], f: Finding) -> bool:
    """Whether all that is said holds for a finding."""
    own = f.says()
    for name, value in said.items():
        if name == "place" and value in INSIDE[modality].get(f.place, ()):
            continue
        if own.get(name) != value:
            return False
    return True
