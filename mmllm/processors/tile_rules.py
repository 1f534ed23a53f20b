"""Rules of how many tiles a picture is cut into, each from its width and height alone; ``tiles`` cuts by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from mmllm.types import Tiling

Rule = Literal["closest_ratio", "longest_side", "resolutions", "partition", "covering", "canvas", "pan_and_scan"]
"""How many tiles a picture gets.

``closest_ratio``: as many as its shape asks for, which is squashed to theirs (InternVL, arXiv 2404.16821).
``longest_side``: its longer side is brought to ``longest`` pixels, or up or down to it, and what that gives is cut
(Idefics3, arXiv 2408.12637).
``resolutions``: it is fitted, its shape kept, into the one of a list in which most of it is seen, and borders are added
(LLaVA-NeXT's AnyRes; LLaVA-OneVision, arXiv 2408.03326).
``partition``: its longer side is brought to the next whole number of tiles, at most ``longest`` pixels, and its other
side, brought along, to the next again (AdaptVision, arXiv 2408.16986).
``covering``: as few as show most of the picture at its own resolution, to which it is squashed (Ovis 2, arXiv
2405.20797).
``canvas``: of all shapes of at most ``most`` tiles the one for which it is enlarged least, or else shrunk least; it
keeps its shape, and borders at the right and bottom are black (Llama 4).
``pan_and_scan``: a long one is cut across, as often as its sides go into each other (Gemma 3, arXiv 2503.19786).
"""
_COVERED = 0.9  # share of a picture that tiles show under `covering`
_CAP = 4096  # pixels of a side at most under `longest_side`, as transformers has it


@lru_cache(maxsize=64)
def _shapes(least: int, most: int) -> list[tuple[int, int]]:
    """(cols, rows) with so many tiles, few first."""
    found = {(cols, n // cols) for n in range(least, most + 1) for cols in range(1, n + 1) if n % cols == 0}
    return sorted(found, key=lambda shape: (shape[0] * shape[1], shape))


def closest_ratio(width: int, height: int, tile: tuple[int, int], least: int, most: int) -> Tiling:
    """The shape whose ratio is nearest; of several the one with more tiles, where the picture fills over half of it.

    ``tile``: height and width in pixels.
    """
    best, nearest = (1, 1), math.inf
    for cols, rows in _shapes(least, most):
        away = abs(width / height - cols / rows)
        if away < nearest or (away == nearest and width * height > 0.5 * tile[0] * tile[1] * cols * rows):
            best, nearest = (cols, rows), away
    return Tiling(best[1], best[0])


def longest_side(width: int, height: int, tile: int, longest: int) -> Tiling:
    """Rows and columns of tiles of ``tile`` x ``tile`` that cover the picture once its longer side is ``longest``."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        height, width = longest, int(longest * ratio)
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > _CAP:
        width, height = _CAP, int(_CAP / ratio)
    elif height > width and height > _CAP:
        height, width = _CAP, int(_CAP * ratio)
    return Tiling(math.ceil(max(height, 1) / tile), math.ceil(max(width, 1) / tile))


def partition(width: int, height: int, tile: int, longest: int) -> Tiling:
    """Rows and columns of tiles of ``tile`` x ``tile``, no more than ``longest`` pixels hold along the longer side."""
    long, short = max(width, height), min(width, height)
    along = min(-(-long // tile), longest // tile)
    across = -(-short * along // long)
    return Tiling(across, along, first=True) if width >= height else Tiling(along, across, first=True)


def covering(width: int, height: int, tile: int, most: int) -> Tiling:
    """The fewest tiles of ``tile`` x ``tile`` into which a picture is cut so that over 90 % of it is shown.

    As transformers' Ovis 2 computes it: rows and columns are exchanged between the count and the cut, so a picture of
    two squares side by side becomes two rows.
    """
    best, least = (1, 1), (math.inf, math.inf, 0.0)
    for one, other in _shapes(1, most):
        shown = _shown(width, height, one, other, tile) / (width * height)
        enough = shown > _COVERED
        # first those that show enough, few tiles first; else those that show most
        rank = (0.0, float(one * other), -shown) if enough else (1.0, -shown, float(one * other))
        if rank < least:
            best, least = (one, other), rank
    return Tiling(best[1], best[0], first=best != (1, 1))


def _shown(width: int, height: int, rows: int, cols: int, tile: int) -> float:
    """Pixels of a picture that remain when each of its pieces is shrunk to a tile."""
    found = 0.0
    for row in range(rows):
        for col in range(cols):
            across, down = width // cols, height // rows
            wide = width - col * across if col == cols - 1 else across
            high = height - row * down if row == rows - 1 else down
            long, short = float(max(wide, high)), float(min(wide, high))
            if long > tile:
                long, short = tile, short / long * tile
            found += long * short
    return found


def canvas(width: int, height: int, tile: int, most: int) -> Tiling:
    """Tiles of ``tile`` x ``tile`` that a picture is enlarged least for, or else shrunk least; ties: the fewest."""
    shapes = [(shape[1], shape[0]) for shape in _canvases(most)]
    # in float32, as transformers' Llama 4 has it: two scales may be the same there alone
    sides = np.array(shapes, dtype=np.float32) * tile
    scales = np.minimum(sides[:, 0] / np.float32(height), sides[:, 1] / np.float32(width))
    grown = scales[scales >= 1]
    best = grown.min() if len(grown) else scales.max()
    rows, cols = min((shape for shape, scale in zip(shapes, scales, strict=True) if scale == best), key=math.prod)
    return Tiling(rows, cols)


@lru_cache(maxsize=16)
def _canvases(most: int) -> list[tuple[int, int]]:
    """(cols, rows) of all shapes, in the order in which one of several of the same size is taken."""
    # by ratio in the order in which it first occurs, the largest of each ratio first
    found: dict[float, list[tuple[int, int]]] = {}
    for n in range(most, 0, -1):
        for rows in (rows for rows in range(1, n + 1) if n % rows == 0):
            found.setdefault(rows / (n // rows), []).append((n // rows, rows))
    return [shape for same in found.values() for shape in same]


def pan_and_scan(width: int, height: int, shortest: int, most: int, ratio: float) -> Tiling:
    """2 to ``most`` crops in one row or column, of a picture whose longer side is ``ratio`` times the other or more.

    Uncut where a side of the crops would have less than ``shortest`` pixels.
    """
    long, short = max(width, height), min(width, height)
    if long / short < ratio:
        return Tiling(1, 1)
    n = min(max(2, min(long // shortest, math.floor(long / short + 0.5))), most)
    if min(-(-long // n), short) < shortest:
        return Tiling(1, 1)
    return Tiling(1, n, first=True) if width >= height else Tiling(n, 1, first=True)


def kept_shape(width: int, height: int, tiling: Tiling, tile: int) -> tuple[int, int]:
    """(width, height) of a picture on its canvas, which it fills in one direction unless it is smaller than a tile."""
    wide, high = (min(max(size, tile), tiles * tile) for size, tiles in ((width, tiling.cols), (height, tiling.rows)))
    across, down = wide / width, high / height
    if across < down:
        return wide, max(1, min(math.floor(height * across), high))
    return max(1, min(math.floor(width * down), wide)), high


def best_resolution(width: int, height: int, resolutions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) of the list in which most of the picture's own pixels are seen; of several the smallest."""
    best, most, least = resolutions[0], -1, 0
    for high, wide in resolutions:
        scale = min(wide / width, high / height)
        seen = min(int(width * scale) * int(height * scale), width * height)
        if seen > most or (seen == most and wide * high - seen < least):
            best, most, least = (high, wide), seen, wide * high - seen
    return best


def fitted(width: int, height: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture brought to a canvas (height, width), its shape kept."""
    high, wide = canvas
    across, down = wide / width, high / height
    if across < down:
        return wide, min(math.ceil(height * across), high)
    return min(math.ceil(width * down), wide), high
