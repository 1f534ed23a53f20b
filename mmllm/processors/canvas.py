"""Pictures fitted onto a canvas of square tiles, empty tiles behind: what the ``mllama_vision`` encoder reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmllm.errors import MmllmError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content
from mmllm.processors.image import ImageProcessor, content_of, open_image


@dataclass(frozen=True)
class Canvas:
    """Tiles of one picture, row by row; there is no view of all of it."""

    rows: int
    cols: int

    @property
    def n(self) -> int:
        """Number of tiles."""
        return self.rows * self.cols


@lru_cache(maxsize=16)
def canvases(most: int) -> tuple[Canvas, ...]:
    """All of at most so many tiles, those of few rows first; the model numbers them so, from 1 on."""
    sides = range(1, most + 1)
    return tuple(Canvas(rows, cols) for rows in sides for cols in sides if rows * cols <= most)


def canvas_of(width: int, height: int, tile: int, most: int) -> Canvas:
    """The canvas that a picture of this size in pixels has to grow least for, or else shrink least; ties: the smaller.

    ``tile``: side of a tile in pixels (Llama 3.2 Vision; Grattafiori et al. 2024, arXiv 2407.21783).
    """
    known = canvases(most)
    scales = [min(one.rows * tile / height, one.cols * tile / width) for one in known]
    grown = [scale for scale in scales if scale >= 1]
    best = min(grown) if grown else max(scales)
    return min((one for one, scale in zip(known, scales, strict=True) if scale == best), key=lambda one: one.n)


class CanvasProcessor(Processor):
    """Cuts pictures by the image processor of a model's folder: ``pixels`` float[most, 3, H, W], empty tiles zero.

    With it come ``aspect`` int64[], the number of its canvas, and ``tiles`` int64[], how many of its tiles it fills.
    The grid is (most, 1, tokens of a tile) for every picture: the tower reads empty tiles too.
    """

    modality = "image"

    def __init__(self, own: Any, *, most: int, tokens: int, max_pixels: int) -> None:
        """Set up.

        Args:
            own: image processor of transformers.
            most: tiles of a picture at most.
            tokens: of a tile.
            max_pixels: limit on width x height of a picture, checked before it is decoded.

        Raises:
            MmllmError: the image processor is of another kind, or cuts into another number of tiles.
        """
        if not hasattr(own, "max_image_tiles") or own.max_image_tiles != most:
            found = own.max_image_tiles if hasattr(own, "max_image_tiles") else "none"
            raise MmllmError(
                f"the folder's image processor ({type(own).__name__}) has max_image_tiles: {found}, and the tower "
                f"takes {most} tiles; fetch the preprocessor_config.json that belongs to the model"
            )
        self.own, self.tiles_at_most, self.tokens, self.max_pixels = own, most, tokens, max_pixels
        self.side = int(own.size["height"])

    def canvas(self, width: int, height: int) -> Canvas:
        """Tiles of a picture of this size in pixels."""
        return canvas_of(width, height, self.side, self.tiles_at_most)

    @property
    def image(self) -> ImageProcessor:
        """What prepares a picture of a tile's size, as one."""
        return ImageProcessor(self._tile, size=(self.side, self.side), patch=(self.side, self.side))

    def _tile(self, image: Image.Image) -> torch.Tensor:
        found: torch.Tensor = self.own([image], return_tensors="pt")["pixel_values"]
        return found.reshape(-1, 3, self.side, self.side)[0]

    def read(self, media: str | Path | bytes | Image.Image) -> Item:
        """Read one picture; MmllmError where the folder's processor cuts by another rule than :func:`canvas_of`."""
        image = open_image(media, self.max_pixels)
        found = self.own([image], return_tensors="pt")
        aspect, tiles = int(found["aspect_ratio_ids"].flatten()[0]), int(found["aspect_ratio_mask"].sum())
        canvas = self.canvas(*image.size)
        if canvases(self.tiles_at_most)[aspect - 1] != canvas or tiles != canvas.n:
            raise MmllmError(
                f"the folder's image processor puts a picture of {image.width} x {image.height} on canvas {aspect}, "
                f"and {canvas.rows} x {canvas.cols} tiles are expected"
            )
        pixels = found["pixel_values"].reshape(self.tiles_at_most, 3, self.side, self.side)
        return {"pixels": pixels, "aspect": torch.tensor(aspect), "tiles": torch.tensor(tiles)}

    def content(self, media: str | Path | bytes | Image.Image) -> Content | None:
        """A file, or the upright RGB pixels of an opened picture."""
        return content_of(media, self.max_pixels)

    def grid(self, info: ItemInfo) -> tuple[int, int, int]:
        """(tiles, 1, tokens of a tile)."""
        return self.fixed_grid()

    def fixed_grid(self) -> tuple[int, int, int]:
        """The same for every picture."""
        return self.tiles_at_most, 1, self.tokens

    def blank(self) -> Item:
        """A picture of zeros on one tile."""
        pixels = torch.zeros(self.tiles_at_most, 3, self.side, self.side)
        return {"pixels": pixels, "aspect": torch.tensor(1), "tiles": torch.tensor(1)}
