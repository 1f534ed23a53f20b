"""Large pictures as tiles beside a view of all of it that keeps its shape, for towers of native resolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.processors.base import Item, ItemInfo
from mmllm.processors.image import MAX_PIXELS, open_image
from mmllm.processors.native.lfm2_vl import Lfm2VlPatching
from mmllm.processors.native.processor import NativeProcessor, Patching
from mmllm.processors.tiles import size_of
from mmllm.types import Cut, Grid, Tiling


class NativeTilesProcessor(NativeProcessor):
    """Each picture as ``patches`` float[P, C] of all its tiles, one behind the other, and the view of all of it.

    The grid is (P,); ``pictures`` int64[n, 2] are those of the tiles and of the view. How many follows from a
    picture's size.
    """

    patching: Lfm2VlPatching

    def __init__(self, patching: Patching, tiles: Sequence[int], *, max_pixels: int = MAX_PIXELS) -> None:
        """``tiles``: [least, most] of a large picture; the rest as in :class:`NativeProcessor`.

        Raises:
            MmllmError: the folder's image processor cuts nothing, or into tiles that are no whole blocks.
        """
        super().__init__(patching, max_pixels=max_pixels)
        if not isinstance(patching, Lfm2VlPatching):
            raise MmllmError(
                f"tiles: {list(tiles)}: the folder's image processor ({type(patching.own).__name__}) cuts no pictures "
                "into tiles; leave the word out."
            )
        if len(tiles) != 2 or not 2 <= tiles[0] <= tiles[1]:
            raise MmllmError(f"tiles: {list(tiles)} must be [least, most], at least 2 and least no more than most.")
        if patching.tile % (patching.patch * patching.merge):
            raise MmllmError(
                f"tiles: the folder's tiles of {patching.tile} pixels a side (tile_size) are no whole blocks of "
                f"{patching.merge} x {patching.merge} patches of {patching.patch}; leave the word out."
            )
        self.least, self.most = tiles

    def cut(self, media: Any) -> Cut:
        """How a picture is cut, and its size, from its header; MediaError where that cannot be read."""
        return self._cut(*size_of(media, self.max_pixels))

    def pictures(self, cut: Cut) -> list[Grid]:
        """(rows, cols) of each tile and, behind them, of the view of all of it."""
        tiles = [self.patching.tile_grid] * (cut.tiling.n - 1)
        return [*tiles, self._grid(cut.width, cut.height)]

    def read(self, media: str | Path | bytes | Image.Image) -> Item:
        """Read one picture; errors as of :class:`NativeProcessor`."""
        image = open_image(media, self.max_pixels)
        info = self._info(self._cut(*image.size))
        patches = self.patching.pieces(image, self.least, self.most)
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

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Packed: ``patches`` float[sum of P, C], ``grids`` int64[pictures of all, 2], ``counts`` int64[N] of them."""
        return {
            "patches": torch.cat([item["patches"] for item in items]),
            "grids": torch.cat([item["pictures"] for item in items]),
            "counts": torch.tensor([len(item["pictures"]) for item in items]),
        }

    def blank(self) -> Item:
        """The smallest picture, of zeros."""
        info = self._info(Cut(Tiling(1, 1), 1, 1))
        return {"patches": torch.zeros(int(info["grid"]), self.patching.channels), **info}

    def _cut(self, width: int, height: int) -> Cut:
        return Cut(self.patching.tiling(width, height, self.least, self.most), width, height)

    def _info(self, cut: Cut) -> Item:
        pictures = self.pictures(cut)
        return {
            "grid": torch.tensor([sum(map(prod, pictures))]),
            "pictures": torch.tensor(pictures),
            "cut": torch.tensor(cut.numbers()),
        }
