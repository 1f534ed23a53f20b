"""Drawings of what the model is shown: sound as waveform and spectrogram, graphs, point clouds, strips of video frames.

``serving/preview.py`` and ``inspection`` call it with what processors give. matplotlib's Agg only: no display, no
state of pyplot.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import networkx
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mmllm.drawing.waveform import extremes

DRAWN_POINTS = 4000
"""Maximum number of points drawn of a cloud."""
DRAWN_SAMPLES = 2000
"""Maximum number of columns of a waveform; longer sounds show the extremes of each column."""
LOCK = threading.Lock()
"""Held while matplotlib draws: its fonts are shared by all threads and not safe for them."""

Floats = NDArray[np.floating]


def sound(samples: Floats, rate: int, borders: Sequence[float] = ()) -> Image.Image:
    """Draw the waveform above the spectrogram of float[n] samples at ``rate`` Hz; ``borders``: seconds to mark."""
    figure = Figure(figsize=(6, 3), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    seconds = max(len(samples) / rate, 1e-6)
    low, high = extremes(samples, DRAWN_SAMPLES)
    above.fill_between(np.linspace(0, seconds, len(low)), low, high, linewidth=0.5)
    # at least 1e-3: silence is a flat line, not its rounding noise drawn large
    loudest = 1.05 * max(float(np.abs([low, high]).max()), 1e-3)
    above.set(ylim=(-loudest, loudest), yticks=[])
    for border in borders:
        above.axvline(border, color="tab:orange", linewidth=1)
    below.imshow(spectrogram(samples), origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, rate / 2000))
    below.set(xlim=(0, seconds), xlabel="seconds", ylabel="kHz")
    return _picture(figure)


def spectrogram(samples: Floats, window: int = 512, columns: int = 600) -> Floats:
    """Return decibels below the loudest, float[window / 2 + 1, up to columns]; windows lie apart in a long sound."""
    padded = np.pad(samples.astype(np.float64), (0, max(0, window - len(samples))))
    starts = np.linspace(0, len(padded) - window, min(columns, 1 + (len(padded) - window) // (window // 4))).astype(int)
    frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    # 1e-12: silence has no logarithm
    decibels = 10 * np.log10(power.T + 1e-12)
    return np.maximum(decibels, decibels.max() - 80)


def graph(n_nodes: int, edges: NDArray[np.int64], labels: Sequence[str], centre: int | None) -> Image.Image:
    """Draw nodes 0..n-1 and edges int64[E, 2]; ``centre`` stands out, labels are cut to a few letters."""
    figure = Figure(figsize=(5, 4), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    drawn = networkx.Graph()
    drawn.add_nodes_from(range(n_nodes))
    drawn.add_edges_from(edges.tolist())
    # the same graph is drawn the same way again
    placed = networkx.spring_layout(drawn, seed=0)
    places = np.array([placed[node] for node in range(n_nodes)]).reshape(-1, 2)
    for one, other in edges:
        axes.plot(*places[[one, other]].T, color="0.7", linewidth=0.8, zorder=1)
    colours = ["tab:orange" if node == centre else "tab:blue" for node in range(n_nodes)]
    axes.scatter(places[:, 0], places[:, 1], c=colours, s=60 if n_nodes < 60 else 20, zorder=2)
    for node, label in enumerate(labels if n_nodes <= 40 else ()):
        short = label if len(label) <= 18 else f"{label[:17]}…"
        # parse_math: matplotlib would set a label with two dollar signs as a formula, or fail
        axes.annotate(short, places[node], (4, 4), textcoords="offset points", fontsize=7, parse_math=False)
    axes.margins(x=0.25, y=0.1)
    return _picture(figure)


def points(cloud: Floats) -> Image.Image:
    """Draw float[P, 3] from the side and above, coloured by height; at most ``DRAWN_POINTS``, evenly chosen."""
    chosen = cloud[np.linspace(0, len(cloud) - 1, min(len(cloud), DRAWN_POINTS)).astype(int)]
    figure = Figure(figsize=(4, 4), dpi=100)
    axes: Any = figure.add_axes((0, 0, 1, 1), projection="3d")
    axes.scatter(chosen[:, 0], chosen[:, 1], chosen[:, 2], c=chosen[:, 2], cmap="viridis", s=4)
    spans = np.ptp(chosen, axis=0)
    axes.set_box_aspect(np.maximum(spans / max(spans.max(), 1e-9), 0.05), zoom=0.85)
    axes.tick_params(labelsize=6)
    return _picture(figure)


def strip(frames: Sequence[Image.Image], height: int = 120, gap: int = 4) -> Image.Image:
    """Lay frames side by side, each ``height`` pixels high."""
    small = [frame.resize((max(1, round(frame.width * height / frame.height)), height)) for frame in frames]
    canvas = Image.new("RGB", (sum(frame.width + gap for frame in small) - gap, height), "white")
    left = 0
    for frame in small:
        canvas.paste(frame, (left, 0))
        left += frame.width + gap
    return canvas


def _picture(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    with LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a label in letters that the font lacks
        FigureCanvasAgg(figure).print_png(buffer)
    return Image.open(buffer).convert("RGB")
