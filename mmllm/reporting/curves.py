"""Curves of a training as SVG: one value over the steps of a stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 440, 170, 54, 24, 12
"""Of the drawing, in units of its view box; it scales to the page."""
POINTS = 300
"""Most points of a curve: a longer one shows the mean of each stretch."""


def curve(name: str, steps: Sequence[int], values: Sequence[float]) -> str:
    """An ``<svg>`` of finite values over their steps, with its first, last, least and greatest in words."""
    pairs = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if len(pairs) < 2:
        return ""
    shown = _thinned(pairs)
    low, high = min(value for _, value in shown), max(value for _, value in shown)
    span, first, last = (high - low) or 1.0, shown[0][0], shown[-1][0]
    places = [
        (
            LEFT + (step - first) / ((last - first) or 1) * (WIDTH - LEFT - 8),
            TOP + (high - value) / span * (HEIGHT - TOP - BOTTOM),
        )
        for step, value in shown
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    base = HEIGHT - BOTTOM
    said = f"{name}: {pairs[0][1]:.4g} at step {pairs[0][0]}, {pairs[-1][1]:.4g} at step {pairs[-1][0]}"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">'
        f'<line class=axis x1="{LEFT}" y1="{base}" x2="{WIDTH - 8}" y2="{base}"/>'
        f'<polyline fill="none" stroke="currentColor" stroke-width="1.5" points="{line}"/>'
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{first:,}</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{last:,}</text></svg>'
        f"<figcaption>{escape(said)}</figcaption></figure>"
    )


def _thinned(pairs: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    each = -(-len(pairs) // POINTS)
    stretches = [pairs[start : start + each] for start in range(0, len(pairs), each)]
    return [tuple(sum(column) / len(some) for column in zip(*some, strict=True)) for some in stretches]
