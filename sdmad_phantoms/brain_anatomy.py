"""A healthy axial FLAIR slice of the head: a patient's anatomy, its rendering, and the exposure of a scanner.

Grey values before exposure: 0 is air, 1 is the brightest lesion; fluid is dark, as FLAIR shows it.
Everything here is our choice; the shapes follow textbook descriptions in caricature. What can be wrong
with it is in `brain_signs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .canvas import Canvas, Window, smooth_noise, soft

SIDES = {"right": -1, "left": 1}  # the patient's right is drawn on the left of the image
FLUID, CORTEX = 0.09, 0.046  # grey of fluid; thickness of the cortical ribbon
GYRI = 11  # folds of one hemisphere between the frontal and the occipital pole
FAR = 0.3  # distances are not told beyond it

# paths on one side, x being the distance from the midline; that of the Sylvian fissure in shares of the radius
HORN = np.array([[0.05, -0.03], [0.08, -0.20], [0.16, -0.33]])
TRIGONE = np.array([[0.19, 0.24], [0.26, 0.36], [0.24, 0.52]])
SYLVIAN = np.array([[1.06, -0.11], [0.80, -0.08], [0.68, 0.03], [0.74, 0.20], [0.69, -0.19]])
NUCLEI = (  # centre, radii, slant and brightness of caudate head, thalamus, putamen and pallidum
    (0.19, -0.21, 0.055, 0.11, 0.25, 0.9),
    (0.12, 0.10, 0.085, 0.14, -0.3, 0.8),
    (0.325, -0.05, 0.05, 0.15, 0.15, 0.9),
    (0.255, -0.01, 0.045, 0.09, 0.25, 0.25),
)


@dataclass(frozen=True)
class Anatomy:
    """One patient's shape, in anatomical units; the same in all images of the patient."""

    radii: tuple[float, float] = (0.66, 0.79)  # of the inner skull
    egg: float = 0.07  # how much wider the head is behind
    scalp: float = 0.055
    ventricles: tuple[float, float] = (0.045, 0.045)  # half width of the right and left lateral ventricle
    horn: float = 0.0  # how far the horns reach
    third: float = 0.016
    round_third: float = 0.0
    sulci: float = 0.012  # half width
    sylvian: float = 0.016
    gap: float = 0.012  # half width of the fissure between the frontal lobes
    shift: float = 0.0  # of the midline, to the patient's left
    swollen: tuple[float, float] = (0.0, 0.0)  # share of swelling in the right and left hemisphere
    white: float = 0.40
    grey: float = 0.54
    folds: int = 0  # seed of the pattern of the gyri

    @staticmethod
    def sample(rng: np.random.Generator, age: float, sex: str) -> Anatomy:
        """A patient: age widens ventricles and sulci gently, women have slightly smaller heads."""
        old, head = (age - 55) / 35, 0.965 if sex == "F" else 1.0
        ventricle, uneven = 0.041 + rng.normal(0, 0.004) + 0.008 * old, rng.normal(0, 0.004)
        sulci = 0.012 + np.clip(rng.normal(0, 0.0015), -0.003, 0.003) + 0.004 * old
        return Anatomy(
            radii=(head * (0.665 + rng.normal(0, 0.018)), head * (0.795 + rng.normal(0, 0.016))),
            egg=0.07 + rng.normal(0, 0.02),
            scalp=0.055 + rng.normal(0, 0.006),
            ventricles=(max(0.026, ventricle - uneven), max(0.026, ventricle + uneven)),
            horn=rng.normal(0, 0.02),
            third=0.015 + abs(rng.normal(0, 0.003)) + 0.004 * old,
            sulci=sulci,
            sylvian=sulci + 0.004 + abs(rng.normal(0, 0.003)),
            gap=sulci - 0.001,
            white=0.40 + rng.normal(0, 0.012),
            grey=0.54 + rng.normal(0, 0.015),
            folds=int(rng.integers(2**31)),
        )


@dataclass(frozen=True)
class Frame:
    """What does not depend on the anatomy's widths, so that two renderings can be compared; arrays are (H, W)."""

    canvas: Canvas
    depth: np.ndarray  # below the inner skull; negative outside
    shell: np.ndarray  # grey of skull, scalp and air
    to_sulcus: np.ndarray  # distance from the middle of the nearest sulcus
    to_sylvian: np.ndarray
    texture: np.ndarray  # faint mottling of the brain
    chance: tuple[float, float]  # in [0, 1]: where a mass sits, where the dura is touched
    middle: Window  # around the midline
    inner: Window  # around deep nuclei and third ventricle


