"""Pictures cut into tiles of one size: how many, from a picture's size alone, and the processor that cuts them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from mmllm.errors import MediaError, MmllmError
from mmllm.files.pictures import upright_size
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content
from mmllm.processors.image import FORMATS, MAX_PIXELS, HfTransform, ImageProcessor, open_image

Rule = Literal["closest_ratio", "longest_side"]
"""How many tiles a picture gets.

``closest_ratio``: as many as its shape asks for, which is squashed to theirs (InternVL, arXiv 2404.16821).
``longest_side``: its longer side is brought to ``longest`` pixels, or up or down to it, and what that gives is cut
(Idefics3, arXiv 2408.12637).
"""
_CAP = 4096  # pixels of a side at most under `longest_side`, as transformers has it


@dataclass(frozen=True)
class Tiling:
    """Tiles of one picture, row by row, and behind them a view of all of it."""

    rows: int
    cols: int

    @property
    def whole(self) -> bool:
        """Whether the view of all of it is there; a single tile is that view itself."""
        return self.rows * self.cols > 1

    @property
    def n(self) -> int:
        """Pictures that the encoder sees."""
        return self.rows * self.cols + self.whole


@lru_cache(maxsize=64)
def _shapes(least: int, most: int) -> list[tuple[int, int]]:
    """(cols, rows) with so many tiles, few first."""
    found = {(cols, n // cols) for n in range(least, most + 1) for cols in range(1, n + 1) if n % cols == 0}
    return sorted(found, key=lambda shape: (shape[0] * shape[1], shape))


def closest_ratio(width: int, height: int, tile: tuple[int, int], least: int, most: int) -> Tiling:
    """The shape whose ratio is nearest; of several the one with more tiles, where the picture fills over half of it.

    ``tile``: height and width in pixels.
    """
    best, nearest = (1, 1), math.inf
    for cols, rows in _shapes(least, most):
        away = abs(width / height - cols / rows)
        if away < nearest or (away == nearest and width * height > 0.5 * tile[0] * tile[1] * cols * rows):
            best, nearest = (cols, rows), away
    return Tiling(best[1], best[0])


def longest_side(width: int, height: int, tile: int, longest: int) -> Tiling:
    """Rows and columns of tiles of ``tile`` x ``tile`` that cover the picture once its longer side is ``longest``."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        height, width = longest, int(longest * ratio)
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > _CAP:
        width, height = _CAP, int(_CAP / ratio)
    elif height > width and height > _CAP:
        height, width = _CAP, int(_CAP * ratio)
    return Tiling(math.ceil(max(height, 1) / tile), math.ceil(max(width, 1) / tile))


