"""Patches as the image processor of Idefics2 makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from PIL import Image
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.processors.native.processor import Limits, Patching, refuse
from mmllm.types import Grid


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
        size = {"longest_edge": self.longest, "shortest_edge": self.shortest}
        pixels: Tensor = self.own([image], **self.words(size=size, do_image_splitting=False))["pixel_values"][0, 0]
        side = self.patch
        rows, cols = pixels.shape[1] // side, pixels.shape[2] // side
        cut = pixels[:, : rows * side, : cols * side].reshape(-1, rows, side, cols, side)
        return cut.permute(1, 3, 0, 2, 4).reshape(rows * cols, -1)

    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch]."""
        rows, cols = grid
        cut = patches.reshape(rows, cols, -1, self.patch, self.patch)
        return cut.permute(2, 0, 3, 1, 4).reshape(-1, rows * self.patch, cols * self.patch)
