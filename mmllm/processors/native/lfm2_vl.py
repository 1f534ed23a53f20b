"""Patches as the image processor of LFM2-VL makes them: a picture at its own shape, and tiles of a large one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.processors.native.naflex import pixels_of_patches
from mmllm.processors.native.processor import Limits, Patching, refuse
from mmllm.processors.tile_rules import closest_ratio
from mmllm.types import Grid, Tiling


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

    def tiling(self, width: int, height: int, least: int, most: int) -> Tiling:
        """Tiles of a picture of this size, ``least`` to ``most`` of them; one, which is itself, where it is not large.

        How many is decided by :func:`~mmllm.processors.tile_rules.closest_ratio`.
        """
        side = self.patch * self.merge
        # a side that rounds to nothing counts as one patch there, unlike in `grid`
        area = math.prod(max(self.patch, round(size / side) * side) for size in (height, width))
        if area <= self.most * side**2 * self.tolerance:
            return Tiling(1, 1)
        return closest_ratio(width, height, (self.tile, self.tile), least, most)

    @property
    def tile_grid(self) -> Grid:
        """(rows, cols) of a tile."""
        return self.tile // self.patch, self.tile // self.patch

    def patches(self, image: Image.Image) -> Tensor:
        """float[rows * cols, patch * patch * 3]."""
        return self._made(image, do_image_splitting=False)[0]

    def pieces(self, image: Image.Image, least: int, most: int) -> list[Tensor]:
        """The same of each tile and, behind them, of all of it; of that alone where the picture is not large."""
        return self._made(image, do_image_splitting=True, min_tiles=least, max_tiles=most)

    def _made(self, image: Image.Image, **words: Any) -> list[Tensor]:
        sizes = {"min_image_tokens": self.least, "max_image_tokens": self.most}
        found = self.own([image], **self.words(**sizes, **words))
        real = found["pixel_attention_mask"].bool()
        # else the padding of all of them would be kept in memory with each
        return [pixels[mask].clone() for pixels, mask in zip(found["pixel_values"], real, strict=True)]

    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch]."""
        return pixels_of_patches(patches, grid, self.patch)
