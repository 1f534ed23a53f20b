"""Pictures as tiles beside a view of all of it, each at its own shape, for towers of native resolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.base import Item, ItemInfo
from mmllm.processors.image import MAX_PIXELS, open_image
from mmllm.processors.native.processor import NativeProcessor, Patching
from mmllm.processors.tiles import size_of
from mmllm.types import Cut, Grid


class NativeTilesProcessor(NativeProcessor):
    """Each picture as ``patches`` float[P, C] of all its tiles, one behind the other, and the view of all of it.

    The grid is (P,); ``pictures`` int64[n, 2] are those of the tiles and of the view. How many follows from a
    picture's size.
    """

    def __init__(self, patching: Patching, tiles: Sequence[int] | str, *, max_pixels: int = MAX_PIXELS) -> None:
        """``tiles``: [least, most] of a large picture, or ``quarters``; the rest as in :class:`NativeProcessor`.

        Raises:
            MmllmError: the folder's image processor does not cut so.
        """
        super().__init__(patching, max_pixels=max_pixels)
        self._cutting = patching.cutting(tiles)
        # digests of checkpoints have these, and nothing that begins with an underscore
        if isinstance(tiles, str):
            self.tiles = tiles
        else:
            self.least, self.most = tiles

    def cut(self, media: Any) -> Cut:
        """How a picture is cut, and its size, from its header; MediaError where that cannot be read, or it cut."""
        return self._cut(*size_of(media, self.max_pixels))

    def pictures(self, cut: Cut) -> list[Grid]:
        """(rows, cols) of each tile and, behind them, of the view of all of it; MediaError where one has no patch."""
        tiles = self._cutting.grids(cut)
        if not all(map(prod, tiles)):
            raise MediaError(
                f"the picture of {cut.width} x {cut.height} pixels is so narrow that resizing leaves a tile of it no "
                "patch."
            )
        return [*tiles, self._grid(cut.width, cut.height)]

    def read(self, media: str | Path | bytes | Image.Image) -> Item:
        """Read one picture; errors as of :class:`NativeProcessor`, and MediaError for one that cannot be cut."""
        image = open_image(media, self.max_pixels)
        info = self._info(self._cut(*image.size))
        patches = self._cutting.pieces(image)
        found, expected = [len(one) for one in patches], info["pictures"].prod(1).tolist()
        if found != expected:
            raise MmllmError(
                f"the folder's image processor ({type(self.patching.own).__name__}) makes {found} patches of a picture "
                f"of {image.width} x {image.height}, where {expected} were expected; its settings are not supported."
            )
        return {"patches": torch.cat(patches), **info}

    def measure(self, media: str | Path | bytes | Image.Image) -> ItemInfo:
        """``grid``, ``pictures`` and ``cut`` int64[5], from the picture's header."""
        return self._info(self.cut(media))

    def pixels(self, item: ItemInfo) -> list[Tensor]:
        """float[3, rows * patch, cols * patch] of each of an item's pictures."""
        grids: list[Grid] = [(rows, cols) for rows, cols in item["pictures"].tolist()]
        pieces = item["patches"].split([prod(grid) for grid in grids])
        return [self.patching.pixels(piece, grid) for piece, grid in zip(pieces, grids, strict=True)]

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Packed: ``patches`` float[sum of P, C], ``grids`` int64[pictures of all, 2], ``counts`` int64[N] of them."""
        return {
            "patches": torch.cat([item["patches"] for item in items]),
            "grids": torch.cat([item["pictures"] for item in items]),
            "counts": torch.tensor([len(item["pictures"]) for item in items]),
        }

    def blank(self) -> Item:
        """The smallest picture, of zeros."""
        info = self._info(self._cutting.smallest)
        return {"patches": torch.zeros(int(info["grid"]), self.patching.channels), **info}

    def _cut(self, width: int, height: int) -> Cut:
        return Cut(self._cutting.tiling(width, height), width, height)

    def _info(self, cut: Cut) -> Item:
        pictures = self.pictures(cut)
        return {
            "grid": torch.tensor([sum(map(prod, pictures))]),
            "pictures": torch.tensor(pictures),
            "cut": torch.tensor(cut.numbers()),
        }
