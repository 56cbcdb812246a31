"""A healthy colour fundus photograph: a patient's retina, its rendering, and the exposure of a site's camera.

Pictures are (3, H, W) floats in [0, 1] before exposure. Everything here is our choice; the shapes follow
textbook descriptions in caricature. What can be wrong with it is in `fundus_signs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Canvas, Window, smeared, smooth_noise, soft

SIDES = {"upper": 1, "lower": -1}
FOVEA = 0.70  # from the disc, two and a half disc diameters
FINE = 384  # pixels on which lines and dots are drawn; more, where that is less than three times the canvas
POINTS = 11  # of each piece of a vessel

LIGHT, DARK = (0.86, 0.47, 0.25), (0.60, 0.26, 0.13)  # little and much pigment
RIM, CUP = (1.00, 0.72, 0.36), (1.00, 0.96, 0.82)
WAXY, PINK = (0.97, 0.94, 0.72), (1.00, 0.66, 0.45)
VEIN, ARTERY = (0.60, 0.28, 0.34), (0.94, 0.44, 0.42)  # what of the light behind them they let through


def _spread(rng: np.random.Generator, by: float) -> float:
    """A normal deviate, at most twice its standard deviation."""
    return max(-2 * by, min(2 * by, rng.normal(0, by)))


@dataclass(frozen=True)
class Anatomy:
    """One patient's eye, in anatomical units; the same in all images of the patient."""

    eye: int = 1  # 1: the disc is right of the macula in the image, -1: left
    disc: tuple[float, float] = (0.46, -0.03)  # its centre, for eye 1
    angle: float = 0.10  # by which the macula lies lower than the disc
    radius: float = 0.145  # of the disc
    cup: float = 0.36  # share of the radius
    aspect: float = 0.94  # width over height of the disc
    tilt: float = 0.0
    edge: float = 0.012  # softness of the disc margin
    notch: float = 0.0  # depth in the rim, above if positive
    waxy: float = 0.0
    pink: float = 0.0
    pigment: float = 0.4
    macula: float = 0.34  # how much darker it is
    tree: int = 0  # seed of the vessels
    artery: float = 0.025  # widths
    vein: float = 0.035
    twist: float = 0.0
    nick: float = 0.0
    lens: float = 0.0  # how yellow: -1 at 20 years, 1 at 90

    @staticmethod
    def sample(rng: np.random.Generator, age: float, sex: str) -> Anatomy:
        """A patient: age yellows the lens and thins the vessels a little; women have a paler, higher macula."""
        lens = (age - 55) / 35
        return Anatomy(
            eye=int(rng.choice([-1, 1])),
            disc=(0.46 + rng.normal(0, 0.03), -0.03 + rng.normal(0, 0.03)),
            angle=(0.03 if sex == "F" else 0.17) + rng.normal(0, 0.04),
            radius=0.145 + _spread(rng, 0.008),
            cup=0.36 + _spread(rng, 0.06),
            aspect=0.94 + _spread(rng, 0.03),
            pigment=0.45 + _spread(rng, 0.22) + (0.08 if sex == "M" else -0.08),
            macula=0.34 + _spread(rng, 0.05),
            tree=int(rng.integers(2**32)),
            artery=0.025 * (1 - 0.07 * lens) * (1 + _spread(rng, 0.06)),
            vein=0.035 * (1 - 0.07 * lens) * (1 + _spread(rng, 0.06)),
            lens=lens,
        )

    @property
    def axes(self) -> np.ndarray:
        """(2, 2): unit vectors from the disc towards the macula, and up from that line."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.array([[-self.eye * c, s], [-self.eye * s, -c]])

    def place(self, points: np.ndarray) -> np.ndarray:
        """Anatomical coordinates of points (..., 2) given from the disc: towards the macula, and up."""
        return np.array([self.eye * self.disc[0], self.disc[1]]) + points @ self.axes

    def from_disc(self, canvas: Canvas, window: Window = np.s_[:, :]) -> tuple[np.ndarray, np.ndarray]:
        """For each pixel, how far it lies from the disc towards the macula, and up."""
        dx, dy = canvas.x[window] - self.eye * self.disc[0], canvas.y[window] - self.disc[1]
        axes = self.axes
        return axes[0, 0] * dx + axes[0, 1] * dy, axes[1, 0] * dx + axes[1, 1] * dy


class Pen:
    """Lines and dots in anatomical units, drawn finer than the canvas and averaged."""

    def __init__(self, canvas: Canvas):
        self.canvas, self.fine = canvas, max(3, FINE // canvas.size)
        self.scale = canvas.size * self.fine / 2
        self.image = Image.new("L", (canvas.size * self.fine, canvas.size * self.fine))
        self.draw = ImageDraw.Draw(self.image)

    def _fine(self, points: np.ndarray) -> np.ndarray:
        return (points @ self.canvas.matrix.T + self.canvas.shift + 1) * self.scale

    def lines(self, paths: np.ndarray, widths: np.ndarray) -> Pen:
        """Polylines (N, P, 2) of widths (N,)."""
        flat = self._fine(paths).reshape(len(paths), -1).tolist()
        for path, width in zip(flat, np.maximum(1, np.rint(widths * self.scale)).astype(int).tolist(), strict=True):
            self.draw.line(path, fill=255, width=width)
        return self

    def dots(self, points: np.ndarray, radii: np.ndarray, fill: int = 255) -> Pen:
        """Discs at points (N, 2) of radii (N,)."""
        radii = np.maximum(radii * self.scale, 0.5)[:, None]
        at = self._fine(points)
        for box in np.concatenate([at - radii, at + radii], 1).tolist():
            self.draw.ellipse(box, fill=fill)
        return self

    def polygon(self, points: np.ndarray) -> Pen:
        """A filled outline (P, 2)."""
        self.draw.polygon(self._fine(points).ravel().tolist(), fill=255)
        return self

    def layer(self, blur: float = 0.0) -> np.ndarray:
        """Opacity (H, W); the blur is in pixels of a canvas of 128."""
        layer = np.asarray(self.image.reduce(self.fine), dtype=np.float64) / 255
        return smeared(layer, blur * self.canvas.size / 128) if blur else layer


class Tree(NamedTuple):
    """Vessels in disc coordinates, of relative widths PIECES and TWIGS, and where the two kinds cross."""

    pieces: np.ndarray  # (2, 16, POINTS, 2): of the veins' trunks, of the arteries'
    twigs: np.ndarray  # (2, 42, 6, 2): branches of either
    crossings: np.ndarray  # (K, 2)
    beside: np.ndarray  # (2 K, 5, 2): the pieces of vein before and after each crossing
    mains: np.ndarray  # (4, T, 2): the four arcades, upper and lower temporal, then upper and lower nasal


# a tree is computed in complex numbers: towards the macula + i up
ARCADES = np.array(
    [
        [-0.03, -0.10 + 0.36j, 0.28 + 0.72j, 0.98 + 0.72j, 1.40 + 0.18j],
        [-0.05, -0.05 + 0.26j, -0.24 + 0.40j, -0.34 + 0.62j, -0.58 + 0.84j],
    ]
)
STEPS = np.linspace(0, 1, 4 * POINTS - 3)
BEZIER = np.stack([c * STEPS**k * (1 - STEPS) ** (4 - k) for k, c in enumerate((1, 4, 6, 4, 1))])
PIECES, TWIGS = np.repeat([1.0, 0.88, 0.72, 0.58], 4), np.repeat([0.46, 0.33, 0.36], [20, 20, 2])


@lru_cache(maxsize=64)
def vessel_tree(seed: int, twist: float) -> Tree:
    """Four arcades, an artery winding along a vein in each, with branches that spare the fovea."""
    rng = np.random.default_rng(seed)

    def sprout(start: np.ndarray, heading: np.ndarray) -> np.ndarray:
        s, bend = np.linspace(0, 1, 6), 1j * rng.normal(0, 0.32, start.shape)[..., None]
        return start[..., None] + heading[..., None] * (s + bend * s**2)

    control = np.stack([ARCADES, ARCADES.conj()], 1).reshape(4, 5)
    strays = (rng.normal(0, 0.045, (4, 5, 2)) @ [1, 1j]) * [0.2, 0.7, 1, 1, 1]
    veins = (control + strays) @ BEZIER
    cross = np.stack([rng.uniform(0.24, 0.34, 4), rng.uniform(0.50, 0.66, 4)], 1)
    winding = np.prod(np.tanh((STEPS - cross[..., None]) / 0.025), axis=1)
    offset = 0.055 * winding * np.minimum(1, STEPS / 0.12) * rng.choice([-1, 1], (4, 1))
    mains = np.stack([veins, veins + 1j * offset * _along(veins)])
    along = _along(mains)

    where = np.array([8, 14, 20, 26, 32]) + rng.integers(-2, 3, (2, 4, 5))
    side = np.where(np.arange(5) % 2, 1, -1) * rng.choice([-1, 1], (2, 4, 1))
    onward = np.take_along_axis(along, where, 2)
    turned = onward * np.exp(1j * side * rng.uniform(0.5, 0.95, where.shape))
    first = sprout(np.take_along_axis(mains, where, 2), turned * rng.uniform(0.28, 0.46, where.shape))
    bend = rng.uniform(0.4, 0.9, where.shape) * rng.choice([-1, 1], where.shape)
    second = sprout(first[..., 3], onward * np.exp(1j * (0.7 * side + bend)) * rng.uniform(0.15, 0.28, where.shape))
    small = sprout(
        np.array([[0.07 + 0.06j, 0.07 - 0.06j]] * 2), 0.48 * np.exp(1j * rng.normal([0.35, -0.35], 0.1, (2, 2)))
    )

    wave = np.sin(2 * np.pi * (7 * STEPS + rng.uniform(0, 1, (4, 1)))) * np.minimum(1, STEPS / 0.15)
    mains[0] += 1j * twist * wave * along[0]
    first[0] += 0.6j * twist * np.sin(np.linspace(0, 9, 6)) * turned[0, ..., None]
    pieces = np.concatenate([mains[..., i : i + POINTS] for i in range(0, len(STEPS) - 1, POINTS - 1)], axis=1)
    twigs = np.concatenate([first.reshape(2, 20, -1), second.reshape(2, 20, -1), small], axis=1)

    at = np.rint(cross * (len(STEPS) - 1)).astype(int)
    arms = (at[..., None] + np.concatenate([np.arange(-5, 0), np.arange(1, 6)])).reshape(4, -1)
    beside = np.take_along_axis(veins, arms, 1).reshape(-1, 5)
    crossings = np.take_along_axis(veins, at, 1).ravel()
    return Tree(*[_spare(points) for points in (pieces, twigs, crossings, beside, veins)])


def _along(paths: np.ndarray) -> np.ndarray:
    along = np.gradient(paths, axis=-1)
    return along / np.abs(along)


def _spare(points: np.ndarray) -> np.ndarray:
    """Complex points as pairs, pushed out of the fovea, where there are no vessels."""
    away = points - FOVEA
    distance = np.abs(away)
    away *= np.sqrt(distance**2 + 0.15**2) / np.maximum(distance, 1e-6)
    return np.stack([FOVEA + away.real, away.imag], -1)


@cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    return x, y, x**2 + y**2


def column(colour: tuple[float, float, float]) -> np.ndarray:
    """A colour as (3, 1, 1), to be mixed with pictures."""
    return np.array(colour)[:, None, None]


def draw_ground(canvas: Canvas, a: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """The retina (3, H, W) with its macula, without disc and vessels."""
    u, v = a.from_disc(canvas)
    v *= v
    off = (u - FOVEA) ** 2 + v
    light = 1 + 0.035 * smooth_noise(rng, canvas.size, 10) + 0.10 / (1 + (u * u + v) * 10)
    dark = light * (a.macula * np.exp(off * -20) + 0.16 / (1 + off * 300))
    base = (1 - a.pigment) * np.array(LIGHT) + a.pigment * np.array(DARK)
    dull = light - dark
    return np.stack([base[0] * (light - 0.75 * dark), base[1] * dull, base[2] * dull])


Disc = tuple[Window, np.ndarray, np.ndarray]


def draw_disc(canvas: Canvas, a: Anatomy) -> Disc:
    """The optic disc: its window of h * w pixels, its opacity (h, w) and its colours (3, h, w)."""
    x, y, reach = a.eye * a.disc[0], a.disc[1], a.radius + 2 * a.edge
    window = canvas.window(x - reach, y - reach, x + reach, y + reach)
    u, v = a.from_disc(canvas, window)
    if a.tilt:
        c, s = np.cos(a.tilt), np.sin(a.tilt)
        u, v = c * u + s * v, c * v - s * u
    wide = a.radius * a.aspect
    u, v = u / wide, v / a.radius
    share = soft((1 - np.hypot(u, v)) * wide, a.edge)
    pale = np.zeros_like(share)
    if a.cup:
        pale = soft((a.cup - np.hypot(u - 0.08, v)) * wide, 0.010)
    if a.notch:
        lobe = np.hypot(u / 0.42, (v - 0.58 * np.sign(a.notch)) / abs(a.notch))
        pale = np.maximum(pale, soft((1 - lobe) * 0.4 * wide, 0.006))
    rim = column(RIM) + a.pink * (column(PINK) - column(RIM))
    colour = rim * (1 + 0.04 * u) + pale * (column(CUP) - rim)
    return window, share, colour + a.waxy * (column(WAXY) - colour)


def draw_vessels(canvas: Canvas, a: Anatomy) -> np.ndarray:
    """What share of the light (3, H, W) the vessels let through."""
    tree = vessel_tree(a.tree, a.twist)
    pieces, twigs = a.place(tree.pieces), a.place(tree.twigs)
    veins = Pen(canvas).lines(twigs[0], a.vein * TWIGS).lines(pieces[0], a.vein * PIECES)
    if a.nick:
        veins.lines(a.place(tree.beside), np.full(len(tree.beside), 1.25 * a.vein))
        veins.dots(a.place(tree.crossings), np.full(len(tree.crossings), a.nick), fill=0)
    arteries = Pen(canvas).lines(twigs[1], a.artery * TWIGS).lines(pieces[1], a.artery * PIECES).layer()
    veins = veins.layer()
    veins *= 1 - arteries
    through = np.ones((3, *veins.shape))
    for plane, vein, artery in zip(through, VEIN, ARTERY, strict=True):
        plane -= veins * (1 - vein)
        plane -= arteries * (1 - artery)
    return through


def compose(ground: np.ndarray, disc: Disc, vessels: np.ndarray) -> np.ndarray:
    """The picture (3, H, W) of ground, disc and vessels."""
    (rows, columns), share, colour = disc
    picture = ground * vessels
    behind = ground[:, rows, columns]
    picture[:, rows, columns] = (behind + share * (colour - behind)) * vessels[:, rows, columns]
    return picture


@dataclass(frozen=True)
class Site:
    """A hospital's camera: colour balance, tone curve, noise, sharpness and the field that it shows."""

    balance: tuple[float, float, float]
    gamma: float
    noise: float
    blur: float  # weight of the neighbouring pixels
    field: float  # radius
    cropped: float  # how often the field ends early at top and bottom


