"""Patches as the image processor of Qwen-VL makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.native.processor import Limits, Patching, refuse
from mmllm.types import Grid


@dataclass(frozen=True)
class QwenSettings:
    """What the processors of pictures and of clips have in common."""

    own: Any
    patch: int
    least: int
    most: int
    merge: int
    steps: int

    @classmethod
    def of(cls, own: Any, config: Any, limits: Limits) -> Self:
        """That of the processor ``own`` under these limits, for the tower ``config``.

        Raises:
            MmllmError: it does not have one of them, or does not fit the tower.
        """
        refuse(own, ("least", "most"), limits)
        patch, merge, steps, least, most = _fitting(own, config, limits)
        return cls(own, patch, least, most, merge, steps)

    @property
    def channels(self) -> int:
        """C, numbers of one patch."""
        return 3 * self.steps * self.patch**2


@dataclass(frozen=True)
class QwenPatching(QwenSettings, Patching):
    """Sides become the nearest multiples of ``merge`` patches whose area is within ``least`` and ``most`` pixels.

    Qwen2-VL (Wang et al. 2024, arXiv 2409.12191). A patch is (channel, time, row, column); a picture is repeated
    ``steps`` times in time. Patches come block by block of ``merge`` x ``merge``, as they are merged behind the tower.
    """

    def grid(self, width: int, height: int) -> Grid:
        """(rows, cols).

        Raises:
            MediaError: it is more than 200 times as long as wide.
        """
        # here, not above: settings alone are opened without torchvision
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        try:
            found = smart_resize(height, width, self.patch * self.merge, self.least, self.most)
        except ValueError as error:
            raise MediaError(f"the picture of {width} x {height} pixels is too narrow ({error}).") from error
        return found[0] // self.patch, found[1] // self.patch

    def patches(self, image: Image.Image) -> Tensor:
        """float[rows * cols, 3 * steps * patch * patch]."""
        words = self.words(size={"shortest_edge": self.least, "longest_edge": self.most})
        patches: Tensor = self.own([image], **words)["pixel_values"]
        return patches

    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch]."""
        rows, cols = grid
        first = patches.reshape(len(patches), 3, self.steps, self.patch, self.patch)[:, :, 0]
        cut = raster(first, [grid], self.merge).reshape(rows, cols, 3, self.patch, self.patch)
        return cut.permute(2, 0, 3, 1, 4).reshape(3, rows * self.patch, cols * self.patch)


def _fitting(own: Any, config: Any, limits: Limits) -> tuple[int, int, int, int, int]:
    """(patch, merge, steps, least, most) of a processor of pictures or clips, for the tower ``config``.

    Raises:
        MmllmError: it does not fit the tower, or the limits leave nothing.
    """
    patch, merge, steps = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    for word, right in (("patch_size", patch), ("merge_size", merge), ("temporal_patch_size", steps)):
        if getattr(own, word) != right:
            raise MmllmError(
                f"the folder's {type(own).__name__} has {word}: {getattr(own, word)}, but its tower takes {right}; "
                "correct its preprocessor_config.json."
            )
    if limits.merge not in (1, merge):
        raise MmllmError(f"merge: {limits.merge}: this tower always merges {merge}; leave the word out.")
    size = dict(own.size)
    least, most = limits.smallest or size["shortest_edge"], limits.largest or size["longest_edge"]
    if least > most:
        raise MmllmError(f"least: {least} pixels are more than most: {most}.")
    return patch, merge, steps, least, most


def raster(values: Tensor, grids: Any, merge: int) -> Tensor:
    """Values [sum of P, ...] that lie block by block of ``merge`` x ``merge`` -> in raster order of each grid."""
    order, start = [], 0
    for grid in grids:
        steps, rows, cols = (1, *grid)[-3:]
        numbers = torch.arange(start, start + steps * rows * cols, device=values.device)
        blocks = numbers.reshape(steps, rows // merge, cols // merge, merge, merge)
        order.append(blocks.transpose(2, 3).flatten())
        start += steps * rows * cols
    return values[torch.cat(order)]
