"""A frontal chest radiograph, and the radiological signs that can be drawn on it.

Two kinds of signs: some change the anatomy (`SHAPE_SIGNS`: a wider heart, a flatter diaphragm), the
others are laid over it (`OVERLAY_SIGNS`: an opacity, a line). Either way the mask of a sign is where
the image differs with and without it. Grey values before exposure: 0 is air, 1 is bone or fluid.
Everything here is our choice; the shapes follow textbook descriptions in caricature.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from .canvas import Canvas, smooth_noise, soft

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
    a = scene.anatomy
    wall = a.lung_width * np.sqrt(max(0.05, 1 - ((min(y, 0.28) - 0.28) / (0.28 - a.apex)) ** 2))
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
    edge = diaphragm(scene.anatomy, side, t)
    haze = np.exp(-(((y - edge + 0.05) / (0.10 + 0.04 * s)) ** 2)) * soft(t - 0.12, 0.04)
    scene.cover(0.9 * haze * soft(scene.anatomy.lung_width - t, 0.02) * soft(edge - y + 0.1, 0.03), 0.60)


def _fissure(scene, side, s, rng):
    height = 0.02 + rng.uniform(-0.05, 0.05)
    tilt = rng.uniform(-0.05, 0.05)
    t = -scene.canvas.x  # the horizontal fissure is in the right lung
    line = soft(0.014 + 0.012 * s - np.abs(scene.canvas.y - height - tilt * t), 0.007) * soft(t - 0.22, 0.03)
    scene.cover(0.8 * line * scene.lung["right"], 0.62)


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
    scene.cover((0.55 + 0.25 * s) * scene.canvas.lines(paths, widths, blur=0.8) * scene.lungs, 0.58)


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
    layer = scene.canvas.lines(paths, [0.016] * len(paths), blur=0.35)
    scene.cover((0.75 + 0.25 * s) * layer * scene.lungs, 0.62)


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
        paths.append(np.array([fork, fork + 0.18 * (outward + [0, 1.6 * turn])]))
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
    a, y = scene.anatomy, scene.canvas.y
    wall = a.lung_width * np.sqrt(np.clip(1 - ((np.minimum(y, 0.28) - 0.28) / (0.28 - a.apex)) ** 2, 0, None))
    return SIDES[side] * scene.canvas.x - (wall - depth * (1.15 - 0.5 * (y + 0.5)))


def _pleural_line(scene, side, s, rng):
    rim = _rim(scene, side, 0.16 + 0.07 * s)
    line = soft(0.011 - np.abs(rim), 0.006) * soft(0.35 - scene.canvas.y, 0.05)
    scene.cover(0.85 * line * scene.lung[side], 0.62)


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
    layer = scene.canvas.lines(paths, [0.010] * len(paths), blur=0.4)
    zone = soft(scene.canvas.y - 0.06, 0.06)
    scene.cover((0.75 + 0.25 * s) * layer * zone * scene.lungs, 0.52)


def _honeycomb(scene, side, s, rng):
    lung, t, y = scene.lung[side], SIDES[side] * scene.canvas.x, scene.canvas.y
    layer = np.zeros_like(t)
    for row, cy in enumerate((0.22, 0.32, 0.42, 0.52)):
        for cx in np.arange(0.46, 0.76, 0.105) + 0.05 * (row % 2):
            wall = scene.canvas.ring(SIDES[side] * cx + rng.normal(0, 0.006), cy + rng.normal(0, 0.006), 0.040, 0.022, 0.006)
            layer = np.maximum(layer, wall)
    zone = soft(t - 0.40, 0.03) * soft(y - 0.14, 0.03)
    scene.cover(0.35 * zone * lung, 0.12)
    scene.cover((0.70 + 0.25 * s) * layer * lung, 0.60)


def _shaggy_heart(scene, side, s, rng):
    cx, cy, rx, ry = scene.anatomy.heart
    paths = []
    for angle in np.concatenate([np.linspace(-0.9, 0.9, 13), np.pi + np.linspace(-0.8, 0.8, 11)]) + rng.normal(0, 0.04, 24):
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
