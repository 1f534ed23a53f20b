"""Patches of pictures for connectors that see pixels themselves: size, edges, order and scale by the recipe's words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.processors.native.processor import Patching
from mmllm.types import Grid

Edge = Literal["pad", "stretch"]
"""``pad``: whole patches by pixels of one grey at the right and bottom; ``stretch``: by resizing to fewer of them."""
Order = Literal["row_col_channel", "channel_row_col"]
Resample = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class PixelPatching(Patching):
    """Sides and area limited, edges made whole patches, values scaled: (value / 255 - mean) / std."""

    patch: int
    longest: tuple[int, int] | None
    """Height and width in pixels, at most; None: no limit."""
    least_patches: int | None
    most_patches: int | None
    """Area of a picture in patches: larger or smaller ones are brought to it, their shape kept."""
    edge: Edge
    fill: float
    """Grey of ``pad``, 0..255."""
    order: Order
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Resample
    own: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        """MmllmError for a setting that cannot be."""
        sides = (("patch", self.patch), ("longest", min(self.longest or (1,))))
        for word, value in (*sides, ("least", self.least_patches or 1), ("most", self.most_patches or 1)):
            if value < 1:
                raise MmllmError(f"{word}: {value} must be at least 1.")
        if self.least_patches and self.most_patches and self.least_patches > self.most_patches:
            raise MmllmError(f"least: {self.least_patches} patches are more than most: {self.most_patches}.")
        for word, given, known in (
            ("edge", self.edge, get_args(Edge)),
            ("order", self.order, get_args(Order)),
            ("resample", self.resample, get_args(Resample)),
        ):
            if given not in known:
                raise MmllmError(f'{word}: "{given}" is unknown; known: {", ".join(known)}.')
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3) or (name == "std" and min(values) <= 0):
                raise MmllmError(f"{name}: {list(values)} must be one number or three, of red, green and blue.")
        if not 0 <= self.fill <= 255:
            raise MmllmError(f"fill: {self.fill} must be a grey from 0 to 255.")

    def grid(self, width: int, height: int) -> Grid:
        """(rows, cols)."""
        scale = self._scale(width, height)
        if self.edge == "pad":
            return tuple(math.ceil(int(side * scale) / self.patch) for side in (height, width))
        rows, cols = (math.floor(side * scale / self.patch) for side in (height, width))
        most = self.most_patches or math.inf
        # of a picture thinner than a patch, one row or column that is as long as its shape asks for
        if not rows:
            return 1, int(min(max(width // height, 1), most))
        return (rows, cols) if cols else (int(min(max(height // width, 1), most)), 1)

    def _scale(self, width: int, height: int) -> float:
        """What a picture's sides are multiplied by."""
        scale = 1.0
        if self.longest is not None:
            scale = min(1.0, self.longest[0] / height, self.longest[1] / width)
        area = width * height * scale**2
        for limit, outside in ((self.most_patches, area.__gt__), (self.least_patches, area.__lt__)):
            wanted = (limit or 0) * self.patch**2
            if limit is not None and outside(wanted):
                return math.sqrt(wanted / (width * height))
        return scale

    def patches(self, image: Image.Image) -> Tensor:
        """float[rows * cols, 3 * patch * patch]."""
        import numpy
        from torchvision.transforms.v2 import functional

        rows, cols = self.grid(*image.size)
        canvas = (rows * self.patch, cols * self.patch)
        scale = self._scale(*image.size)
        size = (int(image.height * scale), int(image.width * scale)) if self.edge == "pad" else canvas
        pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)
        if size != pixels.shape[1:]:
            mode = functional.InterpolationMode(self.resample)
            pixels = functional.resize(pixels, list(size), interpolation=mode, antialias=True)
        pixels = torch.nn.functional.pad(
            pixels.float(), (0, canvas[1] - size[1], 0, canvas[0] - size[0]), value=self.fill
        )
        mean, std = (255 * torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        cut = ((pixels - mean) / std).reshape(3, rows, self.patch, cols, self.patch)
        axes = (1, 3, 2, 4, 0) if self.order == "row_col_channel" else (1, 3, 0, 2, 4)
        return cut.permute(axes).reshape(rows * cols, -1)

    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch]."""
        rows, cols = grid
        last = self.order == "row_col_channel"
        inner = (self.patch, self.patch, 3) if last else (3, self.patch, self.patch)
        cut = patches.reshape(rows, cols, *inner).permute((4, 0, 2, 1, 3) if last else (2, 0, 3, 1, 4))
        return cut.reshape(3, rows * self.patch, cols * self.patch)
