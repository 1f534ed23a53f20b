"""How fast this machine multiplies: the rate that a plan's time rests on where none is given."""

from __future__ import annotations

import time

import torch

SIDE = 1024
"""Of the matrices: large enough that the product itself is what takes the time."""
SECONDS = 0.5


def measured_rate() -> float:
    """Floating point operations a second of float32 matrix products on the CPU, with torch's threads."""
    left, right = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    left @ right  # the first one starts threads and fills caches
    n, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        left @ right
        n += 1
    return 2 * SIDE**3 * n / (time.perf_counter() - start)
