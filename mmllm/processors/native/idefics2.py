"""Patches as the image processor of Idefics2 makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image
from torch import Tensor

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.native.processor import Cutting, Limits, Patching, as_written, refuse
from mmllm.types import Cut, Grid, Tiling

QUARTERS = "quarters"
"""The word of a recipe that has pictures cut."""


@dataclass(frozen=True)
class Idefics2Patching(Patching):
    """A longer side over ``longest`` is brought down to it, a shorter one under ``shortest`` up to that (a stretch).

    Idefics2 (Laurencon et al. 2024, arXiv 2405.02246). What is no whole patch at the right and bottom is not read. A
    patch is (channel, row, column).
    """

    own: Any
    patch: int
    longest: int
    shortest: int

    @classmethod
    def of(cls, own: Any, patch: int, limits: Limits) -> Self:
        """That of the image processor ``own`` under these limits.

        Raises:
            MmllmError: it does not have one of them, or says nothing of its sides.
        """
        refuse(own, ("longest",), limits)
        if limits.merge > 1:
            raise MmllmError(f"merge: {limits.merge}: the folder's {type(own).__name__} brings sides to no multiples.")
        size = dict(own.size)
        if not size.get("longest_edge") or not size.get("shortest_edge"):
            raise MmllmError(
                f"the folder's {type(own).__name__} has no longest_edge and shortest_edge; it is not known."
            )
        longest = size["longest_edge"] if limits.longest is None else limits.longest
        return cls(own, patch, longest, min(size["shortest_edge"], longest))

    def grid(self, width: int, height: int) -> Grid:
        """(rows, cols)."""
        # in this order: the shorter side is cut to whole pixels from the picture's own ratio
        ratio = width / height
        if width >= height and width > self.longest:
            width, height = self.longest, int(self.longest / ratio)
        elif height > width and height > self.longest:
            width, height = int(self.longest * ratio), self.longest
        return max(height, self.shortest) // self.patch, max(width, self.shortest) // self.patch

    def patches(self, image: Image.Image) -> Tensor:
        """float[rows * cols, 3 * patch * patch]."""
        return self.made(image, do_image_splitting=False)[0]

    def cutting(self, tiles: Sequence[int] | str) -> Cutting:
        """``tiles``: ``quarters``; MmllmError for anything else."""
        if tiles != QUARTERS:
            raise MmllmError(
                f"tiles: {as_written(tiles)}: the folder's image processor ({type(self.own).__name__}) cuts every "
                f"picture into quarters; write tiles: {QUARTERS}, or leave the word out."
            )
        return Idefics2Quarters(self)

    def made(self, image: Image.Image, **words: Any) -> list[Tensor]:
        """The same of each picture that the image processor makes of one, called with these words."""
        size = {"longest_edge": self.longest, "shortest_edge": self.shortest}
        found = self.own([image], **self.words(size=size, do_pad=True, **words))
        every = zip(found["pixel_values"][0], found["pixel_attention_mask"][0], strict=True)
        # they are padded to the largest of them
        return [self._cut(pixels[:, : int(mask[:, 0].sum()), : int(mask[0].sum())]) for pixels, mask in every]

    def _cut(self, pixels: Tensor) -> Tensor:
        side = self.patch
        rows, cols = pixels.shape[1] // side, pixels.shape[2] // side
        cut = pixels[:, : rows * side, : cols * side].reshape(-1, rows, side, cols, side)
        return cut.permute(1, 3, 0, 2, 4).reshape(rows * cols, -1)

    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch]."""
        rows, cols = grid
        cut = patches.reshape(rows, cols, -1, self.patch, self.patch)
        return cut.permute(2, 0, 3, 1, 4).reshape(-1, rows * self.patch, cols * self.patch)


@dataclass(frozen=True)
class Idefics2Quarters(Cutting):
    """Every picture in four, row by row, each brought to its size by itself; an odd side's first half is shorter."""

    patching: Idefics2Patching

    smallest = Cut(Tiling(2, 2), 2, 2)

    def tiling(self, width: int, height: int) -> Tiling:
        """Two by two; MediaError for a picture with a side of one pixel."""
        if min(width, height) < 2:
            raise MediaError(
                f"the picture of {width} x {height} pixels cannot be cut into quarters; give one of 2 x 2 at least, or "
                "leave `tiles` out of its encoder."
            )
        return Tiling(2, 2)

    def grids(self, cut: Cut) -> list[Grid]:
        """By the size of each quarter."""
        widths, heights = ((size // 2, size - size // 2) for size in (cut.width, cut.height))
        return [self.patching.grid(width, height) for height in heights for width in widths]

    def pieces(self, image: Image.Image) -> list[Tensor]:
        """Upper left, upper right, lower left, lower right, all of it."""
        return self.patching.made(image, do_image_splitting=True)
