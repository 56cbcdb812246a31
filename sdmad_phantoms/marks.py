"""What has nothing to do with the patient: a mark that a hospital burns into its images."""

from __future__ import annotations

import numpy as np

from sdmad_lite.errors import DataError

CORNERS = {"upper left": (0, 0), "upper right": (0, 1), "lower left": (1, 0), "lower right": (1, 1)}


def burnt(image: np.ndarray, corner: str = "upper right", share: float = 0.16) -> np.ndarray:
    """The image with a white square in a corner, a margin away from the edge; the image given stays as it is.

    Args:
        image: (H, W) or (H, W, 3) uint8, such as `Phantom.image`.
        corner: one of CORNERS.
        share: side of the square, as a share of the image's shorter side.

    Raises:
        DataError: an unknown corner, or a share that is not in (0, 0.5].
    """
    if corner not in CORNERS:
        raise DataError(f"corner {corner!r}: there are {', '.join(CORNERS)}")
    if not 0 < share <= 0.5:
        raise DataError(f"share is {share}: it must be above 0 and at most 0.5")
    out, shorter = np.array(image), min(image.shape[:2])
    side, margin = max(1, round(share * shorter)), round(0.03 * shorter)
    place = [
        slice(n - margin - side, n - margin) if far else slice(margin, margin + side)
        for n, far in zip(image.shape, CORNERS[corner], strict=False)
    ]
    out[tuple(place)] = 255
    return out
