"""Patches as the image processor of Pixtral and Mistral 3 makes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.processors.native.processor import Limits, Patching, refuse
from mmllm.types import Grid


@dataclass(frozen=True)
class PixtralPatching(Patching):
    """A longer side over ``longest`` is brought down to it, then both sides up to whole patches (a small stretch).

    Pixtral (Agrawal et al. 2024, arXiv 2410.07073). With ``merge`` both become multiples of so many patches, as
    Mistral 3 merges blocks of them. A patch is (channel, row, column).
    """

    own: Any
    patch: int
    longest: int
    merge: int = 1

    @classmethod
    def of(cls, own: Any, patch: int, limits: Limits) -> Self:
        """That of the image processor ``own`` under these limits.

        Raises:
            MmllmError: it does not have one of them, or says nothing of a longest side.
        """
        refuse(own, ("longest",), limits)
        size = dict(own.size)
        longest = limits.longest or size.get("longest_edge")
        if longest is None:
            raise MmllmError(f"the folder's {type(own).__name__} has no longest_edge; give the encoder `longest`.")
        return cls(own, patch, longest, limits.merge)

    def grid(self, width: int, height: int) -> Grid:
        """(rows, cols)."""
        ratio = max(height / self.longest, width / self.longest)
        if ratio > 1:
            height, width = math.floor(height / ratio), math.floor(width / ratio)
        block = self.patch * self.merge
        return -(-height // block) * self.merge, -(-width // block) * self.merge

    def patches(self, image: Image.Image) -> Tensor:
        """float[rows * cols, 3 * patch * patch]."""
        block = self.patch * self.merge
        words = self.words(size={"longest_edge": self.longest}, patch_size={"height": block, "width": block})
        pixels: Tensor = self.own([image], **words)["pixel_values"][0]
        channels, height, width = pixels.shape
        side = self.patch
        cut = pixels.reshape(channels, height // side, side, width // side, side)
        return cut.permute(1, 3, 0, 2, 4).reshape(-1, channels * side * side)

    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch]."""
        rows, cols = grid
        cut = patches.reshape(rows, cols, -1, self.patch, self.patch)
        return cut.permute(2, 0, 3, 1, 4).reshape(-1, rows * self.patch, cols * self.patch)
