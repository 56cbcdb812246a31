"""Soft-edged shapes on a posed, gently warped coordinate grid: what every phantom is drawn with.

Anatomical coordinates: x from -1 (the patient's right, left in the image) to 1, y from -1 (top) to 1.
All shapes return opacities in [0, 1]; arithmetic is float64 so that a sample is the same on every machine.
Small shapes are computed only in the window of pixels that they can reach.
"""

from __future__ import annotations

from functools import cache
from math import ceil, cos, hypot, sin

import numpy as np
from PIL import Image, ImageDraw

Window = tuple[slice, slice]


def soft(distance: np.ndarray, width: float = 0.02) -> np.ndarray:
    """Opacity of a region given its signed distance (positive inside); `width` is the edge's softness."""
    step = distance * (0.25 / width)
    step += 0.5
    step.clip(0.0, 1.0, out=step)
    curve = step * -2.0
    curve += 3.0
    curve *= step
    curve *= step
    return curve


def smeared(image: np.ndarray, sigma: float) -> np.ndarray:
    """A slight blur (sigma up to a few pixels) by three-tap kernels of that variance; the border is repeated."""
    passes = ceil(2 * sigma**2)
    for _ in range(passes):
        ratio = (side := sigma**2 / passes / 2) / (1 - 2 * side)
        padded = np.empty((image.shape[0] + 2, image.shape[1] + 2))
        padded[1:-1, 1:-1] = image
        padded[0], padded[-1] = padded[1], padded[-2]
        padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
        for low, middle, high in (
            (np.s_[:-2], np.s_[1:-1], np.s_[2:]),
            (np.s_[:, :-2], np.s_[:, 1:-1], np.s_[:, 2:]),
        ):
            total = padded[low] + padded[high]
            total *= ratio
            total += padded[middle]
            padded = total
        image = padded
        image *= (1 - 2 * side) ** 2
    return image


class Canvas:
    """A grid of anatomical coordinates `x, y` (H, W) under a random pose and warp."""

    def __init__(self, rng: np.random.Generator, size: int = 128, pose: float = 1.0, warp: float = 0.02):
        self.size = size
        angle, scale = rng.normal(0, 0.03) * pose, 1 + rng.normal(0, 0.03) * pose
        self.shift = rng.normal(0, 0.025, 2) * pose
        self.matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.bend = np.stack([smooth_noise(rng, size, 4) for _ in range(2)]) * warp
        self._reach = np.abs(self.bend).max(axis=(1, 2)).tolist()
        axis = (np.arange(size) + 0.5) / size * 2 - 1
        gx, gy = (axis - self.shift[0])[None, :], (axis - self.shift[1])[:, None]
        inverse = np.linalg.inv(self.matrix)
        self.x = inverse[0, 0] * gx + inverse[0, 1] * gy + self.bend[0]
        self.y = inverse[1, 0] * gx + inverse[1, 1] * gy + self.bend[1]

    def window(self, left: float, top: float, right: float, bottom: float) -> Window:
        """Rows and columns that hold every pixel of a box in anatomical units."""
        centre, half = ((left + right) / 2, (top + bottom) / 2), ((right - left) / 2, (bottom - top) / 2)
        (ax, ay), (bx, by) = self.matrix.tolist()
        wide, high = half[0] + self._reach[0], half[1] + self._reach[1]
        slices = []
        for p, q, moved in ((bx, by, self.shift[1]), (ax, ay, self.shift[0])):
            middle, extent = p * centre[0] + q * centre[1] + moved, abs(p) * wide + abs(q) * high
            first, last = ((middle + e + 1) / 2 * self.size for e in (-extent, extent))
            slices.append(slice(max(0, int(first)), max(0, int(last) + 1)))
        return slices[0], slices[1]

    def ellipse(self, cx, cy, rx, ry, angle: float = 0.0, width: float = 0.02) -> np.ndarray:
        """A filled ellipse with radii in anatomical units."""
        layer = np.zeros_like(self.x)
        window, patch = self._ellipse(cx, cy, rx, ry, angle, width)
        layer[window] = patch
        return layer

    def ring(self, cx, cy, radius, thickness, width: float = 0.012) -> np.ndarray:
        """An annulus."""
        layer, reach = np.zeros_like(self.x), radius + thickness / 2 + 2 * width
        window = self.window(cx - reach, cy - reach, cx + reach, cy + reach)
        distance = np.sqrt((self.x[window] - cx) ** 2 + (self.y[window] - cy) ** 2)
        layer[window] = soft(thickness / 2 - np.abs(distance - radius), width)
        return layer

    def lines(self, paths: list[np.ndarray], widths: list[float], blur: float = 0.5) -> np.ndarray:
        """Polylines (each (P, 2), anatomical) of the given widths, antialiased."""
        fine = 2 * self.size
        image = Image.new("L", (fine, fine))
        pen = ImageDraw.Draw(image)
        points = self._pixels(np.concatenate(paths), fine).ravel().tolist()
        start = 0
        for path, width in zip(paths, widths, strict=True):
            end = start + 2 * len(path)
            pen.line(points[start:end], fill=255, width=max(1, round(width * fine / 2)))
            start = end
        layer = np.asarray(image.reduce(2)) * (1 / 255)
        return smeared(layer, blur) if blur else layer

    def dots(self, points: np.ndarray, radii: np.ndarray, width: float = 0.012) -> np.ndarray:
        """Small discs at points (P, 2)."""
        layer = np.zeros_like(self.x)
        for (cx, cy), radius in zip(points, radii, strict=True):
            window, patch = self._ellipse(cx, cy, radius, radius, 0.0, width)
            np.maximum(layer[window], patch, out=layer[window])
        return layer

    def _ellipse(self, cx, cy, rx, ry, angle, width) -> tuple[Window, np.ndarray]:
        c, s, grown = cos(angle), sin(angle), 1 + 2 * width / min(rx, ry)
        wide, high = hypot(rx * c, ry * s) * grown, hypot(rx * s, ry * c) * grown
        window = self.window(cx - wide, cy - high, cx + wide, cy + high)
        dx, dy = self.x[window] - cx, self.y[window] - cy
        if angle:
            dx, dy = c * dx + s * dy, c * dy - s * dx
        distance = np.sqrt((dx * (1 / rx)) ** 2 + (dy * (1 / ry)) ** 2)
        return window, soft((1 - distance) * min(rx, ry), width)

    def _pixels(self, points: np.ndarray, size: int) -> np.ndarray:
        moved = points @ self.matrix.T + self.shift
        cells = np.clip(((moved + 1) / 2 * self.size).astype(int), 0, self.size - 1)
        # the grid's warp, undone to first order where the line runs
        moved = moved - self.bend[:, cells[:, 1], cells[:, 0]].T
        return (moved + 1) / 2 * size


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """A smooth random field (size, size) of about unit variance with `cells` waves across."""
    spline = _spline(size, cells)
    return 2.0 * spline @ rng.normal(size=(cells + 3, cells + 3)) @ spline.T


@cache
def _spline(size: int, cells: int) -> np.ndarray:
    """Cubic B-spline weights (size, cells + 3) of control points spread over the pixels."""
    at = (np.arange(size) + 0.5) / size * cells
    gap = np.abs(at[:, None] + 1 - np.arange(cells + 3)[None])
    near, far = 2 / 3 - gap**2 + gap**3 / 2, np.clip(2 - gap, 0, None) ** 3 / 6
    return np.where(gap < 1, near, far)
