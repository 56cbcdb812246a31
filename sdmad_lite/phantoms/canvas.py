"""Soft-edged shapes on a posed, gently warped coordinate grid: what every phantom is drawn with.

Anatomical coordinates: x from -1 (the patient's right, left in the image) to 1, y from -1 (top) to 1.
All shapes return opacities in [0, 1]; arithmetic is float64 so that a sample is the same on every machine.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter


def soft(distance: np.ndarray, width: float = 0.02) -> np.ndarray:
    """Opacity of a region given its signed distance (positive inside); `width` is the edge's softness."""
    step = np.clip(distance * (0.25 / width) + 0.5, 0.0, 1.0)
    return step * step * (3 - 2 * step)


class Canvas:
    """A grid of anatomical coordinates `x, y` (H, W) under a random pose and warp."""

    def __init__(self, rng: np.random.Generator, size: int = 128, pose: float = 1.0, warp: float = 0.02):
        self.size = size
        angle, scale = rng.normal(0, 0.03) * pose, 1 + rng.normal(0, 0.03) * pose
        self.shift = rng.normal(0, 0.025, 2) * pose
        self.matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        axis = (np.arange(size) + 0.5) / size * 2 - 1
        gx, gy = np.meshgrid(axis, axis)
        self.bend = np.stack([smooth_noise(rng, size, 4) * warp for _ in range(2)])
        gx, gy = gx - self.shift[0], gy - self.shift[1]
        inverse = np.linalg.inv(self.matrix)
        self.x = inverse[0, 0] * gx + inverse[0, 1] * gy + self.bend[0]
        self.y = inverse[1, 0] * gx + inverse[1, 1] * gy + self.bend[1]

    def ellipse(self, cx, cy, rx, ry, angle: float = 0.0, width: float = 0.02) -> np.ndarray:
        """A filled ellipse with radii in anatomical units."""
        dx, dy = self.x - cx, self.y - cy
        if angle:
            c, s = np.cos(angle), np.sin(angle)
            dx, dy = c * dx + s * dy, c * dy - s * dx
        return soft((1 - np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)) * min(rx, ry), width)

    def ring(self, cx, cy, radius, thickness, width: float = 0.012) -> np.ndarray:
        """A circular wall of the given thickness."""
        return soft(thickness / 2 - np.abs(np.hypot(self.x - cx, self.y - cy) - radius), width)

    def lines(self, paths: list[np.ndarray], widths: list[float], blur: float = 0.5) -> np.ndarray:
        """Polylines (each (P, 2), anatomical) of the given widths, antialiased."""
        fine = 2 * self.size
        image = Image.new("L", (fine, fine))
        pen = ImageDraw.Draw(image)
        points = self._pixels(np.concatenate(paths), fine).tolist()
        start = 0
        for path, width in zip(paths, widths, strict=True):
            end = start + len(path)
            pen.line([tuple(p) for p in points[start:end]], fill=255, width=max(1, round(width * fine / 2)))
            start = end
        layer = np.asarray(image, dtype=np.float64)
        layer = (layer[::2, ::2] + layer[1::2, ::2] + layer[::2, 1::2] + layer[1::2, 1::2]) / (4 * 255)
        return gaussian_filter(layer, blur) if blur else layer

    def dots(self, points: np.ndarray, radii: np.ndarray, width: float = 0.012) -> np.ndarray:
        """Small discs at points (P, 2)."""
        layer = np.zeros_like(self.x)
        for (cx, cy), radius in zip(points, radii, strict=True):
            layer = np.maximum(layer, self.ellipse(cx, cy, radius, radius, width=width))
        return layer

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
