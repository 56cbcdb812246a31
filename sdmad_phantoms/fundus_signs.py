"""The signs that can be drawn on a fundus phantom.

Four kinds, by where they lie: `DISC_SIGNS` and `VESSEL_SIGNS` change the anatomy, `GROUND_SIGNS` are painted
beneath disc and vessels, `TOP_SIGNS` above them. Either way the mask of a sign is where the picture differs
with and without it. The shapes follow textbook descriptions in caricature; all our choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .canvas import Canvas, smooth_noise, soft
from .fundus_anatomy import FOVEA, SIDES, Anatomy, Pen, vessel_tree

BLOOD, YELLOW, CREAM, WHITE = (0.42, 0.03, 0.04), (1.0, 0.88, 0.38), (0.98, 0.80, 0.42), (0.98, 0.95, 0.86)

# --- signs that change the anatomy: (anatomy, side, strength in [0, 1]) -> anatomy

DISC_SIGNS = {
    "large_cup": lambda a, side, s: replace(a, cup=0.72 + 0.08 * s),
    "rim_notch": lambda a, side, s: replace(a, notch=SIDES[side] * (0.50 + 0.06 * s)),
    "tilted_disc": lambda a, side, s: replace(
        a, aspect=0.56 - 0.06 * s, tilt=SIDES[side] * (0.6 + 0.3 * s), radius=1.35 * a.radius
    ),
    "waxy_disc": lambda a, side, s: replace(a, waxy=0.85 + 0.15 * s),
    "blurred_disc": lambda a, side, s: replace(
        a, edge=0.075 + 0.02 * s, pink=0.5, radius=1.2 * a.radius, cup=0.8 * a.cup
    ),
    "swollen_disc": lambda a, side, s: replace(a, radius=(1.45 + 0.15 * s) * a.radius, cup=0.0, pink=1.0),
}

VESSEL_SIGNS = {
    "thin_arteries": lambda a, side, s: replace(a, artery=(0.42 - 0.08 * s) * a.artery),
    "nicking": lambda a, side, s: replace(a, nick=0.045 + 0.008 * s),
    "twisted_veins": lambda a, side, s: replace(a, vein=(1.45 + 0.2 * s) * a.vein, twist=0.030 + 0.008 * s),
}


@dataclass
class Painting:
    """The picture (3, H, W) as far as it is painted; what is laid on it changes `picture`."""

    canvas: Canvas
    anatomy: Anatomy
    picture: np.ndarray

    def cover(self, share: np.ndarray, colour: tuple[float, float, float]) -> None:
        """Lay a colour over a share (H, W) of each pixel."""
        self.picture = self.picture.copy()
        for plane, tone in zip(self.picture, colour, strict=True):
            plane += share * (tone - plane)

    def pen(self) -> Pen:
        return Pen(self.canvas)

    def from_fovea(self) -> tuple[np.ndarray, np.ndarray]:
        """For each pixel, how far it lies from the fovea away from the disc, and up."""
        u, v = self.anatomy.from_disc(self.canvas)
        return u - FOVEA, v

    def at_fovea(self, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Anatomical points (..., 2) in polar coordinates around the fovea."""
        return self.anatomy.place(np.stack([FOVEA + radius * np.cos(angle), radius * np.sin(angle)], -1))

    def at_disc(self, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Anatomical points (..., 2) in polar coordinates around the disc; angle 0 is towards the macula."""
        return self.anatomy.place(np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1))

    def scatter(self, rng: np.random.Generator, count: int, near: float = 0.20, far: float = 0.75) -> np.ndarray:
        """Points (count, 2) around the fovea, off the disc."""
        angle, reach = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.2, 1, count)
        # on the side of the disc they stay nearer
        far = np.where(np.cos(angle) < -0.7, 0.45, far)
        return self.at_fovea(near + reach * (far - near), angle)


def _blob(p: Painting, rng, radius: float, at: np.ndarray, rough: float = 0.10) -> Pen:
    """A closed outline of wavy radius around a point given from the disc."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(rng.normal(0, rough / k) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5, 7))
    ring = (radius * (1 + waves))[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return p.pen().polygon(p.anatomy.place(at + ring))


# --- signs beneath disc and vessels: (painting, side, strength, rng) changes the painting


def _soft_drusen(p, side, s, rng):
    count = int(rng.integers(14, 21))
    points = p.at_fovea(0.27 * np.sqrt(rng.uniform(0, 1, count)), rng.uniform(0, 2 * np.pi, count))
    p.cover((0.75 + 0.2 * s) * p.pen().dots(points, rng.uniform(0.030, 0.048, count)).layer(0.8), CREAM)


def _hard_drusen(p, side, s, rng):
    count = int(rng.integers(45, 65))
    points = p.at_fovea(0.46 * np.sqrt(rng.uniform(0, 1, count)), rng.uniform(0, 2 * np.pi, count))
    p.cover((0.85 + 0.15 * s) * p.pen().dots(points, rng.uniform(0.014, 0.019, count)).layer(), (1.0, 0.90, 0.60))


def _pale_atrophy(p, side, s, rng):
    shape = _blob(p, rng, 0.20 + 0.05 * s, np.array([FOVEA, 0.0])).layer()
    p.cover(0.92 * shape, (0.97, 0.84, 0.58))
    start = p.at_fovea(np.full(5, 0.25), rng.uniform(0, 2 * np.pi, 5))
    end = p.at_fovea(np.full(5, 0.25), rng.uniform(0, 2 * np.pi, 5))
    lines = p.pen().lines(np.stack([start, end], 1), np.full(5, 0.018)).layer(0.4)
    p.cover(0.55 * lines * shape, (0.86, 0.45, 0.25))


def _macular_blood(p, side, s, rng):
    at = np.array([FOVEA + rng.normal(0, 0.03), SIDES[side] * 0.05])
    p.cover(0.9 * _blob(p, rng, 0.19 + 0.05 * s, at, 0.14).layer(1.2), (0.40, 0.17, 0.14))


def _disc_crescent(p, side, s, rng):
    u, v = p.anatomy.from_disc(p.canvas)
    radius = p.anatomy.radius
    out = 1 - np.hypot((u - (0.55 + 0.2 * s) * radius) / (1.05 * radius), v / (1.12 * radius))
    p.cover(0.95 * soft(out * radius, 0.008), WHITE)


def _tessellated(p, side, s, rng):
    size = p.canvas.size
    bands = np.minimum(np.abs(smooth_noise(rng, size, 18)), np.abs(smooth_noise(rng, size, 14)))
    u, v = p.from_fovea()
    zone = 1 - 0.7 * np.exp(-(u**2 + v**2) / 0.03)
    p.cover((0.40 + 0.15 * s) * zone * soft(bands - 0.32, 0.08), (0.34, 0.12, 0.07))
    p.cover((0.55 + 0.15 * s) * zone * soft(0.24 - bands, 0.06), (0.97, 0.56, 0.28))


def _nerve_wedge(p, side, s, rng):
    u, v = p.anatomy.from_disc(p.canvas)
    radius = np.sqrt(u * u + v * v)
    middle = 0.95 + rng.uniform(-0.1, 0.1) - 0.35 * radius
    inside = 0.15 + 0.05 * s - np.abs(np.arctan2(SIDES[side] * v, u) - middle)
    share = soft(inside * radius, 0.014) * soft(radius - p.anatomy.radius, 0.01) * soft(0.95 - radius, 0.12)
    p.cover((0.55 + 0.15 * s) * share, (0.26, 0.08, 0.06))


def _dark_periphery(p, side, s, rng):
    u, v = p.anatomy.from_disc(p.canvas)
    far = np.hypot((u - 0.42) / 1.25, v) + 0.02 * smooth_noise(rng, p.canvas.size, 12)
    p.cover((0.75 + 0.15 * s) * soft(far - 0.50 + 0.05 * s, 0.05), (0.24, 0.19, 0.17))


def _disc_folds(p, side, s, rng):
    u, v = p.anatomy.from_disc(p.canvas)
    radius = np.sqrt(u * u + v * v)
    out = radius - 1.5 * p.anatomy.radius
    wave = np.cos(2 * np.pi * out / 0.085) * soft(out + 0.03, 0.01) * soft(0.24 - out, 0.04)
    wave *= np.clip(0.65 + 0.6 * u / (radius + 0.05), 0, 1)  # mostly towards the macula
    p.cover((0.35 + 0.2 * s) * np.clip(wave, 0, 1), (1.0, 0.72, 0.45))
    p.cover((0.35 + 0.2 * s) * np.clip(-wave, 0, 1), (0.30, 0.08, 0.05))


GROUND_SIGNS = {
    "tessellated": _tessellated,
    "dark_periphery": _dark_periphery,
    "nerve_wedge": _nerve_wedge,
    "disc_folds": _disc_folds,
    "disc_crescent": _disc_crescent,
    "pale_atrophy": _pale_atrophy,
    "macular_blood": _macular_blood,
    "soft_drusen": _soft_drusen,
    "hard_drusen": _hard_drusen,
}


# --- signs above disc and vessels


def _microaneurysms(p, side, s, rng):
    count = int(rng.integers(18, 28))
    p.cover(p.pen().dots(p.scatter(rng, count, 0.14, 0.62), rng.uniform(0.017, 0.023, count)).layer(), BLOOD)


def _blot_bleeds(p, side, s, rng):
    count = int(rng.integers(8, 13))
    points, radii = p.scatter(rng, count), rng.uniform(0.034, 0.055, count)
    pen = p.pen().dots(points, radii)
    pen.dots(points + rng.normal(0, 0.025, (count, 2)), 0.8 * radii)
    p.cover(0.9 * pen.layer(0.6), BLOOD)


def _hard_exudates(p, side, s, rng):
    clusters = int(rng.integers(3, 5))
    centres = p.scatter(rng, clusters, 0.24, 0.42)
    points = np.repeat(centres, 10, axis=0) + rng.normal(0, 0.045, (10 * clusters, 2))
    p.cover((0.9 + 0.1 * s) * p.pen().dots(points, rng.uniform(0.014, 0.026, 10 * clusters)).layer(), YELLOW)


def _cotton_wool(p, side, s, rng):
    count = int(rng.integers(4, 7))
    centres = np.repeat(p.scatter(rng, count, 0.35, 0.70), 4, axis=0)
    points = centres + rng.normal(0, 0.03, (4 * count, 2))
    p.cover((0.85 + 0.15 * s) * p.pen().dots(points, rng.uniform(0.035, 0.06, 4 * count)).layer(1.5), WHITE)


def _new_vessels(p, side, s, rng):
    count = 13
    turn = np.cumsum(rng.normal(0, 0.45, (count, 16)) + rng.choice([-0.3, 0.3], (count, 1)), axis=1)
    turn = turn + rng.uniform(0, 2 * np.pi, (count, 1))
    steps = 0.034 * np.stack([np.cos(turn), np.sin(turn)], -1)
    paths = rng.normal(0, 0.07, (count, 1, 2)) + np.cumsum(steps, axis=1)
    layer = p.pen().lines(p.anatomy.place(paths), np.full(count, 0.013 + 0.003 * s)).layer()
    p.cover(layer, (0.60, 0.05, 0.06))


def _flames(p, rng, start: np.ndarray, along: np.ndarray, length: float, spread: float) -> np.ndarray:
    """Bundles (N * 5, 2, 2) of streaks from points (N, 2) along directions (N, 2), in disc coordinates."""
    along = along / np.linalg.norm(along, axis=-1, keepdims=True)
    aside = np.stack([-along[:, 1], along[:, 0]], 1)
    lift = np.linspace(-1, 1, 5)[None, :, None] * spread
    begin = start[:, None] + lift * aside[:, None] + rng.normal(0, 0.25 * length, (len(start), 5, 1)) * along[:, None]
    size = length * rng.uniform(0.7, 1.2, (len(start), 5, 1))
    end = begin + size * along[:, None] + 0.5 * lift * aside[:, None]
    return p.anatomy.place(np.stack([begin, end], 2).reshape(-1, 2, 2))


def _flame_bleeds(p, side, s, rng):
    count = int(rng.integers(6, 9))
    mains = vessel_tree(p.anatomy.tree, 0.0).mains
    which, at = np.arange(count) % 4, rng.integers(10, 24, count)
    start, along = mains[which, at], mains[which, at + 1] - mains[which, at - 1]
    paths = _flames(p, rng, start + rng.normal(0, 0.02, (count, 2)), along, 0.11 + 0.03 * s, 0.024)
    p.cover(0.95 * p.pen().lines(paths, np.full(len(paths), 0.020)).layer(), (0.55, 0.03, 0.03))


def _sector_blood(p, side, s, rng):
    count = 46
    angle = rng.uniform(0.35, 1.55, count) * SIDES[side]
    radius = np.sqrt(rng.uniform(0.04, 0.85, count))
    # streaks leave the disc steeply and bend with the arcade
    start = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    heading = angle * (1.15 - 0.5 * radius)
    paths = _flames(p, rng, start, np.stack([np.cos(heading), np.sin(heading)], 1), 0.10 + 0.03 * s, 0.020)
    p.cover(0.92 * p.pen().lines(paths, rng.uniform(0.014, 0.022, len(paths))).layer(), (0.50, 0.03, 0.03))


def _macular_star(p, side, s, rng):
    rays = int(rng.integers(11, 15))
    angle = np.linspace(0, 2 * np.pi, rays, endpoint=False) + rng.normal(0, 0.06, rays)
    reach = rng.uniform(0.18, 0.31, rays)
    inner, outer = p.at_fovea(np.full(rays, 0.08), angle), p.at_fovea(reach, angle)
    pen = p.pen().lines(np.stack([inner, outer], 1), np.full(rays, 0.013))
    along = np.array([0.35, 0.6, 0.85]) + rng.uniform(-0.12, 0.12, (rays, 3))
    beads = p.at_fovea(along * reach[:, None], angle[:, None]).reshape(-1, 2)
    pen.dots(beads, rng.uniform(0.011, 0.019, len(beads)))
    p.cover((0.9 + 0.1 * s) * pen.layer(), YELLOW)


def _disc_splinter(p, side, s, rng):
    angle = SIDES[side] * rng.uniform(0.55, 0.95)
    radius = p.anatomy.radius
    path = p.at_disc(np.array([0.75 * radius, radius, radius + 0.10 + 0.03 * s]), np.array([angle] * 3))
    pen = p.pen().lines(path[None], np.array([0.034])).lines(path[None, 1:], np.array([0.040]))
    p.cover(pen.layer(), (0.45, 0.02, 0.03))


def _bone_spicules(p, side, s, rng):
    count = int(rng.integers(24, 34))
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.1, count)
    reach = rng.uniform(0.56, 0.86, count)
    centre = np.stack([1.05 * reach * np.cos(angle), 0.95 * reach * np.sin(angle)], 1)
    turn = rng.uniform(0, 2 * np.pi, (count, 1)) + np.array([0, 2.1, 4.2]) + rng.normal(0, 0.3, (count, 3))
    arm = rng.uniform(0.035, 0.065, (count, 3, 1)) * np.stack([np.cos(turn), np.sin(turn)], -1)
    paths = np.stack([np.broadcast_to(centre[:, None], arm.shape), centre[:, None] + arm], 2).reshape(-1, 2, 2)
    layer = p.pen().lines(paths, np.full(len(paths), 0.020)).dots(centre, np.full(count, 0.017)).layer()
    p.cover((0.9 + 0.1 * s) * layer, (0.06, 0.05, 0.06))


TOP_SIGNS = {
    "microaneurysms": _microaneurysms,
    "blot_bleeds": _blot_bleeds,
    "hard_exudates": _hard_exudates,
    "cotton_wool": _cotton_wool,
    "new_vessels": _new_vessels,
    "flame_bleeds": _flame_bleeds,
    "sector_blood": _sector_blood,
    "macular_star": _macular_star,
    "disc_splinter": _disc_splinter,
    "bone_spicules": _bone_spicules,
}
