"""Choice of the frames of a clip, by their times; numpy alone, for the decoding worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from mmllm.processors.decoding.bad_media import BadMedia

SAME_RATE = 0.1
"""Share of the mean gap between frames by which one may be farther from its time and still be the one by number."""


def sampled(seconds: Sequence[float], frames: int, fps: float | None) -> list[int]:
    """Indices of the frames to take: evenly in time from the first to the last one.

    Without ``fps`` always ``frames`` of them, some repeated where the clip has fewer. With it so few that they are at
    least 1 / fps apart on average, and none twice. At an even rate these are evenly many frames apart; stamps that a
    container rounds change nothing.
    """
    count = frames
    if fps is not None:
        # the margin: a clip of just so many intervals must not lose its last frame to rounding
        count = min(frames, len(seconds), int((seconds[-1] - seconds[0]) * fps + 1e-6) + 1)
    by_number = numpy.linspace(0, len(seconds) - 1, count).round().astype(int)
    if count < 2 or count >= len(seconds):
        return [int(index) for index in by_number]
    return _in_time(numpy.asarray(seconds, dtype=numpy.float64), by_number)


def _in_time(stamps: numpy.ndarray, by_number: numpy.ndarray) -> list[int]:
    """The frames nearest to even times, none twice; those ``by_number`` where they are as near but for rounding."""
    n, count = len(stamps), len(by_number)
    wanted = numpy.linspace(stamps[0], stamps[-1], count)
    behind = numpy.searchsorted(stamps, wanted).clip(1, n - 1)
    nearest = numpy.where(wanted - stamps[behind - 1] <= stamps[behind] - wanted, behind - 1, behind)
    slack = SAME_RATE * (stamps[-1] - stamps[0]) / (n - 1)
    as_near = abs(stamps[by_number] - wanted) <= abs(stamps[nearest] - wanted) + slack
    chosen = numpy.where(as_near, by_number, nearest)
    places = numpy.arange(count)
    # where one frame stands for long, the ones behind it fill up what is wanted
    chosen = numpy.maximum.accumulate(chosen - places) + places
    return [int(index) for index in numpy.minimum(chosen, n - count + places)]


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
