"""Patches as the image processor of LFM2-VL makes them: a picture at its own shape, and tiles of a large one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.processors.native.naflex import pixels_of_patches
from mmllm.processors.native.processor import Cutting, Limits, Patching, as_written, refuse
from mmllm.processors.tile_rules import closest_ratio
from mmllm.types import Cut, Grid, Tiling


@dataclass(frozen=True)
class Lfm2VlPatching(Patching):
    """Sides become multiples of ``merge`` patches, the area between two bounds; its shape is nearly kept.

    LFM2-VL (Liquid AI 2025, arXiv 2511.23404). A picture of more than ``tolerance`` times the upper bound may be cut
    into tiles of ``tile`` pixels a side. A patch is (row, column, channel).
    """

    own: Any
    patch: int
    merge: int
    least: int
    """Blocks of merge x merge patches of a picture, at least."""
    most: int
    tile: int
    tolerance: float

    @classmethod
    def of(cls, own: Any, patch: int, limits: Limits) -> Self:
        """That of the image processor ``own`` under these limits.

        Raises:
            MmllmError: it does not have one of them, has patches of another size, or no block fits.
        """
        refuse(own, ("least", "most"), limits)
        merge = own.downsample_factor
        if own.encoder_patch_size != patch:
            raise MmllmError(
                f"the folder's image processor ({type(own).__name__}) has patches of {own.encoder_patch_size} pixels, "
                f"its tower of {patch}; mend encoder_patch_size in preprocessor_config.json"
            )
        if merge % limits.merge:
            raise MmllmError(f"merge: {limits.merge}: {type(own).__name__} keeps sides to multiples of {merge}.")
        block = (patch * merge) ** 2
        least = own.min_image_tokens if limits.smallest is None else math.ceil(limits.smallest / block)
        most = own.max_image_tokens if limits.largest is None else limits.largest // block
        if not 1 <= least <= most:
            raise MmllmError(
                f"least and most: pictures of {least} to {most} blocks of {patch * merge} x {patch * merge} pixels; "
                "at least 1, and least no more than most."
            )
        return cls(own, patch, merge, least, most, own.tile_size, own.max_pixels_tolerance)

    def grid(self, width: int, height: int) -> Grid:
        """(rows, cols)."""
        side = self.patch * self.merge
        # Python's own rounding, half to even, as there
        rows, cols = (max(1, round(size / side)) for size in (height, width))
        if rows * cols > self.most:
            shrink = math.sqrt(height * width / (self.most * side**2))
            rows, cols = (max(1, math.floor(size / shrink / side)) for size in (height, width))
        elif rows * cols < self.least:
            grow = math.sqrt(self.least * side**2 / (height * width))
            rows, cols = (math.ceil(size * grow / side) for size in (height, width))
        return rows * self.merge, cols * self.merge

    def cutting(self, tiles: Sequence[int] | str) -> Cutting:
        """``tiles``: [least, most] of a large picture.

        Raises:
            MmllmError: they are no such numbers, or the folder's tiles no whole blocks.
        """
        if isinstance(tiles, str) or len(tiles) != 2 or not 2 <= tiles[0] <= tiles[1]:
            raise MmllmError(
                f"tiles: {as_written(tiles)} must be [least, most], at least 2 and least no more than most, for the "
                f"folder's {type(self.own).__name__}."
            )
        if self.tile % (self.patch * self.merge):
            raise MmllmError(
                f"tiles: the folder's tiles of {self.tile} pixels a side (tile_size) are no whole blocks of "
                f"{self.merge} x {self.merge} patches of {self.patch}; leave the word out."
            )
        return Lfm2VlTiles(self, *tiles)

    def patches(self, image: Image.Image) -> Tensor:
        """float[rows * cols, patch * patch * 3]."""
        return self.made(image, do_image_splitting=False)[0]

    def made(self, image: Image.Image, **words: Any) -> list[Tensor]:
        """The same of each picture that the image processor makes of one, called with these words."""
        sizes = {"min_image_tokens": self.least, "max_image_tokens": self.most}
        found = self.own([image], **self.words(**sizes, **words))
        real = found["pixel_attention_mask"].bool()
        # else the padding of all of them would be kept in memory with each
        return [pixels[mask].clone() for pixels, mask in zip(found["pixel_values"], real, strict=True)]

    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch]."""
        return pixels_of_patches(patches, grid, self.patch)


@dataclass(frozen=True)
class Lfm2VlTiles(Cutting):
    """A large picture in ``least`` to ``most`` tiles of one size; any other is not cut."""

    patching: Lfm2VlPatching
    least: int
    most: int

    smallest = Cut(Tiling(1, 1), 1, 1)

    def tiling(self, width: int, height: int) -> Tiling:
        """How many tiles is decided by :func:`~mmllm.processors.tile_rules.closest_ratio`."""
        own = self.patching
        side = own.patch * own.merge
        # a side that rounds to nothing counts as one patch there, unlike in `grid`
        area = math.prod(max(own.patch, round(size / side) * side) for size in (height, width))
        if area <= own.most * side**2 * own.tolerance:
            return Tiling(1, 1)
        return closest_ratio(width, height, (own.tile, own.tile), self.least, self.most)

    def grids(self, cut: Cut) -> list[Grid]:
        """All of one size."""
        side = self.patching.tile // self.patching.patch
        return [(side, side)] * (cut.tiling.n - 1)

    def pieces(self, image: Image.Image) -> list[Tensor]:
        """The view alone where the picture is not large."""
        return self.patching.made(image, do_image_splitting=True, min_tiles=self.least, max_tiles=self.most)
