"""Pictures at their own size and shape, each as the vectors of its patches; read for towers of native resolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content, of_file
from mmllm.processors.image import MAX_PIXELS, open_image
from mmllm.processors.tiles import size_of
from mmllm.types import Cut, Grid, Tiling


@dataclass(frozen=True)
class Limits:
    """How large pictures become; None: as the image processor of the folder says."""

    longest: int | None = None
    """Longer side in pixels, at most."""
    smallest: int | None = None
    """Pixels of a picture (width x height), at least."""
    largest: int | None = None
    """Pixels of a picture, at most."""
    merge: int = 1
    """Sides become multiples of so many patches."""


class Patching(ABC):
    """How one kind of image processor brings a picture to patches: settings alone, small when pickled.

    A subclass is a frozen dataclass whose ``own`` is the folder's image processor and ``patch`` a side in pixels.
    """

    own: Any
    patch: int

    @property
    def channels(self) -> int:
        """C, numbers of one patch."""
        return 3 * self.patch**2

    @abstractmethod
    def grid(self, width: int, height: int) -> Grid:
        """Patches of a picture of this size in pixels, (rows, cols), before it is opened; 0 where a side vanishes."""

    @abstractmethod
    def patches(self, image: Image.Image) -> Tensor:
        """float[patches, C] of an RGB picture, in the order and normalisation of its tower."""

    @abstractmethod
    def pixels(self, patches: Tensor, grid: Grid) -> Tensor:
        """float[3, rows * patch, cols * patch], the picture that these patches are."""

    def cutting(self, tiles: Sequence[int] | str) -> Cutting:
        """How pictures are cut into tiles by this word of a recipe; MmllmError where the image processor does not."""
        raise MmllmError(
            f"tiles: {as_written(tiles)}: the folder's image processor ({type(self.own).__name__}) cuts no pictures "
            "into tiles; leave the word out."
        )

    def words(self, **limits: Any) -> dict[str, Any]:
        """Words for a call of ``own``: those that are given."""
        return {"return_tensors": "pt", **{word: value for word, value in limits.items() if value is not None}}


class Cutting(ABC):
    """How one kind of image processor cuts pictures into tiles, with a view of all of it behind them, at their shapes.

    A subclass is a frozen dataclass.
    """

    smallest: Cut
    """Of the smallest picture that can be taken."""

    @abstractmethod
    def tiling(self, width: int, height: int) -> Tiling:
        """Tiles of a picture of this size in pixels; one, which is itself, where it is not cut.

        Raises:
            MediaError: it cannot be cut, and would have to be.
        """

    @abstractmethod
    def grids(self, cut: Cut) -> list[Grid]:
        """(rows, cols) of patches of each tile in order, before a picture is opened; without the view of all of it."""

    @abstractmethod
    def pieces(self, image: Image.Image) -> list[Tensor]:
        """float[patches, C] of each tile of an RGB picture and of the view of all of it."""


class NativeProcessor(Processor):
    """Each picture as ``patches`` float[P, C] and its ``grid`` int64[axes]; P follows from the picture's size alone."""

    modality = "image"

    def __init__(self, patching: Patching, *, max_pixels: int = MAX_PIXELS) -> None:
        """``patching``: of the folder's image processor; ``max_pixels``: of a picture, before it is decoded."""
        self.patching = patching
        self.max_pixels = max_pixels

    def read(self, media: str | Path | bytes | Image.Image) -> Item:
        """Read one picture -> ``patches`` float[P, C], ``grid`` int64[axes].

        Raises:
            MediaError: it cannot be read, or is so narrow that no patch is left of it.
            MmllmError: the folder's image processor gives other patches than were counted beforehand.
        """
        image = open_image(media, self.max_pixels)
        grid = self._grid(*image.size)
        patches = self.patching.patches(image)
        if len(patches) != prod(grid):
            raise MmllmError(
                f"the folder's image processor ({type(self.patching.own).__name__}) makes {len(patches)} patches of a "
                f"picture of {image.width} x {image.height}, where {' x '.join(map(str, grid))} were expected; its "
                "settings are not supported."
            )
        return {"patches": patches, "grid": torch.tensor(grid)}

    def measure(self, media: str | Path | bytes | Image.Image) -> ItemInfo:
        """``grid`` int64[axes], from the picture's header; MediaError as :meth:`read`."""
        return {"grid": torch.tensor(self._grid(*size_of(media, self.max_pixels)))}

    def content(self, media: str | Path | bytes | Image.Image) -> Content | None:
        """A file, or the upright RGB pixels of an opened picture."""
        if not isinstance(media, Image.Image):
            return of_file(media)
        image = open_image(media, self.max_pixels)
        return Content(data=image.tobytes(), words=f"RGB {image.width} x {image.height}")

    def grid(self, info: ItemInfo) -> Grid:
        """(rows, cols) of patches."""
        return tuple(info["grid"].tolist())

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Items packed: ``patches`` float[sum of P, C], item after item, ``grids`` int64[N, axes]."""
        return {
            "patches": torch.cat([item["patches"] for item in items]),
            "grids": torch.stack([item["grid"] for item in items]),
        }

    def blank(self) -> Item:
        """The smallest picture, of zeros."""
        grid = self._grid(1, 1)
        return {"patches": torch.zeros(prod(grid), self.patching.channels), "grid": torch.tensor(grid)}

    def _grid(self, width: int, height: int) -> Grid:
        found = self.patching.grid(width, height)
        if not prod(found):
            raise MediaError(f"the picture of {width} x {height} pixels is so narrow that resizing leaves no patch.")
        return found


def as_written(tiles: Sequence[int] | str) -> str:
    """The word ``tiles`` as a recipe writes it."""
    return tiles if isinstance(tiles, str) else str(list(tiles))


def refuse(own: Any, known: Sequence[str], limits: Limits) -> None:
    """MmllmError for a limit that an image processor does not have; ``known``: those it has."""
    names = {"longest": limits.longest, "least": limits.smallest, "most": limits.largest}
    for word, value in names.items():
        if value is not None and word not in known:
            raise MmllmError(
                f"{word}: {value}: the folder's image processor ({type(own).__name__}) does not limit pictures so; "
                f"it knows {' and '.join(known)}."
            )
        if value is not None and value < 1:
            raise MmllmError(f"{word}: {value} must be at least 1 pixel.")
    if limits.merge < 1:
        raise MmllmError(f"merge: {limits.merge} must be at least 1 patch.")
