"""Which process of several this is, as `torchrun` and accelerate's launchers say it."""

from __future__ import annotations

import os


def world() -> tuple[int, int]:
    """Number of this process, from 0, and how many run together."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this process is the one that writes and prints; true where it is alone."""
    return world()[0] == 0
