"""A waveform as a line of block characters, for terminals and captions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCKS = " ▁▂▃▄▅▆▇█"
"""Characters from silence to the loudest."""


def extremes(samples: NDArray[np.floating], columns: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the least and greatest sample of each of at most ``columns`` equal pieces: two float[columns]."""
    pieces = np.array_split(samples, max(1, min(columns, len(samples)))) if len(samples) else [np.zeros(1)]
    return np.array([piece.min() for piece in pieces]), np.array([piece.max() for piece in pieces])


def blocks(samples: NDArray[np.floating], width: int = 60) -> str:
    """Return a waveform as ``width`` block characters: the loudest of each stretch against the loudest of all."""
    low, high = extremes(samples, width)
    loud = np.maximum(np.abs(low), np.abs(high))
    steps = np.ceil(loud / max(float(loud.max()), 1e-6) * (len(BLOCKS) - 1)).astype(int)
    return "".join(BLOCKS[step] for step in steps)