SITES = {
    "A": Site((1.0, 1.0, 1.0), 1.0, 0.022, 0.08, 0.96, 0.3),
    "B": Site((1.06, 0.88, 0.80), 0.88, 0.028, 0.16, 0.97, 0.9),
    "C": Site((0.95, 0.98, 1.15), 1.15, 0.016, 0.04, 0.90, 0.0),
}
MACHINES = {
    "dark": Site((0.70, 0.66, 0.62), 1.5, 0.020, 0.08, 0.96, 0.3),
    "noisy": Site((1.0, 1.0, 1.0), 1.0, 0.120, 0.08, 0.96, 0.3),
}


def draw_field(size: int, site: Site, rng: np.random.Generator) -> np.ndarray:
    """The visible field (H, W): a circle, sometimes cropped at top and bottom."""
    x, y, _ = _grid(size)
    cx, cy, radius, chance = *rng.normal(0, 0.01, 2), site.field + rng.normal(0, 0.01), rng.random()
    edge = radius - np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
    if chance < site.cropped:
        edge = np.minimum(edge, radius - 0.14 - np.abs(y - cy))
    return soft(edge, 0.006)


def expose(picture: np.ndarray, field: np.ndarray, lens: float, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Lens, lamp and camera: (3, H, W) picture to (H, W, 3) uint8."""
    x, y, radius = _grid(len(field))
    gradient = rng.normal(0, 0.06, 2)
    lamp = (1.05 - 0.22 * radius + gradient[0] * x + gradient[1] * y) * (1 + rng.normal(0, 0.05)) * field
    yellow = np.array([1 - 0.04 * lens, 1 - 0.06 * lens, 1 - 0.28 * lens])
    balance = np.array(site.balance) * yellow * (1 + rng.normal(0, 0.025, 3))
    gamma = site.gamma * np.exp(rng.normal(0, 0.08))
    grain = rng.standard_normal(field.shape) * (site.noise * rng.uniform(0.7, 1.3)) * (0.25 + 0.75 * field)
    tones = (np.linspace(0, 1, 4096) ** gamma * 255).round().astype(np.uint8)
    planes = []
    for plane, gain in zip(picture, balance, strict=True):
        image = plane * lamp
        image *= gain
        image += grain
        image[1:-1] += site.blur * (image[:-2] + image[2:] - 2 * image[1:-1])
        image[:, 1:-1] += site.blur * (image[:, :-2] + image[:, 2:] - 2 * image[:, 1:-1])
        planes.append(tones[(image.clip(0, 1, out=image) * 4095).astype(np.uint16)])
    return np.dstack(planes)
