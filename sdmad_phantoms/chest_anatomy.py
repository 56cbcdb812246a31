"""A healthy frontal chest radiograph: a patient's anatomy, its rendering, and the exposure of a site.

Grey values before exposure: 0 is air, 1 is bone or fluid. Everything here is our choice; the shapes
follow textbook descriptions in caricature. What can be wrong with it is in `chest_signs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Canvas, smeared, soft

SIDES = {"right": -1, "left": 1}  # the patient's right lung is drawn on the left of the image


@dataclass(frozen=True)
class Anatomy:
    """One patient's shape, in anatomical units; the same in all images of the patient."""

    lung_width: float = 0.78
    apex: float = -0.82
    waist: float = 0.28  # height where the lungs are widest
    dome: tuple[float, float] = (0.40, 0.47)  # height of the right and left hemidiaphragm
    sulcus: tuple[float, float] = (0.70, 0.72)  # depth of the costophrenic angles
    heart: tuple[float, float, float, float] = (0.12, 0.22, 0.29, 0.30)  # centre and radii
    left_bulge: float = 0.0
    right_bulge: float = 0.0
    shift: float = 0.0  # of heart and mediastinum, to the patient's left
    lung_grey: float = 0.20
    vessels: float = 1.0  # how prominent they are
    breast: float = 0.0
    knob: float = 0.07
    aorta: float = 0.0  # how far the descending aorta unfolds to the left
    flank: float = 0.28  # soft tissue between the lung and the skin
    veil: float = 0.02  # grey that soft tissue lays over the lower lungs
    rib_spacing: float = 0.165
    rib_slope: float = 0.30

    @staticmethod
    def sample(rng: np.random.Generator, age: float, sex: str) -> Anatomy:
        """A patient: age shows in aorta, heart, lungs and vessels, sex in the breasts and the width of the lungs.

        Chance is drawn alike for everybody, so that the record alone changes nothing else.
        """

        def about(mean: float, spread: float) -> float:
            return mean + spread * min(2.0, max(-2.0, rng.normal()))

        years, female = age - 50, sex == "F"
        breast = max(0.0, about(0.07, 0.03))
        return Anatomy(
            lung_width=about(0.76 if female else 0.78, 0.03),
            apex=about(-0.82, 0.03),
            waist=about(0.27, 0.06),
            dome=(about(0.40, 0.035), about(0.47, 0.035)),
            sulcus=(about(0.70, 0.025), about(0.72, 0.025)),
            heart=(about(0.12, 0.02), about(0.22, 0.02), about(0.28 + 0.0004 * years, 0.018), about(0.30, 0.02)),
            lung_grey=about(0.20 + 0.0006 * years, 0.02),
            vessels=about(1 + 0.004 * years, 0.1),
            breast=breast if female else 0.0,
            knob=max(0.02, about(0.06 + 0.001 * years, 0.01)),
            aorta=max(0.0, about(0.0010 * years, 0.008)),
            flank=about(0.27, 0.03),
            veil=max(0.0, about(0.04, 0.05)),
            rib_spacing=about(0.165, 0.010),
            rib_slope=about(0.30, 0.05),
        )

    def wall(self, y: np.ndarray) -> np.ndarray:
        """Distance of the outer lung edge from the midline at height y."""
        above = np.minimum(y, self.waist) - self.waist
        above *= 1 / (self.waist - self.apex)
        return self.lung_width * np.sqrt(np.maximum(1 - above * above, 0.0))

    def diaphragm(self, side: str, t: np.ndarray) -> np.ndarray:
        """Height y of the hemidiaphragm at lateral distance t from the midline."""
        index = 0 if side == "right" else 1
        top, angle, centre = self.dome[index], self.sulcus[index], 0.36
        outward = np.maximum(t - centre, 0.0) ** 2 * ((angle - top) / (self.lung_width - centre) ** 2)
        inward = np.maximum(centre - t, 0.0) ** 2 * (0.12 / centre**2)
        return outward + inward + top


@dataclass
class Scene:
    """One image before bones and exposure; signs are laid over it. Arrays are (H, W)."""

    canvas: Canvas
    anatomy: Anatomy
    lung: dict[str, np.ndarray]
    lungs: np.ndarray
    image: np.ndarray

    def cover(self, share: np.ndarray, grey: float) -> None:
        """Lay a veil of the given grey over a share (H, W) of each pixel."""
        self.image = self.image + share.clip(0, 1) * (grey - self.image)


