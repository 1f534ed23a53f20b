"""Lengths of rows in bins of a round width, text and media apart; drawn by ``terminal.py`` and ``page.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log10

from mmllm.inspection.survey import Length

BINS = 20
"""Most bins."""


@dataclass(frozen=True)
class Bin:
    """Rows of ``start`` to ``end`` - 1 tokens."""

    start: int
    end: int
    n_rows: int
    media_share: float
    """Share of their tokens that are places of media."""


def histogram(lengths: Sequence[Length]) -> list[Bin]:
    """Return bins of one width from 0 to the longest row, empty ones too."""
    longest = max((length.total for length in lengths), default=0)
    width = _round_up((longest + 1) / BINS)
    rows: dict[int, list[Length]] = {}
    for length in lengths:
        rows.setdefault(length.total // width, []).append(length)
    bins = []
    for number in range(longest // width + 1 if lengths else 0):
        inside = rows.get(number, [])
        total = sum(length.total for length in inside)
        share = sum(length.media for length in inside) / total if total else 0.0
        bins.append(Bin(number * width, (number + 1) * width, len(inside), share))
    return bins


def _round_up(width: float) -> int:
    """The least of 1, 2, 5, 10, 20, 50, ... that is no less."""
    unit = 10 ** int(log10(max(width, 1)))
    return next(int(unit * step) for step in (1, 2, 5, 10) if unit * step >= ceil(width))