@dataclass
class Scene:
    """One rendering; signs are laid over `image`. Arrays are (H, W)."""

    frame: Frame
    anatomy: Anatomy
    image: np.ndarray
    cortex: np.ndarray  # distance from the fluid around the brain; the ribbon ends at CORTEX
    ventricle: np.ndarray  # distance inside the ventricles; negative outside, nowhere below -FAR

    @property
    def canvas(self) -> Canvas:
        return self.frame.canvas

    def place(self, side: str, angle: float, share: float) -> tuple[float, float]:
        """The point at an angle from the frontal pole and a share of the way from the centre to the skull."""
        rx, ry = self.anatomy.radii
        y = -np.cos(angle) * share
        return SIDES[side] * np.sin(angle) * share * rx * (1 + self.anatomy.egg * y), y * ry

    def cover(self, share: np.ndarray, grey: float, window: Window = (slice(None), slice(None))) -> None:
        """Lay a veil of the given grey over a share of each pixel of a window."""
        part = self.image[window]
        part += share * (grey - part)


def frame(canvas: Canvas, anatomy: Anatomy, chance: tuple[float, float]) -> Frame:
    """Place head, gyri and Sylvian fissures on the canvas. The pattern of the gyri is the patient's own."""
    rng, size, a = np.random.default_rng(anatomy.folds), canvas.size, anatomy
    contour, coarse, fine, texture = (smooth_noise(rng, size, cells) for cells in (3, 6, 11, 9))
    v = canvas.y * (-1 / a.radii[1])
    t = np.abs(canvas.x)
    u = t / (a.radii[0] - a.radii[0] * a.egg * v)
    radius = np.sqrt(u * u + v * v)
    depth = (1 - radius) * (0.5 * sum(a.radii)) + 0.006 * contour
    # sulci are level lines of the angle around the head (about the arc cosine), warped by noise until they wind
    v /= radius + 1e-9
    steep = np.abs(v)
    angle = 0.5 - np.copysign(0.5 - np.sqrt(1 - steep) * (0.5 - 0.05 * steep), v)
    phase = angle * GYRI + 0.70 * coarse + 0.24 * fine + rng.uniform()
    fold = np.rint(phase)
    which = fold.astype(np.int64)
    which += np.where(canvas.x > 0, 8, 24 + GYRI)
    stems = rng.uniform(0.04, 0.24, size=2 * (16 + GYRI))
    forks = rng.uniform(-0.05, 0.05, size=2 * (16 + GYRI))
    below = depth - stems.take(which, mode="clip") - 0.02 * fine
    slope = _slope(phase, size / 2)
    slope += 1.0
    part = np.subtract(phase, fold, out=phase)
    aside, fork = np.divide(part, slope, out=slope), forks.take(which, mode="clip")
    stem = aside * aside
    stem += np.maximum(below, 0) ** 2
    # at its lower end a sulcus forks; a fork ends before the middle of the gyrus
    flank, side = np.abs(aside), np.abs(part)
    below += 0.6 * flank
    aside -= fork
    branch = np.abs(aside, out=aside)
    branch -= np.abs(fork, out=fork)
    side -= 0.3
    np.maximum(branch, side, out=branch)
    branch.clip(0, None, out=branch)
    branch *= branch
    below *= below
    below *= 0.75
    branch += below
    to_sulcus = np.minimum(stem, branch, out=stem)
    np.sqrt(to_sulcus, out=to_sulcus)
    to_sulcus += 0.6 * np.maximum(0.12 - t, 0)
    to_sylvian = np.full_like(depth, FAR)
    for side in SIDES.values():
        window = _half(canvas, side, 0.33, 0.78, -0.35, 0.36)
        path = SYLVIAN * (a.radii[0], 1) + rng.normal(0, 0.016, SYLVIAN.shape)
        x, y = side * canvas.x[window] + 0.025 * coarse[window], canvas.y[window] + 0.03 * fine[window]
        to_sylvian[window] = np.minimum(_distance(x, y, path[:4]), _distance(x, y, path[[1, 4]]))
    walls = [-0.085 - a.scalp, -0.07 - a.scalp, -0.085, -0.07, -0.052, -0.038, -0.024, -0.01, 0.0]
    shell = np.interp(depth, walls, [0.0, 0.72, 0.80, 0.10, 0.08, 0.20, 0.08, 0.05, FLUID])
    middle, inner = canvas.window(-0.32, -1, 0.32, 1), canvas.window(-0.50, -0.45, 0.50, 0.50)
    return Frame(canvas, depth, shell, to_sulcus, to_sylvian, 0.008 * texture, chance, middle, inner)