class TilesProcessor(Processor):
    """Cuts pictures for a processor of pictures: ``pixels`` float[n, 3, H, W]; grid (tiles, rows, cols)."""

    modality = "image"

    def __init__(
        self,
        image: ImageProcessor,
        *,
        rule: str,
        least: int = 1,
        most: int = 12,
        longest: int | None = None,
    ) -> None:
        """``image`` prepares each tile; the rest as in :class:`~mmllm.encoders.image.tiles.TilesEncoder`."""
        if rule not in get_args(Rule):
            raise MmllmError(f'tiles: rule: "{rule}" is unknown; known: {", ".join(get_args(Rule))}.')
        if not 1 <= least <= most:
            raise MmllmError(f"tiles: least: {least} and most: {most} must be at least 1, and least no more than most.")
        if rule == "longest_side" and longest is None:
            raise MmllmError("tiles: rule: longest_side needs `longest`, the longer side of a picture in pixels.")
        if rule == "longest_side" and image.size[0] != image.size[1]:
            raise MmllmError("tiles: rule: longest_side cuts squares, and the image encoder takes none.")
        self.image, self.rule = image, rule
        self.least, self.most, self.longest = least, most, longest

    def tiling(self, media: Any) -> Tiling:
        """Tiles of a picture, from its size alone; MediaError where its header cannot be read."""
        return self.tiling_of(*size_of(media, self.image.max_pixels))

    def tiling_of(self, width: int, height: int) -> Tiling:
        """Tiles of a picture of this size in pixels."""
        if self.rule == "longest_side":
            assert self.longest is not None
            return longest_side(width, height, self.image.size[0], self.longest)
        return closest_ratio(width, height, self.image.size, self.least, self.most)

    def read(self, media: str | Path | bytes | Image.Image) -> Item:
        """Read one picture -> ``pixels`` float[n, 3, H, W], the view of all of it last."""
        image = open_image(media, self.image.max_pixels)
        tiling = self.tiling_of(*image.size)
        transform = self.image.transform
        own = isinstance(transform, HfTransform) and transform.fit == "own"
        return {"pixels": self._by_the_folder(image, tiling) if own else self._cut(image, tiling)}

    def measure(self, media: str | Path | bytes | Image.Image) -> ItemInfo:
        """``n`` int64[], from the picture's header."""
        return {"n": torch.tensor(self.tiling(media).n)}

    def content(self, media: str | Path | bytes | Image.Image) -> Content | None:
        """As that of the pictures' processor."""
        return self.image.content(media)

    @property
    def extra_tokens(self) -> int:
        """Those of each picture."""
        return self.image.extra_tokens

    def grid(self, info: ItemInfo) -> tuple[int, int, int]:
        """(tiles, rows, cols), the view of all of it being the last tile."""
        n = int(info["n"]) if "n" in info else len(info["pixels"])
        return n, *self.image.fixed_grid()

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """All tiles behind each other: ``pixels`` float[sum of n, 3, H, W], ``counts`` int64[N] tiles of each."""
        pixels = [item["pixels"] for item in items]
        return {"pixels": torch.cat(pixels), "counts": torch.tensor([len(one) for one in pixels])}

    def blank(self) -> Item:
        """One tile of zeros."""
        return {"pixels": self.image.blank()["pixels"][None]}

    def _cut(self, image: Image.Image, tiling: Tiling) -> Tensor:
        """Squashed to the tiles' canvas and cut, each tile prepared as a picture of its own."""
        high, wide = self.image.size
        found = []
        if tiling.n > 1:
            canvas = image.resize((tiling.cols * wide, tiling.rows * high), Image.Resampling.BICUBIC)
            corners = [(col * wide, row * high) for row in range(tiling.rows) for col in range(tiling.cols)]
            found = [canvas.crop((x, y, x + wide, y + high)) for x, y in corners]
        return torch.stack([self.image.transform(one) for one in [*found, image]])

    def _by_the_folder(self, image: Image.Image, tiling: Tiling) -> Tensor:
        """Cut by the image processor of the encoder's folder, under the same settings."""
        transform = self.image.transform
        assert isinstance(transform, HfTransform)
        words: dict[str, Any] = {"do_image_splitting": True}
        if self.rule == "closest_ratio":
            words = {"crop_to_patches": True, "min_patches": self.least, "max_patches": self.most}
        lacking = [word for word in words if not hasattr(transform.processor, word)]
        if lacking:
            raise MmllmError(
                f"tiles: fit: own: the folder's image processor ({type(transform.processor).__name__}) has no "
                f"{lacking[0]}, which rule: {self.rule} sets; use fit: squash"
            )
        words |= {} if self.longest is None else {"size": {"longest_edge": self.longest}}
        pixels: Tensor = transform.processor([image], return_tensors="pt", **words)["pixel_values"]
        pixels = pixels.reshape(-1, *pixels.shape[-3:])
        if pixels.shape[0] != tiling.n or pixels.shape[-2:] != self.image.size:
            raise MmllmError(
                f"tiles: the folder's image processor cuts a picture of {image.width} x {image.height} into "
                f"{list(pixels.shape)}, and rule: {self.rule} expects {tiling.n} of {list(self.image.size)}"
            )
        return pixels


def size_of(media: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of a picture as it stands upright, from its header; MediaError where that cannot be read."""
    if isinstance(media, Image.Image):
        return upright_size(media if media.width * media.height <= max_pixels else open_image(media, max_pixels))
    source = io.BytesIO(media) if isinstance(media, bytes) else Path(media)
    where = f"image of {len(media)} bytes" if isinstance(media, bytes) else f"image {media}"
    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height <= max_pixels and image.width and image.height:
                return upright_size(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass
    open_image(media, max_pixels)  # says what is wrong with it
    raise MediaError(f"{where} has a header that cannot be read.")
