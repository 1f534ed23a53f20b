"""Pictures cut into tiles of one size: how many, from a picture's size alone, and the processor that cuts them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
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
from mmllm.processors.tile_rules import (
    Rule,
    best_resolution,
    canvas,
    closest_ratio,
    covering,
    fitted,
    kept_shape,
    longest_side,
    pan_and_scan,
    partition,
)
from mmllm.types import Among, Cut, Tiling

Several = Literal["cut", "whole"]
"""What becomes of several pictures of one conversation: each is cut, or each is taken whole (LLaVA-OneVision)."""


class TilesProcessor(Processor):
    """Cuts pictures for a processor of pictures: ``pixels`` float[n, 3, H, W]; grid (tiles, rows, cols)."""

    modality = "image"
    resolutions: tuple[tuple[int, int], ...] | None = None
    """Under ``rule: resolutions``, an attribute of the object there alone; (height, width) of each."""
    crops: tuple[int, float] | None = None
    """Likewise under ``rule: pan_and_scan``: ``shortest`` and ``ratio``."""

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
        shortest: int | None = None,
        ratio: float | None = None,
    ) -> None:
        """``image`` prepares each tile; the rest as in :class:`~mmllm.encoders.image.tiles.TilesEncoder`."""
        if rule not in get_args(Rule):
            raise MmllmError(f'tiles: rule: "{rule}" is unknown; known: {", ".join(get_args(Rule))}.')
        if not 1 <= least <= most:
            raise MmllmError(f"tiles: least: {least} and most: {most} must be at least 1, and least no more than most.")
        if rule in ("longest_side", "partition") and longest is None:
            raise MmllmError(f"tiles: rule: {rule} needs `longest`, the longer side of a picture in pixels.")
        if rule in ("longest_side", "partition", "covering", "canvas") and image.size[0] != image.size[1]:
            raise MmllmError(f"tiles: rule: {rule} cuts squares, and the image encoder takes none.")
        if rule == "partition" and longest is not None and longest < image.size[0]:
            raise MmllmError(f"tiles: rule: partition: longest: {longest} holds no tile of {image.size[0]} pixels.")
        if rule in ("covering", "canvas", "pan_and_scan") and least != 1:
            raise MmllmError(f"tiles: rule: {rule} takes as few tiles as may be; leave out least: {least}.")
        if (rule == "resolutions") != (resolutions is not None):
            raise MmllmError("tiles: rule: resolutions needs `resolutions`, a list of [height, width]; no other does.")
        crops = rule == "pan_and_scan"
        if (shortest is not None) != crops or (ratio is not None) != crops:
            raise MmllmError("tiles: rule: pan_and_scan needs `shortest` and `ratio`; no other does.")
        if shortest is not None and not 2 <= most <= shortest:
            raise MmllmError(
                f"tiles: rule: pan_and_scan: most: {most} must be at least 2, and no more than shortest: {shortest}; "
                "of more crops one may be empty."
            )
        if several not in get_args(Several):
            raise MmllmError(f'tiles: several: "{several}" is unknown; known: {", ".join(get_args(Several))}.')
        self.image, self.rule = image, rule
        self.least, self.most, self.longest = least, most, longest
        if resolutions is not None:  # tiles under another rule keep the digest that they had before there was this one
            self.resolutions = _resolutions(resolutions, image.size)
        if shortest is not None and ratio is not None:
            self.crops = (shortest, ratio)
        if several == "whole":
            self.minds_others = True

    @property
    def pads(self) -> bool:
        """Whether a picture keeps its shape and gets borders, which ``stitch: {unpad: true}`` cuts off again."""
        return self.rule == "resolutions"

    @property
    def marks_view(self) -> bool:
        """Whether the view of all of a picture is in front of its tiles, and alone where there is one tile."""
        return self.rule == "covering"

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
        if self.rule == "partition":
            assert self.longest is not None
            return partition(width, height, self.image.size[0], self.longest)
        if self.rule == "canvas":
            return canvas(width, height, self.image.size[0], self.most)
        if self.rule == "covering":
            return covering(width, height, self.image.size[0], self.most)
        if self.crops is not None:
            return pan_and_scan(width, height, self.crops[0], self.most, self.crops[1])
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

    @property
    def extra_tokens(self) -> int:
        """Those of each picture."""
        return self.image.extra_tokens

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
        cut = Cut(Tiling(1, 1, self.tiling_of(1, 1).first), self.image.size[1], self.image.size[0])
        return {
            "pixels": self.image.blank()["pixels"].expand(cut.tiling.n, -1, -1, -1),
            "cut": torch.tensor(cut.numbers()),
        }

    def _cut(self, image: Image.Image, tiling: Tiling) -> Tensor:
        """Brought to the tiles' canvas and cut, each tile prepared as a picture of its own."""
        high, wide = self.image.size
        found = []
        if self.crops is not None and tiling.n > 1:
            found = _crops(image, tiling)
        elif tiling.n > 1:
            laid = self._canvas(image, (tiling.rows * high, tiling.cols * wide), tiling)
            corners = [(col * wide, row * high) for row in range(tiling.rows) for col in range(tiling.cols)]
            found = [laid.crop((x, y, x + wide, y + high)) for x, y in corners]
        found = [image, *found] if tiling.first else [*found, image]
        return torch.stack([self.image.transform(one) for one in found])

    def _canvas(self, image: Image.Image, size: tuple[int, int], tiling: Tiling) -> Image.Image:
        """Squashed to (height, width), or its shape kept and black around it."""
        high, wide = size
        if self.rule == "canvas":
            laid = Image.new("RGB", (wide, high))
            kept = kept_shape(image.width, image.height, tiling, self.image.size[0])
            laid.paste(image.resize(kept, Image.Resampling.BICUBIC))
            return laid
        if not self.pads:
            return image.resize((wide, high), Image.Resampling.BICUBIC)
        inner = image.resize(fitted(image.width, image.height, size), Image.Resampling.BICUBIC)
        laid = Image.new("RGB", (wide, high))
        laid.paste(inner, ((wide - inner.width) // 2, (high - inner.height) // 2))
        return laid

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by which an image processor of transformers cuts so."""
        if self.rule == "closest_ratio":
            return {"crop_to_patches": True, "min_patches": self.least, "max_patches": self.most}
        if self.rule == "canvas":
            return {"max_patches": self.most, "resize_to_max_canvas": False}
        if self.rule == "covering":
            return {"crop_to_patches": True, "max_patches": self.most, "use_covering_area_grid": True}
        if self.resolutions is not None:
            return {"image_grid_pinpoints": [list(one) for one in self.resolutions]}
        if self.crops is not None:
            return {
                "do_pan_and_scan": True,
                "pan_and_scan_min_crop_size": self.crops[0],
                "pan_and_scan_max_num_crops": self.most,
                "pan_and_scan_min_ratio_to_activate": self.crops[1],
            }
        return {"do_image_splitting": True, "size": {"longest_edge": self.longest}}

    def _by_the_folder(self, image: Image.Image, tiling: Tiling) -> Tensor:
        """Cut by the image processor of the encoder's folder, under the same settings."""
        transform = self.image.transform
        assert isinstance(transform, HfTransform)
        if self.rule == "partition":
            raise MmllmError("tiles: rule: partition is no image processor's own; use fit: squash in the image encoder")
        words = self.settings
        lacking = [word for word in words if not hasattr(transform.processor, word)]
        if lacking:
            raise MmllmError(
                f"tiles: fit: own: the folder's image processor ({type(transform.processor).__name__}) has no "
                f"{lacking[0]}, which rule: {self.rule} sets; use fit: squash"
            )
        pixels: Tensor = transform.processor([image], return_tensors="pt", **words)["pixel_values"]
        pixels = pixels.reshape(-1, *pixels.shape[-3:]).float()  # Llama 4's are rounded to bfloat16
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


def _crops(image: Image.Image, tiling: Tiling) -> list[Image.Image]:
    """Parts of one size, row by row, but for the last ones, which end with the picture."""
    wide, high = -(-image.width // tiling.cols), -(-image.height // tiling.rows)
    corners = [(col * wide, row * high) for row in range(tiling.rows) for col in range(tiling.cols)]
    return [image.crop((x, y, min(x + wide, image.width), min(y + high, image.height))) for x, y in corners]


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
