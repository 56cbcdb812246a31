"""A healthy frontal chest radiograph: a patient's anatomy, its rendering, and the exposure of a site.

Grey values before exposure: 0 is air, 1 is bone or fluid. Everything here is our choice; the shapes
follow textbook descriptions in caricature. What can be wrong with it is in `chest_signs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from .canvas import Canvas, soft

SIDES = {"right": -1, "left": 1}  # the patient's right lung is drawn on the left of the image


@dataclass(frozen=True)
class Anatomy:
    """One patient's shape, in anatomical units; the same in all images of the patient."""

    lung_width: float = 0.78
    apex: float = -0.82
    dome: tuple[float, float] = (0.40, 0.47)  # height of the right and left hemidiaphragm
    sulcus: tuple[float, float] = (0.70, 0.72)  # depth of the costophrenic angles
    heart: tuple[float, float, float, float] = (0.12, 0.22, 0.29, 0.30)  # centre and radii
    left_bulge: float = 0.0
    right_bulge: float = 0.0
    shift: float = 0.0  # of heart and mediastinum, to the patient's left
    lung_grey: float = 0.20
    breast: float = 0.0
    knob: float = 0.07

    @staticmethod
    def sample(rng: np.random.Generator, age: float, sex: str) -> Anatomy:
        """A patient: age widens the aortic knob and the heart a little, women have breast shadows."""
        return Anatomy(
            lung_width=0.78 + rng.normal(0, 0.03) - (0.02 if sex == "F" else 0),
            apex=-0.82 + rng.normal(0, 0.03),
            dome=(0.40 + rng.normal(0, 0.035), 0.47 + rng.normal(0, 0.035)),
            sulcus=(0.70 + rng.normal(0, 0.025), 0.72 + rng.normal(0, 0.025)),
            heart=(
                0.12 + rng.normal(0, 0.02),
                0.22 + rng.normal(0, 0.02),
                0.28 + rng.normal(0, 0.015) + 0.0004 * (age - 50),
                0.30 + rng.normal(0, 0.02),
            ),
            lung_grey=0.20 + rng.normal(0, 0.02),
            breast=max(0, rng.normal(0.07, 0.03)) if sex == "F" else 0.0,
            knob=max(0.02, 0.06 + 0.001 * (age - 50) + rng.normal(0, 0.01)),
        )


@dataclass
class Scene:
    """What the anatomy looks like before signs are laid over it; arrays are (H, W)."""

    canvas: Canvas
    anatomy: Anatomy
    lung: dict[str, np.ndarray]
    heart: np.ndarray
    body: np.ndarray
    tissue: np.ndarray  # grey without vessels
    vessels: np.ndarray
    bones: np.ndarray
    opacity: np.ndarray = field(default=None)  # share of each pixel covered by an overlay
    target: np.ndarray = field(default=None)  # grey of that overlay

    @property
    def lungs(self) -> np.ndarray:
        return np.maximum(self.lung["left"], self.lung["right"])

    def grey(self) -> np.ndarray:
        image = self.tissue + self.vessels * self.lungs
        if self.opacity is not None:
            image = image * (1 - self.opacity) + self.target * self.opacity
        return (image + self.bones) * self.body

    def cover(self, share: np.ndarray, grey: float) -> None:
        """Lay a veil of the given grey over a share (H, W) of each pixel."""
        share = np.clip(share, 0, 1)
        if self.opacity is None:
            self.opacity, self.target = np.zeros_like(share), np.zeros_like(share)
        total = self.opacity + share - self.opacity * share
        weight = np.divide(share, total, out=np.zeros_like(share), where=total > 1e-9)
        self.target = self.target * (1 - weight) + grey * weight
        self.opacity = total


def diaphragm(anatomy: Anatomy, side: str, t: np.ndarray) -> np.ndarray:
    """Height y of the hemidiaphragm at lateral distance t from the midline."""
    index = 0 if side == "right" else 1
    top, angle, centre = anatomy.dome[index], anatomy.sulcus[index], 0.36
    outward = np.clip((t - centre) / (anatomy.lung_width - centre), 0, None)
    inward = np.clip((centre - t) / centre, 0, None)
    return top + (angle - top) * outward**2 + 0.12 * inward**2