def _slope(field: np.ndarray, scale: float) -> np.ndarray:
    """Length of the gradient (H, W) per pixel, times a scale; the border repeats what is next to it."""
    down, across = np.empty_like(field), np.empty_like(field)
    np.subtract(field[2:], field[:-2], out=down[1:-1])
    np.subtract(field[:, 2:], field[:, :-2], out=across[:, 1:-1])
    down[[0, -1]], across[:, [0, -1]] = down[[1, -2]], across[:, [1, -2]]
    down *= down
    across *= across
    down += across
    np.sqrt(down, out=down)
    down *= 0.5 * scale
    return down


def _half(canvas: Canvas, side: int, inner: float, outer: float, top: float, bottom: float) -> Window:
    """The window between two distances from the midline on one side."""
    left, right = sorted((side * inner, side * outer))
    return canvas.window(left, top, right, bottom)


def _distance(x: np.ndarray, y: np.ndarray, path: np.ndarray, thick: Sequence[float] | None = None) -> np.ndarray:
    """Distance (H, W) from a polyline (P, 2), less its thickness at the nearest point."""
    best = None
    for i, ((ax, ay), (bx, by)) in enumerate(pairwise(path.tolist())):
        dx, dy, wx, wy = bx - ax, by - ay, x - ax, y - ay
        square = dx * dx + dy * dy
        along = wx * (dx / square)
        along += wy * (dy / square)
        along.clip(0, 1, out=along)
        wx -= along * dx
        wy -= along * dy
        wx *= wx
        wy *= wy
        wx += wy
        gap = np.sqrt(wx, out=wx)
        if thick is not None:
            along *= thick[i + 1] - thick[i]
            along += thick[i]
            gap -= along
        best = gap if best is None else np.minimum(best, gap, out=best)
    return best


def _ventricles(f: Frame, a: Anatomy, x: np.ndarray) -> np.ndarray:
    """Distance inside the lateral ventricles, each a frontal horn and a trigone; x (H, W) is told from the midline."""
    inside = np.full_like(x, -FAR)
    for side, width in zip(SIDES.values(), a.ventricles, strict=True):
        more = width - 0.041  # a wide ventricle grows away from the midline, a pressed one towards it
        horn = HORN + np.array([[0.75, 0], [0.75, 0], [1.0, -0.35]]) * more + np.outer((0.3, 0.3, 1.0), (a.horn, 0))
        trigone = TRIGONE + np.array([[0.5, -1.1], [0.5, 0.1], [0.5, 0.6]]) * more + np.outer((0, 0, 1), (0, a.horn))
        moved = 1.25 * side * a.shift
        room = 2 * max(0, more)
        for path, thick, outer, top, bottom in (
            (horn, (0.55, 0.95, 0.75), 0.40 + room, -0.58, 0.20),
            (trigone, (0.55, 1.05, 0.35), 0.50 + room, 0.0, 0.78),
        ):
            window = _half(f.canvas, side, min(0, moved) - 0.02, max(0, moved) + outer, top, bottom)
            t = side * x[window]
            part = -_distance(t, f.canvas.y[window], path, np.multiply(thick, width).tolist())
            np.maximum(inside[window], np.minimum(part, t - 0.012), out=inside[window])  # the septum stays
    return inside


def _ramp(field: np.ndarray, steep: float, level: np.ndarray | float) -> np.ndarray:
    """From 0 to 1 where `field` times `steep` plus `level` does."""
    share = field * steep
    share += level
    return share.clip(0, 1, out=share)


