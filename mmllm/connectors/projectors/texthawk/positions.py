"""Scalable positional embeddings: places of patches and queries in the whole picture, however it is cut into tiles."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmllm.types import Features

Positions = Literal["patch", "cell", "none"]
"""What a position is of: of each ``patch`` in the whole picture, of its ``cell`` (tile) alone, or of nothing."""

_NEAR = 1e-6
"""How near 1 the cosine of two ends may come: at equal and at opposite ends the sine that is divided by is 0."""


class ScalablePositions(nn.Module):
    """Scalable positional embeddings, SPE (TextHawk, Yu et al. 2024, arXiv 2404.09204).

    On each axis two learned ends e0, e1 for each head, brought to length 1, with a learned scale s (at first the square
    root of the head's width). At t in 0..1 between them lies, on the sphere,

        e(t) = s [sin((1 - t) theta) e0 + sin(t theta) e1] / sin(theta),    cos(theta) = e0 . e1,

    so a position has the length s everywhere, and a picture of any number of tiles has its own positions. Those of the
    row and of the column are added.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ends = nn.Parameter(torch.randn(2, 2, width))  # axis, end
        self.scale = nn.Parameter(torch.full((2, heads), (width / heads) ** 0.5))

    def forward(self, row: Tensor, col: Tensor) -> Tensor:
        """Places float[...] in 0..1 down and across the picture -> float32[..., width]."""
        ends = nn.functional.normalize(self.ends.float().unflatten(-1, (self.heads, -1)), dim=-1)
        of_row, of_col = (
            self._between(ends[axis], self.scale[axis].float(), t.float()) for axis, t in enumerate((row, col))
        )
        return (of_row + of_col).flatten(-2)

    def _between(self, ends: Tensor, scale: Tensor, t: Tensor) -> Tensor:
        """``ends`` float[2, heads, d] of length 1, ``scale`` float[heads], t float[...] -> float[..., heads, d]."""
        first, last = ends
        angle = (first * last).sum(-1).clamp(_NEAR - 1, 1 - _NEAR).arccos()
        t = t[..., None]
        near, far = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
        return scale[:, None] * (near[..., None] * first + far[..., None] * last)


def places(features: Features, rows: int, cols: int, kind: Positions) -> tuple[Tensor, Tensor]:
    """Down and across the picture, in 0..1: middles of ``rows`` x ``cols`` regions of each tile, float32[N, T] each.

    T = tiles * rows * cols, in raster order of the tiles. A view of all of the picture, a frame, and a picture that no
    encoder cut cover all of it. With ``kind: cell`` every region has the place of its tile's middle.
    """
    tiles = features.grid[0] if len(features.grid) == 3 else 1
    device = features.mask.device
    number = torch.arange(tiles, device=device)
    if "cut" in features.extras:
        down, across, first = (features.extras["cut"][:, None, one] for one in range(3))
        number = number - first
        whole = (number < 0) | (number >= down * across)
    else:
        down = across = torch.ones(len(features.mask), 1, dtype=torch.int64, device=device)
        number, whole = number.expand(len(features.mask), -1), torch.ones((), dtype=torch.bool, device=device)
    row = _middles(number // across, down, whole, rows, kind)
    col = _middles(number % across, across, whole, cols, kind)
    both = (len(features.mask), tiles, rows, cols)
    return row[..., None].expand(both).flatten(1), col[..., None, :].expand(both).flatten(1)


def _middles(tile: Tensor, tiles: Tensor, whole: Tensor, parts: int, kind: Positions) -> Tensor:
    """Along one axis: int64[N, n] which tile, int64[N, 1] of how many -> float32[N, n, parts]."""
    inside = (torch.arange(parts, device=tile.device) + 0.5) / parts
    if kind == "cell":
        inside = torch.full_like(inside, 0.5)
    cut = (tile[..., None] + inside) / tiles[..., None]
    return torch.where(whole[..., None], inside, cut)