class Renderer:
    """Draws one patient on one canvas; what a sign leaves as it was is drawn only once."""

    def __init__(self, canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator):
        self.canvas = canvas
        self.body = _body(canvas, anatomy)
        self.tissue, self.lung_tissue = _soft_tissue(canvas, anatomy)
        self.bones = _bones(canvas, anatomy, rng)
        self.vessels = _vessels(canvas, anatomy, rng)
        self._drawn: dict[tuple, tuple[np.ndarray, ...]] = {}

    def scene(self, anatomy: Anatomy) -> Scene:
        """The healthy structures of this anatomy, of the patient or of the patient with signs."""
        right, left = self._once(_lung_fields, anatomy, "dome", "sulcus", "shift")
        heart, clear = self._once(_heart, anatomy, "heart", "left_bulge", "right_bulge", "shift")
        (mediastinum,) = self._once(_mediastinum, anatomy, "shift")
        right, left = right * clear, left * clear
        lungs = np.maximum(right, left)
        image = np.maximum(self.tissue + mediastinum, 0.70 * heart)
        image += lungs * (self.lung_tissue + anatomy.lung_grey + self.vessels - image)
        return Scene(self.canvas, anatomy, {"right": right, "left": left}, lungs, image)

    def change(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Where (H, W) bool two scenes' images visibly differ."""
        return np.abs(after - before) * self.body > 0.04

    def finished(self, scene: Scene) -> np.ndarray:
        """The grey image (H, W) with bones and the air around the body."""
        return (scene.image + self.bones) * self.body

    def _once(self, draw: Callable, anatomy: Anatomy, *fields: str) -> tuple[np.ndarray, ...]:
        """draw(canvas, anatomy), drawn again only where one of the fields has changed."""
        key = (draw, *(getattr(anatomy, field) for field in fields))
        if key not in self._drawn:
            self._drawn[key] = draw(self.canvas, anatomy)
        return self._drawn[key]


def _region(*distances: np.ndarray) -> np.ndarray:
    """Opacity where all signed distances, each in units of its edge's softness, are positive."""
    inside = distances[0]
    for distance in distances[1:]:
        inside = np.minimum(inside, distance)
    return soft(inside, 1.0)


def _middle(x: np.ndarray, y: np.ndarray, shift: float) -> np.ndarray:
    """Horizontal distance from the midline of the mediastinum, pushed more below than above."""
    return x - shift * (0.6 + 0.6 * y).clip(0.2, 1) if shift else x


def _lung_fields(canvas: Canvas, a: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    fields = []
    near, far, top = 0.04 - abs(a.shift), a.lung_width + 0.03, a.apex - 0.03
    for side, sign in SIDES.items():
        field = np.zeros_like(canvas.x)
        window = canvas.window(*((near, top, far, 1.2) if sign > 0 else (-far, top, -near, 1.2)))
        x, y = canvas.x[window], canvas.y[window]
        t, unfolded = sign * x, a.aorta if side == "left" else 0.0
        inner = sign * _middle(x, y, a.shift) + 0.06 * y * y - (0.14 + unfolded)
        field[window] = soft(np.minimum(np.minimum(a.wall(y) - t, inner), a.diaphragm(side, t) - y), 0.012)
        fields.append(field)
    return fields[0], fields[1]


def _heart(canvas: Canvas, a: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """The heart with its bulges, and what heart and aortic knob leave of the lungs."""
    cx, cy, rx, ry = a.heart
    cx += a.shift
    heart = canvas.ellipse(cx, cy, rx, ry, angle=0.5, width=0.015)
    if a.left_bulge:
        heart = np.maximum(heart, canvas.ellipse(cx + rx - 0.12, cy - 0.02, a.left_bulge, 0.24, angle=0.35))
    if a.right_bulge:
        heart = np.maximum(heart, canvas.ellipse(cx - rx + 0.11, cy + 0.04, a.right_bulge, 0.20))
    knob = canvas.ellipse(0.13 + a.shift * 0.4, -0.38, a.knob + 0.03, a.knob + 0.05)
    return heart, (1 - heart) * (1 - knob)


def _mediastinum(canvas: Canvas, a: Anatomy) -> tuple[np.ndarray]:
    """Brightness added by the mediastinum and the spine."""
    layer, reach = np.zeros_like(canvas.x), 0.28 + abs(a.shift)
    window = canvas.window(-reach, -1.2, reach, 1.2)
    x, y = canvas.x[window], canvas.y[window]
    middle = np.abs(_middle(x, y, a.shift))
    vertebrae = 1 + 0.15 * np.cos(y * 38)
    layer[window] = 0.08 * soft(0.2 - middle, 0.04) + 0.05 * soft(0.085 - middle, 0.02) * vertebrae
    return (layer,)


def _body(canvas: Canvas, a: Anatomy) -> np.ndarray:
    """Opacity (H, W) of shoulders and neck against the air."""
    height = (canvas.y - 0.45) * (1 / 1.28)
    height *= height
    shoulders = soft(1 - np.sqrt((canvas.x * (1 / (a.lung_width + a.flank))) ** 2 + height * height), 0.012)
    window = canvas.window(-0.4, -1.2, 0.4, -0.65)
    x, y = canvas.x[window], canvas.y[window]
    shoulders[window] = np.minimum(shoulders[window] + soft(0.30 - np.abs(x), 0.05) * soft(-0.75 - y, 0.05), 1)
    return 0.04 + 0.96 * shoulders


def _soft_tissue(canvas: Canvas, a: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Grey (H, W) outside the lungs and inside, without vessels and the patient's own lung grey."""
    y = canvas.y
    over = np.zeros_like(y)
    window = canvas.window(-0.08, -1.2, 0.1, -0.2)
    air = _region((0.045 - np.abs(canvas.x[window] - 0.01)) * (1 / 0.012), (-0.32 - y[window]) * (1 / 0.04))
    over[window] = -0.13 * air
    if a.breast:
        for sign in (-1, 1):
            over += a.breast * canvas.ellipse(sign * 0.45, 0.38, 0.34, 0.30, width=0.05)
    outside = 0.55 + 0.10 * soft(y - 0.5, 0.08) + over
    inside = 0.06 * np.abs(y - 0.1) + a.veil * (y + 0.2).clip(0, 0.8) + over
    return outside, inside


def _vessels(canvas: Canvas, a: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Brightness (H, W) of a random tree of vessels out of each hilum."""
    paths, widths, steps = [], [], np.linspace(0, 1, 7)[:, None]
    for sign in (-1, 1):
        angle = np.linspace(-1.25, 1.25, 8) + rng.normal(0, 0.1, 8)
        direction = np.stack([sign * np.cos(angle), np.sin(angle)], axis=-1)[:, None]
        curve = direction[..., ::-1] * [-1, 1] * rng.normal(0, 0.05, (8, 1, 1))
        path = [sign * 0.19 + a.shift, -0.02] + steps * rng.uniform(0.40, 0.60, (8, 1, 1)) * direction
        path += steps**2 * curve
        start = path[np.arange(8)[:, None], rng.integers(2, 5, (8, 2))]
        turn = angle[:, None] + rng.choice([-1, 1], (8, 2)) * rng.uniform(0.4, 0.8, (8, 2))
        length = rng.uniform(0.15, 0.28, (8, 2, 1))
        end = start + length * np.stack([sign * np.cos(turn), np.sin(turn)], axis=-1)
        twigs = np.stack([start, end], axis=2).reshape(16, 2, 2)
        paths += [*path[:, :3], *path[:, 2:5], *path[:, 4:], *twigs]
        widths += [0.030] * 8 + [0.020] * 8 + [0.012] * 24
    hila = sum(canvas.ellipse(s * 0.18 + a.shift, -0.02, 0.06, 0.13, width=0.03) for s in (-1, 1))
    return a.vessels * (0.18 * canvas.lines(paths, widths) + 0.20 * hila)


def _bones(canvas: Canvas, a: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Brightness (H, W) of ribs and clavicles."""

    def from_centre(level: np.ndarray, spacing: float) -> np.ndarray:
        """Distance from the middle of the nearest of many stripes."""
        level = level * (1 / spacing)
        level -= np.floor(level)
        return np.abs(level - 0.5) * spacing

    y, t = canvas.y, np.abs(canvas.x)
    breath = rng.normal(0, 0.02)
    level = y - a.rib_slope * t + 0.55 * np.maximum(t - 0.45, 0.0) ** 2 + (0.85 + breath)
    ribs = _region(
        (0.035 - from_centre(level, a.rib_spacing)) * (1 / 0.008),
        (a.lung_width + 0.15 - t) * (1 / 0.02),
        (0.55 - y) * (1 / 0.06),
        (t - 0.08) * (1 / 0.03),
    )
    anterior = _region(
        (0.03 - from_centre(y + 0.45 * t + 0.3, 1.1 * a.rib_spacing)) * (1 / 0.012),
        (a.lung_width + 0.07 - t) * (1 / 0.03),
        (t - 0.3) * (1 / 0.05),
        (0.3 - y) * (1 / 0.08),
    )
    bones = 0.075 * ribs + 0.03 * anterior
    window = canvas.window(-0.95, -0.80, 0.95, -0.40)
    y, t = y[window], t[window]
    bones[window] += 0.11 * _region(
        (0.03 - np.abs(y + 0.62 + 0.22 * (t - 0.4))) * (1 / 0.01), (t - 0.08) * (1 / 0.02), (0.85 - t) * (1 / 0.03)
    )
    return bones


@dataclass(frozen=True)
class Site:
    """How a hospital's machine renders: gamma, gain, noise and blur of the detector."""

    gamma: float
    gain: float
    noise: float
    blur: float


SITES = {"A": Site(1.0, 1.0, 0.018, 0.4), "B": Site(0.85, 0.95, 0.026, 0.55), "C": Site(1.2, 1.08, 0.022, 0.3)}
MACHINES = {"dark": Site(2.2, 0.72, 0.022, 0.4), "noisy": Site(1.0, 1.0, 0.110, 0.9)}
LETTERS = {"R": [(0, 1), (0, 0), (0.6, 0), (0.6, 0.5), (0, 0.5), (0.6, 1)], "L": [(0, 0), (0, 1), (0.6, 1)]}
LEVELS = 4096


def expose(grey: np.ndarray, scene: Scene, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Exposure, blur, noise and what the technician leaves: (H, W) grey to (H, W) uint8.

    Contrast, brightness, a gradient across the film, sharpness and grain vary between images. Some have a
    black border where the beam was collimated or a burnt-in letter in an upper corner, both beside the lungs.
    """
    size = len(grey)
    vary = rng.normal(size=6).clip(-2, 2)
    axis = np.linspace(-0.07, 0.07, size)
    gain = site.gain * (1 + 0.06 * vary[0]) * (1 + vary[1] * axis[None] + vary[2] * axis[:, None])
    image = smeared(grey, site.blur * rng.uniform(0.7, 1.5)) * gain
    contrast = 1 + 0.08 * vary[3]
    image = (contrast * image + (0.4 * (1 - contrast) + 0.02 * vary[4])).clip(0, 1.5)
    curve = np.linspace(0, 1.5, LEVELS) ** (site.gamma * np.exp(0.14 * vary[5]))
    image = curve[(image * ((LEVELS - 1) / 1.5)).astype(np.intp)]
    _mark(image, scene, rng)
    grain = smeared(rng.standard_normal((size, size), dtype=np.float32), rng.uniform(0.35, 0.7))
    image += grain * (site.noise * rng.uniform(0.4, 1.1) / grain.std())
    return (image * 235).clip(0, 255).round().astype(np.uint8)


def _mark(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    """Perhaps a collimated border and a letter for the side, drawn into the image beside the lungs."""
    a, size = scene.anatomy, len(image)
    collimated, border = rng.random() < 0.25, rng.uniform(0, [0.05, 0.08, 0.08])
    marked, letter = rng.random() < 0.3, str(rng.choice(list(LETTERS)))
    rows, columns = scene.canvas.window(-a.lung_width - 0.04, a.apex - 0.04, a.lung_width + 0.04, a.waist)
    free = np.array([rows.start, columns.start, max(0, size - columns.stop)])
    top, left, right = np.minimum(border * size, free).astype(int) * collimated
    image[:top] = image[:, :left] = image[:, size - right :] = 0.02
    if marked:
        height = max(3, round(0.07 * size))
        stamp = Image.new("L", (4 * height, 4 * height))
        path = [(int(4 + x * 3.4 * height), int(4 + y * 3.4 * height)) for x, y in LETTERS[letter]]
        ImageDraw.Draw(stamp).line(path, fill=255, width=max(2, height // 2), joint="curve")
        share = np.asarray(stamp.reduce(4)) * (1 / 255)
        row, gap = top + size // 40, size // 40
        column = left + gap if letter == "R" else size - right - gap - round(0.7 * height)
        place = image[row : row + height, column : column + height]
        place += share[:, : place.shape[1]] * (1.0 - place)
