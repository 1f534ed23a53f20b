"""Patches as the image processor of SigLIP 2's NaFlex towers makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from PIL import Image
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.processors.native.processor import Limits, Patching, refuse
from mmllm.types import Grid


@dataclass(frozen=True)
class NaflexPatching(Patching):
    """Each picture becomes as large as ``most_patches`` allow, small ones too; its shape is nearly kept.

    SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786). A patch is (row, column, channel).
    """

    own: Any
    patch: int
    most_patches: int

    @classmethod
    def of(cls, own: Any, patch: int, limits: Limits) -> Self:
        """That of the image processor ``own`` under these limits.

        Raises:
            MmllmError: it does not have one of them, or no patch fits.
        """
        refuse(own, ("most",), limits)
        if limits.merge != 1:
            raise MmllmError(f"merge: {limits.merge}: {type(own).__name__} does not keep sides to such multiples.")
        most = own.max_num_patches if limits.largest is None else limits.largest // patch**2
        if most < 1:
            raise MmllmError(f"most: {limits.largest} pixels are not one patch of {patch} x {patch}.")
        return cls(own, patch, most)

    def grid(self, width: int, height: int) -> Grid:
        """(rows, cols)."""
        # here, not above: settings alone are opened without torchvision
        from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

        rows, cols = get_image_size_for_max_num_patches(height, width, self.patch, self.most_patches)
        return rows // self.patch, cols // self.patch

    def patches(self, image: Image.Image) -> Tensor:
        """float[rows * cols, patch * patch * 3]."""
        found = self.own([image], **self.words(patch_size=self.patch, max_num_patches=self.most_patches))
        rows, cols = found["spatial_shapes"][0].tolist()
        patches: Tensor = found["pixel_values"][0, : rows * cols]
        # else the rest of a batch of one would be kept in memory with it
        return patches.clone()

    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch]."""
        return pixels_of_patches(patches, grid, self.patch)


def pixels_of_patches(patches: Tensor, grid: Grid, side: int) -> Tensor:
    """float[3, rows * side, cols * side] of patches of ``side`` pixels, each (row, column, channel)."""
    rows, cols = grid
    cut = patches.reshape(rows, cols, side, side, -1)
    return cut.permute(4, 0, 2, 1, 3).reshape(-1, rows * side, cols * side)
