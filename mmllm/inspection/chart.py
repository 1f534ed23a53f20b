"""The lengths of rows as a picture in SVG: a bar for each bin, media on text, and where the context ends."""

from __future__ import annotations

from collections.abc import Sequence

from mmllm.inspection.histogram import Bin, histogram
from mmllm.inspection.survey import Length

WIDTH, HEIGHT = 440, 190
"""Of the drawing, in units of its view box; it scales to the page."""
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 26, 28


def chart(lengths: Sequence[Length], context: int) -> str:
    """Return an ``<svg>`` element of the rows' lengths in tokens."""
    bins = histogram(lengths)
    shown = max(bins[-1].end, context + 1 if context < 1.5 * bins[-1].end else 0)
    scale = (WIDTH - LEFT - RIGHT) / shown
    most = max(one.n_rows for one in bins)
    bars = "".join(_bar(one, scale, most) for one in bins if one.n_rows)
    base = HEIGHT - BOTTOM
    lines = [
        f'<line class=axis x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}"/>',
        *_ticks(bins, shown, scale),
    ]
    lines.append(_context(context, shown, scale))
    longest = max(length.total for length in lengths)
    said = f"Rows by length in tokens: {len(lengths):,} rows, the longest {longest:,}."
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">{bars}{"".join(lines)}</svg>'
        "<p class=key><span class=text></span>text <span class=media></span>media "
        f"<small>height: rows, at most {most:,}</small></p>"
    )


def _bar(one: Bin, scale: float, most: int) -> str:
    height = (HEIGHT - TOP - BOTTOM) * one.n_rows / most
    height = max(height, 2.0)
    media = height * one.media_share
    x, width = LEFT + one.start * scale, max((one.end - one.start) * scale - 1.5, 1.0)
    base = HEIGHT - BOTTOM
    said = (
        f"{one.n_rows:,} rows of {one.start:,} to {one.end - 1:,} tokens, {100 * one.media_share:.0f} % of them media"
    )
    box = f'x="{x:.1f}" width="{width:.1f}"'
    return (
        f'<g><title>{said}</title><rect class=text {box} y="{base - height:.1f}" height="{height - media:.1f}"/>'
        f'<rect class=media {box} y="{base - media:.1f}" height="{media:.1f}"/></g>'
    )


def _ticks(bins: Sequence[Bin], shown: int, scale: float) -> list[str]:
    step = max(1, -(-len(bins) // 4)) * (bins[0].end - bins[0].start)
    places = range(0, shown + 1, step)
    y = HEIGHT - BOTTOM + 18
    ends = {0: "start"}
    return [
        f'<text x="{LEFT + place * scale:.1f}" y="{y}" text-anchor="{ends.get(place, "middle")}">{place:,}</text>'
        for place in places
        if place * scale < WIDTH - LEFT - RIGHT - 20
    ]


def _context(context: int, shown: int, scale: float) -> str:
    if context > shown:
        return f'<text class=context x="{WIDTH - RIGHT}" y="16" text-anchor="end">context {context:,} →</text>'
    x = LEFT + context * scale
    anchor = "end" if x > WIDTH / 2 else "start"
    shift = -6 if anchor == "end" else 6
    return (
        f'<line class=context x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class=context x="{x + shift:.1f}" y="16" text-anchor="{anchor}">context {context:,}</text>'
    )
