"""Choice of the frames of a clip, by their times; numpy alone, for the decoding worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from mmllm.processors.decoding.bad_media import BadMedia


def sampled(seconds: Sequence[float], frames: int, fps: float | None) -> list[int]:
    """Indices of the frames to take: evenly from the first to the last one.

    Without ``fps`` always ``frames`` of them, some repeated where the clip has fewer. With it so few that they are at
    least 1 / fps apart on average, and none twice.
    """
    count = frames
    if fps is not None:
        # the margin: a clip of just so many intervals must not lose its last frame to rounding
        count = min(frames, len(seconds), int((seconds[-1] - seconds[0]) * fps + 1e-6) + 1)
    return [int(index) for index in numpy.linspace(0, len(seconds) - 1, count).round()]


def within(seconds: Sequence[float], part: Sequence[float | None]) -> range:
    """Indices of the frames that a part (start, end) shows, in seconds of ``seconds``; None: the clip's own.

    An end behind the clip's is the clip's. A part between two frames shows the one before it. BadMedia where it begins
    behind the last frame.
    """
    start, end = part
    gap = seconds[-1] - seconds[-2] if len(seconds) > 1 else 0.0
    if start is not None and start > seconds[-1] + gap:
        raise BadMedia(f"lasts {seconds[-1] + gap:.1f} s, so no part of it begins at {start:g} s")
    slack = 1e-6  # time stamps are fractions
    first = next((i for i, s in enumerate(seconds) if start is None or s >= start - slack), len(seconds) - 1)
    last = max((i for i, s in enumerate(seconds) if end is None or s <= end + slack), default=0)
    return range(min(first, last), last + 1)


def lasting(seconds: Sequence[float]) -> float:
    """How long frames shown from these times on last: the last one as long as the one before it."""
    gap = seconds[-1] - seconds[-2] if len(seconds) > 1 else 0.0
    return seconds[-1] - seconds[0] + gap
