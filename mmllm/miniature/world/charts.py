"""Bar charts drawn with matplotlib, 64 x 64 pixels: a bar per row, its label left, its number in the right half."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmllm.miniature.world.documents import Rows
from mmllm.miniature.world.scenes import CELL, SIZE

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text

LONGEST = 14.0
HALF_START = SIZE / 2 + 1
MOST_ROWS = 4
HEIGHT = 9.0


@dataclass(frozen=True)
class _Stage:
    """One figure with its bars and texts, reused for every chart, because making them is what costs time."""

    canvas: FigureCanvasAgg
    bars: tuple[Rectangle, ...]
    labels: tuple[Text, ...]
    figures: tuple[Text, ...]


@lru_cache(maxsize=1)
def _stage() -> _Stage:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE / 100, SIZE / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, SIZE)
    axes.set_ylim(SIZE, 0)
    bars = tuple(axes.barh(0.0, 1.0, height=HEIGHT, left=HALF_START)[0] for _ in range(MOST_ROWS))
    texts = [
        axes.text(x, 0, "", fontsize=6.5, va="center", ha="left") for x in (1, HALF_START + LONGEST + 1) * MOST_ROWS
    ]
    # again: barh has moved the limits
    axes.set_xlim(0, SIZE)
    axes.set_ylim(SIZE, 0)
    return _Stage(canvas, bars, tuple(texts[0::2]), tuple(texts[1::2]))


def draw_chart(rng: Random, rows: Rows) -> Image.Image:
    """A horizontal bar chart; a bar's length is its value, which also stands beside it in figures."""
    stage = _stage()
    shade = (rng.uniform(0.45, 0.85), rng.uniform(0.45, 0.85), rng.uniform(0.45, 0.85))
    dark = (rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.3))
    for row in range(MOST_ROWS):
        artists = (stage.bars[row], stage.labels[row], stage.figures[row])
        for artist in artists:
            artist.set_visible(row < len(rows))
        if row >= len(rows):
            continue
        key, value = rows[row]
        middle = CELL * row + CELL / 2 + rng.randint(-1, 1)
        stage.bars[row].set(y=middle - HEIGHT / 2, width=LONGEST * int(value) / 99, facecolor=shade)
        stage.labels[row].set(y=middle, text=key, color=dark)
        stage.figures[row].set(y=middle, text=value, color=dark)
    stage.canvas.draw()
    return Image.fromarray(np.asarray(stage.canvas.buffer_rgba())[..., :3].copy())
