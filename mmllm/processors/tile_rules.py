"""Rules of how many tiles a picture is cut into, each from its width and height alone; ``tiles`` cuts by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from mmllm.types import Tiling

Rule = Literal["closest_ratio", "longest_side", "resolutions", "partition"]
"""How many tiles a picture gets.

``closest_ratio``: as many as its shape asks for, which is squashed to theirs (InternVL, arXiv 2404.16821).
``longest_side``: its longer side is brought to ``longest`` pixels, or up or down to it, and what that gives is cut
(Idefics3, arXiv 2408.12637).
``resolutions``: it is fitted, its shape kept, into the one of a list in which most of it is seen, and borders are added
(LLaVA-NeXT's AnyRes; LLaVA-OneVision, arXiv 2408.03326).
``partition``: its longer side is brought to the next whole number of tiles, at most ``longest`` pixels, and its other
side, brought along, to the next again (AdaptVision, arXiv 2408.16986).
"""
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
