"""Pictures cut into tiles of one size: how many, from a picture's size alone, and the processor that cuts them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
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
from mmllm.types import Among, Cut, Tiling

Rule = Literal["closest_ratio", "longest_side", "resolutions"]
"""How many tiles a picture gets.

``closest_ratio``: as many as its shape asks for, which is squashed to theirs (InternVL, arXiv 2404.16821).
``longest_side``: its longer side is brought to ``longest`` pixels, or up or down to it, and what that gives is cut
(Idefics3, arXiv 2408.12637).
``resolutions``: it is fitted, its shape kept, into the one of a list in which most of it is seen, and borders are added
(LLaVA-NeXT's AnyRes; LLaVA-OneVision, arXiv 2408.03326).
"""
Several = Literal["cut", "whole"]
"""What becomes of several pictures of one conversation: each is cut, or each is taken whole (LLaVA-OneVision)."""
_CAP = 4096  # pixels of a side at most under `longest_side`, as transformers has it


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


def best_resolution(width: int, height: int, resolutions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) of the list in which most of the picture's own pixels are seen; of several the smallest."""
    best, most, least = resolutions[0], -1, 0
    for high, wide in resolutions:
        scale = min(wide / width, high / height)
        seen = min(int(width * scale) * int(height * scale), width * height)
        if seen > most or (seen == most and wide * high - seen < least):
            best, most, least = (high, wide), seen, wide * high - seen
    return best


def fitted(width: int, height: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture brought to a canvas (height, width), its shape kept."""
    high, wide = canvas
    across, down = wide / width, high / height
    if across < down:
        return wide, min(math.ceil(height * across), high)
    return min(math.ceil(width * down), wide), high


class TilesProcessor(Processor):
    """Cuts pictures for a processor of pictures: ``pixels`` float[n, 3, H, W]; grid (tiles, rows, cols)."""

    modality = "image"
    resolutions: tuple[tuple[int, int], ...] | None = None
    """Under ``rule: resolutions``, an attribute of the object there alone; (height, width) of each."""

    def __init__(
        self,
        image: ImageProcessor,
        *,
        rule: str,
        least: int = 1,
        most: int = 12,
        longest: int | None = None,
        resolutions: Sequence[Sequence[int]] | None = None,
        several: str = "cut",
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
        if (rule == "resolutions") != (resolutions is not None):
            raise MmllmError("tiles: rule: resolutions needs `resolutions`, a list of [height, width]; no other does.")
        if several not in get_args(Several):
            raise MmllmError(f'tiles: several: "{several}" is unknown; known: {", ".join(get_args(Several))}.')
        self.image, self.rule = image, rule
        self.least, self.most, self.longest = least, most, longest
        if resolutions is not None:  # tiles under another rule keep the digest that they had before there was this one
            self.resolutions = _resolutions(resolutions, image.size)
        if several == "whole":
            self.minds_others = True

    @property
    def pads(self) -> bool:
        """Whether a picture keeps its shape and gets borders, which ``stitch: {unpad: true}`` cuts off again."""
        return self.rule == "resolutions"

    def cut(self, media: Any) -> Cut:
        """How a picture is cut, and its size, from its header; MediaError where that cannot be read."""
        picture, among = _beside(media)
        width, height = size_of(picture, self.image.max_pixels)
        return Cut(Tiling(1, 1) if among else self.tiling_of(width, height), width, height)

    def tiling_of(self, width: int, height: int) -> Tiling:
        """Tiles of a picture of this size in pixels."""
        if self.rule == "longest_side":
            assert self.longest is not None
            return longest_side(width, height, self.image.size[0], self.longest)
        if self.resolutions is not None:
            high, wide = best_resolution(width, height, self.resolutions)
            return Tiling(high // self.image.size[0], wide // self.image.size[1], first=True)
        return closest_ratio(width, height, self.image.size, self.least, self.most)

    def read(self, media: str | Path | bytes | Image.Image | Among) -> Item:
        """Read one picture -> ``pixels`` float[n, 3, H, W], the view of all of it last or first; ``cut`` int64[5]."""
        picture, among = _beside(media)
        image = open_image(picture, self.image.max_pixels)
        tiling = Tiling(1, 1) if among else self.tiling_of(*image.size)
        transform = self.image.transform
        own = isinstance(transform, HfTransform) and transform.fit == "own"
        if own:
            pixels = self._beside_others(image) if among else self._by_the_folder(image, tiling)
        else:
            pixels = self._cut(image, tiling)
        return {"pixels": pixels, "cut": torch.tensor(Cut(tiling, *image.size).numbers())}

    def measure(self, media: str | Path | bytes | Image.Image | Among) -> ItemInfo:
        """``cut`` int64[5], from the picture's header."""
        return {"cut": torch.tensor(self.cut(media).numbers())}

    def content(self, media: str | Path | bytes | Image.Image | Among) -> Content | None:
        """As that of the pictures' processor, and whether others are beside it."""
        picture, among = _beside(media)
        found = self.image.content(picture)
        return found if found is None or not among else replace(found, words=f"{found.words} among others")

    def grid(self, info: ItemInfo) -> tuple[int, int, int]:
        """(tiles, rows, cols), the view of all of it being a tile as well."""
        return Cut.of(info["cut"].tolist()).tiling.n, *self.image.fixed_grid()

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """All tiles behind each other: ``pixels`` float[sum of n, 3, H, W], ``counts`` int64[N] tiles of each; ``cut``
        int64[N, 5]."""
        pixels = [item["pixels"] for item in items]
        cuts = torch.stack([item["cut"] for item in items])
        return {"pixels": torch.cat(pixels), "counts": torch.tensor([len(one) for one in pixels]), "cut": cuts}

    def blank(self) -> Item:
        """As few tiles of zeros as a picture may have."""
        cut = Cut(Tiling(1, 1, self.pads), self.image.size[1], self.image.size[0])
        return {
            "pixels": self.image.blank()["pixels"].expand(cut.tiling.n, -1, -1, -1),
            "cut": torch.tensor(cut.numbers()),
        }

    def _cut(self, image: Image.Image, tiling: Tiling) -> Tensor:
        """Brought to the tiles' canvas and cut, each tile prepared as a picture of its own."""
        high, wide = self.image.size
        found = []
        if tiling.n > 1:
            canvas = self._canvas(image, (tiling.rows * high, tiling.cols * wide))
            corners = [(col * wide, row * high) for row in range(tiling.rows) for col in range(tiling.cols)]
            found = [canvas.crop((x, y, x + wide, y + high)) for x, y in corners]
        found = [image, *found] if tiling.first else [*found, image]
        return torch.stack([self.image.transform(one) for one in found])

    def _canvas(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Squashed to (height, width), or its shape kept and black around it."""
        high, wide = size
        if not self.pads:
            return image.resize((wide, high), Image.Resampling.BICUBIC)
        inner = image.resize(fitted(image.width, image.height, size), Image.Resampling.BICUBIC)
        canvas = Image.new("RGB", (wide, high))
        canvas.paste(inner, ((wide - inner.width) // 2, (high - inner.height) // 2))
        return canvas

    def _by_the_folder(self, image: Image.Image, tiling: Tiling) -> Tensor:
        """Cut by the image processor of the encoder's folder, under the same settings."""
        transform = self.image.transform
        assert isinstance(transform, HfTransform)
        words: dict[str, Any] = {"do_image_splitting": True, "size": {"longest_edge": self.longest}}
        if self.rule == "closest_ratio":
            words = {"crop_to_patches": True, "min_patches": self.least, "max_patches": self.most}
        if self.resolutions is not None:
            words = {"image_grid_pinpoints": [list(one) for one in self.resolutions]}
        lacking = [word for word in words if not hasattr(transform.processor, word)]
        if lacking:
            raise MmllmError(
                f"tiles: fit: own: the folder's image processor ({type(transform.processor).__name__}) has no "
                f"{lacking[0]}, which rule: {self.rule} sets; use fit: squash"
            )
        pixels: Tensor = transform.processor([image], return_tensors="pt", **words)["pixel_values"]
        pixels = pixels.reshape(-1, *pixels.shape[-3:])
        if pixels.shape[0] != tiling.n or pixels.shape[-2:] != self.image.size:
            raise MmllmError(
                f"tiles: the folder's image processor cuts a picture of {image.width} x {image.height} into "
                f"{list(pixels.shape)}, and rule: {self.rule} expects {tiling.n} of {list(self.image.size)}"
            )
        return pixels

    def _beside_others(self, image: Image.Image) -> Tensor:
        """One of several pictures, by the folder's image processor: float[1, 3, H, W]."""
        transform = self.image.transform
        assert isinstance(transform, HfTransform)
        # a list in the list is several pictures of one conversation; the other one is as small as may be
        beside = Image.new("RGB", (1, 1))
        pixels: Tensor = transform.processor([[image, beside]], return_tensors="pt")["pixel_values"]
        if pixels.shape[:2] != (2, 1) or pixels.shape[-2:] != self.image.size:
            raise MmllmError(
                f"tiles: several: whole: the folder's image processor ({type(transform.processor).__name__}) makes "
                f"{list(pixels.shape)} of two pictures of one conversation, which is to be one tile of "
                f"{list(self.image.size)} each; use several: cut"
            )
        return pixels[0]


def _beside(media: Any) -> tuple[Any, bool]:
    """The item itself, and whether there are others beside it."""
    return (media.item, True) if isinstance(media, Among) else (media, False)


def _resolutions(given: Sequence[Sequence[int]], tile: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each, MmllmError where one is no whole number of tiles."""
    for one in given:
        if len(one) != 2 or min(one) < 1 or one[0] % tile[0] or one[1] % tile[1]:
            raise MmllmError(
                f"tiles: resolutions: {list(one)} must be [height, width] in whole tiles of {tile[0]} x {tile[1]}, as "
                "the image encoder takes them."
            )
    if not given:
        raise MmllmError("tiles: resolutions: the list is empty; give at least one [height, width].")
    return tuple((one[0], one[1]) for one in given)


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
