"""What a projector's ``stitch`` does behind it: tokens of a picture's tiles become one map, with newlines between rows.

``model.project`` calls it, ``model.inputs`` asks it how many tokens there will be; a recipe writes it on a connector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.errors import MmllmError
from mmllm.types import Cut, Grid, Tiling

Newline = Literal["row", "end", "none", "every", "marks"]
BEGIN, VIEWED, NEXT_COL, NEXT_ROW, END = range(5)
"""Numbers of the marks."""
SHRINK = 1.1
"""A map is shrunk whose side is more than this many times too long (LLaVA-OneVision)."""


@dataclass(frozen=True)
class Map:
    """The part of a stitched map that shows the picture, and the size it is brought to."""

    top: int
    left: int
    rows: int
    cols: int
    size: tuple[int, int]
    """Rows and columns of tokens; (rows, cols) unless it is shrunk."""

    @classmethod
    def of(cls, tile: tuple[int, int], cut: Cut, unpad: bool, most: int | None) -> Map:
        """Of tiles with ``tile`` rows and columns of tokens each.

        Borders are cut by the picture's own size; where their sum is odd, the last line of them stays. A map of more
        tokens than ``most`` tiles hold is shrunk to about as many.
        """
        rows, cols = tile[0] * cut.tiling.rows, tile[1] * cut.tiling.cols
        top = left = 0
        # rounded, as transformers does: else a product that should be whole may fall just below
        if unpad and cut.width / cut.height > cols / rows:
            top = (rows - int(round(cut.height * (cols / cut.width), 7))) // 2
        elif unpad:
            left = (cols - int(round(cut.width * (rows / cut.height), 7))) // 2
        rows, cols = rows - 2 * top, cols - 2 * left
        ratio = 0.0 if most is None else math.sqrt(rows * cols / (most * tile[0] * tile[1]))
        size = (int(rows // ratio), int(cols // ratio)) if ratio > SHRINK else (rows, cols)
        return cls(top, left, rows, cols, size)


class Stitch(nn.Module):
    """Tokens of a picture's tiles -> its tokens: the view of all of it, and one map of all tiles.

    The map loses the borders that the picture was given (``unpad``), is shrunk where it has far more tokens than
    ``most`` tiles (bilinear; LLaVA-OneVision, Li et al. 2024, arXiv 2408.03326), and with ``newline: row`` a learned
    vector stands behind each of its rows (LLaVA-NeXT), and behind a picture that is its view alone; with ``end`` one
    behind every item. The view of all of it stays in front of the map, or behind, as the tiles have it. Items that are
    not cut, as clips are, have nothing but that newline at their end (LLaVA-OneVision).

    With ``newline: every`` the view's rows end on that vector as well, and another stands between view and map
    (DeepSeek-VL2, Wu et al. 2024, arXiv 2412.10302). With ``newline: marks`` there is no map: one learned vector stands
    in front of a picture, one behind its view, two others between tiles of a row and between rows, and one behind all
    (Ovis, Lu et al. 2024, arXiv 2405.20797).
    """

    separator: nn.Parameter | None
    """float[D] between view and map, where there is one."""
    marks: nn.Parameter | None
    """float[5, D], where there are such."""

    newline: nn.Parameter | None
    """float[D]; None without newlines."""

    def __init__(self, *, llm_dim: int, newline: Newline = "row", unpad: bool = True, most: int | None = None) -> None:
        super().__init__()
        self.kind, self.unpad, self.most = newline, unpad, most
        # as wide as embeddings of the LLM, as LLaVA draws it
        vector = None if newline in ("none", "marks") else nn.Parameter(torch.randn(llm_dim) / math.sqrt(llm_dim))
        self.register_parameter("newline", vector)
        between = None if newline != "every" else nn.Parameter(torch.randn(llm_dim) / math.sqrt(llm_dim))
        self.register_parameter("separator", between)
        five = None if newline != "marks" else nn.Parameter(torch.randn(5, llm_dim) / math.sqrt(llm_dim))
        self.register_parameter("marks", five)

    @property
    def ends_alone(self) -> bool:
        """Whether it does nothing but end every item with a newline, so that items need no tiles."""
        return self.kind == "end" and not self.unpad and self.most is None

    def grids(self, grid: Sequence[int], cut: Cut) -> list[Grid]:
        """Grids of an item's tokens, one behind the other, of a projector's grid (tiles, rows, cols).

        Raises:
            MmllmError: the projector's tokens are not those of tiles.
        """
        tile = self._tile(grid, cut)
        if self.kind == "marks":
            return [tile if place is None else (1,) for place in _marked(cut.tiling)]
        found: list[Grid] = []
        if cut.tiling.n > 1:
            rows, cols = self._map(tile, cut).size
            laid_out = (rows, cols + self._row_ends)  # of a strip newlines alone may be left, or nothing
            found = [laid_out] if prod(laid_out) else []
        if cut.tiling.whole or cut.tiling.n == 1:
            view = (tile[0], tile[1] + 1) if self.kind == "every" else tile
            between: list[Grid] = [(1,)] if found and self.separator is not None else []
            found = [view, *between, *found] if cut.tiling.first else [*found, *between, view]
        return [*found, (1,)] if self._ends(cut) else found

    def forward(self, tokens: Tensor, grids: Sequence[Grid], cuts: Sequence[Cut]) -> tuple[Tensor, list[int]]:
        """Stitch each item.

        Args:
            tokens: float[M, D] of the projector, item after item.
            grids: of each item's tokens, (tiles, rows, cols).
            cuts: of each item.

        Returns:
            float[M', D] and how many of them each item has.
        """
        found: list[Tensor] = []
        counts = []
        for item, grid, cut in zip(tokens.split([prod(grid) for grid in grids]), grids, cuts, strict=True):
            parts = self._stitched(item, grid, cut)
            found += parts
            counts.append(sum(map(len, parts)))
        # where no picture of a batch has a row too: what learns takes part on every rank, or one waits for ever
        for vector in (self.newline, self.separator):
            if vector is not None:
                found[0] = found[0] + 0.0 * vector.sum()
        return torch.cat(found), counts

    def ended(self, tokens: Tensor, counts: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The same of items that are not cut, of so many tokens each: each with its newline at the end."""
        found = [torch.cat([item, self._vector(1, tokens)]) for item in tokens.split(list(counts))]
        return torch.cat(found), [len(item) for item in found]

    def _stitched(self, tokens: Tensor, grid: Grid, cut: Cut) -> list[Tensor]:
        """Parts of one item, float[n, D] each."""
        tile = self._tile(grid, cut)
        each = tokens.unflatten(0, (cut.tiling.n, -1))
        if self.marks is not None:
            marks, tiles = self.marks.to(tokens.dtype), iter(each)
            return [next(tiles) if place is None else marks[place][None] for place in _marked(cut.tiling)]
        end = [self._vector(1, tokens)] if self._ends(cut) else []
        between = [] if self.separator is None else [self.separator.to(tokens.dtype)[None]]
        if cut.tiling.n == 1:
            return [self._view(tokens, tile), *end]
        if cut.tiling.first:
            shown = self._laid_out(each[1:], tile, cut)
            return [self._view(each[0], tile), *(between if len(shown[0]) else []), *shown, *end]
        shown = self._laid_out(each[:-1], tile, cut)
        return [*shown, *(between if len(shown[0]) else []), self._view(each[-1], tile), *end]

    @property
    def _row_ends(self) -> bool:
        """Whether rows of the map end on a newline."""
        return self.kind in ("row", "every")

    def _view(self, tokens: Tensor, tile: tuple[int, int]) -> Tensor:
        """The view of all of a picture, float[T, D], its rows ended where all are."""
        if self.kind != "every":
            return tokens
        rows = tokens.unflatten(0, tile)
        return torch.cat([rows, self._vector(tile[0], tokens)[:, None]], dim=1).flatten(0, 1)

    def _laid_out(self, tiles: Tensor, tile: tuple[int, int], cut: Cut) -> list[Tensor]:
        """The map of float[tiles, tokens, D] with its newlines, as float[n, D]."""
        part = self._map(tile, cut)
        whole = tiles.unflatten(1, tile).unflatten(0, (cut.tiling.rows, cut.tiling.cols))
        whole = whole.transpose(1, 2).flatten(2, 3).flatten(0, 1)
        shown = whole[part.top : part.top + part.rows, part.left : part.left + part.cols]
        if not prod(part.size):
            shown = shown[: part.size[0], : part.size[1]]
        elif part.size != (part.rows, part.cols):
            shown = functional.interpolate(shown.movedim(-1, 0)[None], part.size, mode="bilinear")[0].movedim(0, -1)
        if self._row_ends:
            shown = torch.cat([shown, self._vector(len(shown), tiles)[:, None]], dim=1)
        return [shown.flatten(0, 1)]

    def _map(self, tile: tuple[int, int], cut: Cut) -> Map:
        return Map.of(tile, cut, self.unpad, self.most)

    def _ends(self, cut: Cut) -> bool:
        """Whether a newline stands behind the item."""
        return self.kind == "end" or (self.kind == "row" and cut.tiling.n == 1)

    def _vector(self, n: int, like: Tensor) -> Tensor:
        """``n`` newlines, float[n, D]."""
        assert self.newline is not None
        return self.newline.to(like.dtype).expand(n, -1)

    def _tile(self, grid: Sequence[int], cut: Cut) -> tuple[int, int]:
        """Rows and columns of one tile's tokens."""
        if len(grid) != 3 or grid[0] != cut.tiling.n:
            raise MmllmError(
                f"stitch: the connector gives a grid of {tuple(grid)} for {cut.tiling.n} tiles; use one that gives "
                "each tile rows and columns of its own, such as mlp, pool or pixel_shuffle."
            )
        return grid[1], grid[2]


def _marked(tiling: Tiling) -> list[int | None]:
    """A picture's parts in order: numbers of marks, None for a view or tile. The view of all of it is in front."""
    found: list[int | None] = [BEGIN, None, VIEWED]
    if tiling.n > 1:
        for number in range(tiling.rows * tiling.cols):
            found += [] if number == 0 else [NEXT_COL if number % tiling.cols else NEXT_ROW]
            found.append(None)
    return [*found, END]
