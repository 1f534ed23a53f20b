"""A picture encoder whose patches are said to lie in another grid, for connectors that need time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.types import Features, Grid


class Regridded(Encoder):
    """Gives the features of ``inner``, whose grids are all of one size, as those of ``grid`` with as many tokens."""

    def __init__(self, inner: Encoder, grid: Grid) -> None:
        super().__init__(layers=inner.layers)
        self.inner, self.grid, self.dim = inner, grid, inner.dim
        self.processor = RegriddedProcessor(inner.processor, grid)
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """Features of ``inner``: float[N, T, D]."""
        return replace(self.inner(**inputs), grid=self.grid)


class RegriddedProcessor(Processor):
    """Reads as ``inner`` does."""

    def __init__(self, inner: Processor, grid: Grid) -> None:
        self.inner, self._grid, self.modality = inner, grid, inner.modality

    def read(self, media: Any) -> Item:
        """One item as ``inner`` reads it."""
        return self.inner.read(media)

    def grid(self, info: ItemInfo) -> Grid:
        """The grid it was told."""
        return self._grid

    def fixed_grid(self) -> Grid:
        """The grid it was told."""
        return self._grid

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Inputs of N items as ``inner`` puts them together."""
        return self.inner.collate(items)

    def blank(self) -> Item:
        """A blank item of ``inner``."""
        return self.inner.blank()