def render(f: Frame, anatomy: Anatomy) -> Scene:
    """Draw the healthy slice of an anatomy on its frame."""
    x, y, a = f.canvas.x, f.canvas.y, anatomy
    if a.shift:
        x = x - a.shift * np.clip(1 - ((y + 0.02) / 0.75) ** 2, 0, None) * np.clip(1.25 - np.abs(x) / 0.6, 0, 1)
    # fluid around the brain: surface, sulci, Sylvian and interhemispheric fissure
    sulci, sylvian, swollen = a.sulci, a.sylvian, 0.0
    if any(a.swollen):
        swollen = np.where(x < 0, *a.swollen) * soft(0.55 - np.abs(y), 0.10) * soft(np.abs(x) - 0.12, 0.05)
        sulci, sylvian = sulci - 0.035 * swollen, sylvian - 0.04 * swollen
    cortex = np.minimum(f.to_sulcus - sulci, f.depth - 0.5 * np.maximum(sulci, 0) - 0.004)
    cortex = np.minimum(cortex, f.to_sylvian - sylvian)
    middle, inner = f.middle, f.inner
    my, aside = y[middle], (x[middle] + 1.2 * f.texture[middle]) ** 2
    front = np.sqrt(aside + np.clip(my + 0.43, 0, None) ** 2) - a.gap * (1 + 1.2 * np.clip(-0.45 - my, 0, 1))
    behind = np.sqrt(aside + np.clip(0.47 - my, 0, None) ** 2) - 0.012
    cortex[middle] = np.minimum(cortex[middle], np.minimum(front, behind))
    ribbon = _ramp(cortex, 45, 0.55)
    grey, thick = a.grey + 0.13 * swollen, CORTEX + 0.022 * swollen
    image = (grey - FLUID) * ribbon
    image += FLUID
    image += (a.white - grey) * _ramp(cortex, 40, 0.5 - 40 * thick)
    image += f.texture
    # deep nuclei, then fluid within: ventricles with a septum between, and the choroid plexus
    ix, iy, part = x[inner], y[inner], image[inner]
    t, deep = np.abs(ix), 0.0
    for cx, cy, rx, ry, slant, bright in NUCLEI:
        dy = iy - cy
        dx = (t - cx - slant * dy) * (1 / rx)
        deep = np.maximum(deep, np.clip((1 - dx * dx - (dy * (1 / ry)) ** 2) * (2.2 * bright), 0, bright))
    part += deep * (0.9 * (a.grey - a.white))
    ventricle = _ventricles(f, a, x)
    radius, height = a.third + a.round_third, 0.10 + 0.25 * a.round_third
    third = (1 - np.sqrt((ix / radius) ** 2 + ((iy - 0.09) / height) ** 2)) * radius
    ventricle[inner] = np.maximum(ventricle[inner], third)
    fluid = soft(ventricle, 0.018)
    image += fluid * (FLUID - image)
    plexus = np.clip(1.6 - 1.6 * (((t - 0.255) / 0.022) ** 2 + ((iy - 0.375) / 0.05) ** 2), 0, 1) * fluid[inner]
    part += plexus * (0.40 - part)
    np.copyto(image, f.shell, where=f.depth < 0)
    return Scene(f, a, image, cortex, ventricle)


@dataclass(frozen=True)
class Site:
    """How a scanner renders: gamma, gain, noise, blur (share taken from neighbours), and its bias field."""

    gamma: float
    gain: float
    noise: float
    blur: float
    bias: tuple[float, float, float]  # left to right, top to bottom, rim to centre


SITES = {
    "A": Site(1.0, 1.0, 0.020, 0.06, (0.0, 0.0, 0.0)),
    "B": Site(0.80, 0.98, 0.025, 0.15, (0.05, 0.10, -0.08)),
    "C": Site(1.22, 1.12, 0.026, 0.03, (-0.06, -0.05, 0.12)),
}
MACHINES = {
    "dark": Site(1.9, 0.75, 0.022, 0.06, (0.0, 0.0, 0.0)),
    "noisy": Site(1.0, 1.0, 0.110, 0.15, (0.0, 0.0, 0.0)),
}


def expose(grey: np.ndarray, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Blur, bias field of the coil, Rician-like noise and contrast: (H, W) grey to (H, W) uint8."""
    size = len(grey)
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    right, down, centre = np.array(site.bias) + rng.normal(0, 0.02, 3)
    bias = (1 + right * axis + centre * (0.4 - axis**2))[None] + (down * axis + centre * (0.4 - axis**2))[:, None]
    image = _blur(grey, site.blur * rng.uniform(0.7, 1.3)) * bias * (site.gain * (1 + rng.normal(0, 0.04)))
    noise = site.noise * rng.uniform(0.7, 1.3)
    grain = _blur(rng.standard_normal(grey.shape, dtype=np.float32), 0.12) * np.float32(1.6 * noise)
    image = np.sqrt((image + grain) ** 2 + noise**2)  # the magnitude of a noisy signal is never zero
    shades = np.linspace(0, 1.7, 1024) ** (site.gamma * np.exp(rng.normal(0, 0.06)))
    shades = np.clip(240 * shades, 0, 255).round().astype(np.uint8)
    return shades[np.minimum((image * (1023 / 1.7)).astype(np.int64), 1023)]


def _blur(image: np.ndarray, share: float) -> np.ndarray:
    """Each pixel gives a share to either neighbour, along rows, then along columns."""
    for turned in (False, True):
        image = image.T if turned else image
        sides = np.concatenate([image[:1], image, image[-1:]])
        image = image * (1 - 2 * share) + share * (sides[:-2] + sides[2:])
    return image.T