def render(canvas: Canvas, anatomy: Anatomy, vessels: np.ndarray, bones: np.ndarray) -> Scene:
    """Draw the healthy structures with the vessels and bones (H, W) given, so that two calls can be compared."""
    x, y, a = canvas.x, canvas.y, anatomy
    wall = a.lung_width * np.sqrt(np.clip(1 - ((y - 0.28) / (0.28 - a.apex)) ** 2, 0.0, None))
    wall = np.where(y > 0.28, a.lung_width, wall)
    middle = x - a.shift * np.clip(0.6 + 0.6 * y, 0.2, 1)
    lung = {}
    for side, sign in SIDES.items():
        t = sign * x
        inner = sign * middle - 0.11 - 0.03 * np.cos(3 * y)
        lung[side] = soft(np.minimum(np.minimum(wall - t, inner), diaphragm(a, side, t) - y), 0.012)
    cx, cy, rx, ry = a.heart
    heart = canvas.ellipse(cx + a.shift, cy, rx, ry, angle=0.5, width=0.015)
    if a.left_bulge:
        heart = np.maximum(heart, canvas.ellipse(cx + a.shift + 0.16, cy - 0.02, a.left_bulge, 0.24, angle=0.35))
    if a.right_bulge:
        heart = np.maximum(heart, canvas.ellipse(cx + a.shift - 0.17, cy + 0.04, a.right_bulge, 0.20))
    knob = canvas.ellipse(0.13 + a.shift * 0.4, -0.38, a.knob + 0.03, a.knob + 0.05)
    lung = {side: mask * (1 - heart) * (1 - knob) for side, mask in lung.items()}
    lungs = np.maximum(lung["left"], lung["right"])
    neck = soft(0.30 - np.abs(x), 0.05) * soft(-0.75 - y, 0.05)
    shoulders = soft(1 - np.sqrt((x / 1.06) ** 2 + ((y - 0.45) / 1.28) ** 4), 0.012)
    body = 0.04 + 0.96 * np.clip(shoulders + neck, 0, 1)
    spine = soft(0.085 - np.abs(middle), 0.02) * (1 + 0.15 * np.cos(y * 38))
    tissue = 0.55 + 0.10 * soft(y - 0.5, 0.08) + 0.08 * soft(0.2 - np.abs(middle), 0.04) + 0.05 * spine
    tissue = np.maximum(tissue, 0.70 * heart) + 0.03 * knob
    tissue = tissue * (1 - lungs) + (a.lung_grey + 0.06 * np.abs(y - 0.1)) * lungs
    trachea = soft(0.045 - np.abs(x - 0.01), 0.012) * soft(-0.32 - y, 0.04) * soft(y + 1.0, 0.03)
    tissue = tissue - 0.13 * trachea
    if a.breast:
        for sign in (-1, 1):
            tissue = tissue + a.breast * canvas.ellipse(sign * 0.45, 0.38, 0.34, 0.30, width=0.05)
    return Scene(canvas, a, lung, heart, body, tissue, vessels, bones)


def draw_vessels(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Brightness (H, W) of a random tree of vessels out of each hilum."""
    thick, thin = ([], []), ([], [])
    for sign in (-1, 1):
        hilum = np.array([sign * 0.19 + anatomy.shift, -0.02])
        for angle in np.linspace(-1.25, 1.25, 8) + rng.normal(0, 0.1, 8):
            length = rng.uniform(0.40, 0.60)
            steps = np.linspace(0, 1, 7)[:, None]
            direction = np.array([sign * np.cos(angle), np.sin(angle)])
            curve = np.array([-direction[1], direction[0]]) * rng.normal(0, 0.05)
            path = hilum + steps * length * direction + steps**2 * curve
            for part, width in ((path[:3], 0.030), (path[2:5], 0.020), (path[4:], 0.012)):
                group = thick if width > 0.015 else thin
                group[0].append(part)
                group[1].append(width)
            for _ in range(2):
                start = path[rng.integers(2, 5)]
                turn = angle + rng.choice([-1, 1]) * rng.uniform(0.4, 0.8)
                end = start + rng.uniform(0.15, 0.28) * np.array([sign * np.cos(turn), np.sin(turn)])
                thin[0].append(np.array([start, end]))
                thin[1].append(0.012)
    hila = sum(canvas.ellipse(s * 0.18 + anatomy.shift, -0.02, 0.06, 0.13, width=0.03) for s in (-1, 1))
    return 0.20 * canvas.lines(*thick) + 0.14 * canvas.lines(*thin) + 0.20 * np.clip(hila, 0, 1)


def draw_bones(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Brightness (H, W) of ribs and clavicles."""
    x, y = canvas.x, canvas.y
    t = np.abs(x)
    level = y - 0.30 * t + 0.55 * np.clip(t - 0.45, 0, None) ** 2 + rng.normal(0, 0.02)
    spacing = 0.165 + rng.normal(0, 0.006)
    phase = np.mod(level + 0.85, spacing) - spacing / 2
    ribs = soft(0.035 - np.abs(phase), 0.008) * soft(0.93 - t, 0.02) * soft(0.55 - y, 0.06) * soft(t - 0.08, 0.03)
    front = y + 0.45 * t
    other = np.mod(front + 0.3, spacing * 1.1) - spacing * 0.55
    anterior = soft(0.03 - np.abs(other), 0.012) * soft(0.85 - t, 0.03) * soft(t - 0.3, 0.05) * soft(0.3 - y, 0.08)
    clavicle = soft(0.03 - np.abs(y + 0.62 + 0.22 * (t - 0.4)), 0.01) * soft(t - 0.08, 0.02) * soft(0.85 - t, 0.03)
    return 0.075 * ribs + 0.03 * anterior + 0.11 * clavicle


@dataclass(frozen=True)
class Site:
    """How a hospital's machine renders: gamma, gain and noise of the detector."""

    gamma: float
    gain: float
    noise: float
    blur: float


SITES = {"A": Site(1.0, 1.0, 0.018, 0.4), "B": Site(0.85, 0.95, 0.026, 0.55), "C": Site(1.2, 1.08, 0.022, 0.3)}


def expose(grey: np.ndarray, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Exposure, blur and noise: (H, W) grey to (H, W) uint8."""
    image = gaussian_filter(grey, site.blur) * site.gain * (1 + rng.normal(0, 0.05)) + rng.normal(0, 0.015)
    image = np.clip(image, 0, None) ** (site.gamma * np.exp(rng.normal(0, 0.10)))
    grain = rng.normal(0, site.noise * rng.uniform(0.6, 1.4), image.shape)
    return np.clip((image + gaussian_filter(grain, 0.5) * 1.4) * 235, 0, 255).round().astype(np.uint8)
