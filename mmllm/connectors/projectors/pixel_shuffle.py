"""The ``pixel_shuffle`` connector: blocks of patches become one wide token each (space to depth), then an MLP."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import as_maps
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class PixelShuffleConnector(Projector):
    """Blocks of factor x factor patches side by side, LN, Linear, GELU, Linear (InternVL, arXiv 2404.16821).

    The order inside a block is row, column, width: InternVL's ``ps_version v2`` and nanoVLM's (v1 transposes the grid).
    The mean over the blocks of one token is what ``pool`` computes, so this one keeps what pooling averages away.
    """

    def __init__(self, *, dim: int, llm_dim: int, factor: int = 2) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if factor < 1:
            raise MmllmError(f"connector pixel_shuffle factor: {factor} must be at least 1.")
        self.factor = factor
        wide = dim * factor**2
        self.mlp = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, llm_dim), nn.GELU(), nn.Linear(llm_dim, llm_dim))

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the blocks: rows and columns over the factor, frames or tiles in front as they are.

        Raises:
            MmllmError: rows or columns are not whole multiples of the factor, or there are none.
        """
        _, rows, cols = as_maps(grid, "pixel_shuffle")
        if rows % self.factor or cols % self.factor:
            raise MmllmError(
                f"connector pixel_shuffle factor: {self.factor} must divide the encoder's grid of {rows} x {cols}."
            )
        return (*grid[:-2], rows // self.factor, cols // self.factor)

    def shuffle(self, features: Features) -> Tensor:
        """Lay the patches of each block side by side: float[N, n_tokens, factor * factor * dim], raster order."""
        tokens = self.n_tokens(features.grid)
        _, rows, cols = as_maps(features.grid, "pixel_shuffle")
        x = features.concatenated()
        r = self.factor
        blocks = x.reshape(-1, rows // r, r, cols // r, r, x.shape[-1]).transpose(2, 3)
        return blocks.reshape(x.shape[0], tokens, r * r * x.shape[-1])

    def forward(self, features: Features) -> Tensor:
        """Shuffle and project features float[N, T, dim]: float[N, n_tokens, llm_dim]."""
        return self.mlp(self.shuffle(features))
