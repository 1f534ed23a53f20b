"""The ``pixel_shuffle`` connector: blocks of patches become one wide token each (space to depth), then an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import as_maps, mlp, norm_of
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


def blocks_of(x: Tensor, rows: int, cols: int, down: int, across: int) -> Tensor:
    """Maps float[..., rows * cols, D] in blocks of down x across: float[maps, blocks, down * across * D].

    Blocks in raster order; inside one row, column, width.
    """
    blocks = x.reshape(-1, rows // down, down, cols // across, across, x.shape[-1]).transpose(2, 3)
    return blocks.reshape(len(blocks), -1, down * across * x.shape[-1])


class PixelShuffleConnector(Projector):
    """Blocks of factor x factor patches side by side, LN, Linear, GELU, Linear (InternVL, arXiv 2404.16821).

    ``factor: [rows, cols]`` makes blocks of another shape: [1, 4] are AdaptVision's four patches in a row (2408.16986).

    The order inside a block is row, column, width: InternVL's ``ps_version v2`` and nanoVLM's (v1 transposes the grid).
    The mean over the blocks of one token is what ``pool`` computes, so this one keeps what pooling averages away.
    ``norm_first`` norms each patch before it is laid beside others, as Qwen2-VL's merger does (2409.12191; ``width``
    is that of a block there). With ``axes: 1`` steps in time are stacked, as frames of sound in Ultravox and Voxtral
    (2507.13264). ``norm: false``, ``depth: 1`` and ``bias: false`` is the projector of Idefics3 (2408.12637) and
    SmolVLM. ``width``, ``bias`` and ``activation``: as in ``mlp``. ``gated``: of the channels between the layers the
    second half, activated, multiplies the first, as in Aya Vision (2505.08751). With ``activation: softmax`` behind an
    ``inner_norm``, and no ``bias``, a token is a mean of ``width`` learned embeddings, one for each word of a visual
    vocabulary, as in Ovis (2405.20797); ``hard_softmax`` takes the likeliest of them. ``pad``
    fills a map whose sides the factor does not divide with zeros, at the right and bottom (27 x 27 patches in
    DeepSeek-VL2, 2412.10302); with ``norm_first`` they are not normed.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        factor: int | Sequence[int] = 2,
        axes: int = 2,
        norm: bool | str = True,
        norm_first: bool = False,
        eps: float = 1e-5,
        depth: int = 2,
        width: int | None = None,
        bias: bool = True,
        activation: str = "gelu",
        gated: bool = False,
        inner_norm: bool = False,
        pad: bool = False,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if axes not in (1, 2):
            raise MmllmError(f"connector pixel_shuffle axes: {axes} must be 1 (time) or 2 (rows and columns).")
        self.block = _block(factor, axes)
        if pad and axes == 1:
            raise MmllmError("connector pixel_shuffle pad: is of rows and columns, and axes: 1 stacks steps in time.")
        self.axes, self.norm_first, self.pad = axes, norm_first, pad
        wide = dim * prod(self.block)
        # one sequence, so that checkpoints from before there was a choice keep their names
        self.mlp = nn.Sequential(
            norm_of(norm, dim if norm_first else wide, eps),
            *mlp(wide, llm_dim, depth, activation, width, bias, gated, inner_norm),
        )

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the blocks: rows and columns over the factor, frames or tiles in front as they are.

        Raises:
            MmllmError: rows or columns are not whole multiples of the factor, or there are none.
        """
        down, across = self.block
        if self.axes == 1:
            if len(grid) != 1 or grid[0] % across:
                raise MmllmError(
                    f"connector pixel_shuffle factor: {across} with axes: 1 must divide a grid of time alone; "
                    f"this encoder gives {tuple(grid)}."
                )
            return (grid[0] // across,)
        _, rows, cols = as_maps(grid, "pixel_shuffle")
        if self.pad:
            return (*grid[:-2], -(-rows // down), -(-cols // across))
        if rows % down or cols % across:
            found = down if down == across else list(self.block)
            raise MmllmError(
                f"connector pixel_shuffle factor: {found} must divide the encoder's grid of {rows} x {cols}."
            )
        return (*grid[:-2], rows // down, cols // across)

    def shuffle(self, features: Features) -> Tensor:
        """Lay the patches of each block side by side: float[N, n_tokens, patches of a block * dim], raster order."""
        return self._shuffled(features.concatenated(), features)

    def _shuffled(self, x: Tensor, features: Features) -> Tensor:
        """``x`` float[N, T, dim], of the grid of ``features``."""
        tokens = self.n_tokens(features.grid)
        if self.axes == 1:
            return x.reshape(x.shape[0], tokens, self.block[1] * x.shape[-1])
        _, rows, cols = as_maps(features.grid, "pixel_shuffle")
        if self.pad:
            below, right = -rows % self.block[0], -cols % self.block[1]
            maps = functional.pad(x.unflatten(1, (-1, rows, cols)), (0, 0, 0, right, 0, below))
            x, rows, cols = maps.flatten(1, 3), rows + below, cols + right
        return blocks_of(x, rows, cols, *self.block).reshape(x.shape[0], tokens, -1)

    def forward(self, features: Features) -> Tensor:
        """Shuffle and project features float[N, T, dim]: float[N, n_tokens, llm_dim]."""
        if not self.norm_first:
            return self.mlp(self.shuffle(features))
        return self.mlp[1:](self._shuffled(self.mlp[0](features.concatenated()), features))


def _block(factor: int | Sequence[int], axes: int) -> tuple[int, int]:
    """Rows and columns of a block, one row of steps in time with ``axes: 1``."""
    sides = [factor] if isinstance(factor, int) else list(factor)
    if min(sides, default=0) < 1 or len(sides) > axes:
        raise MmllmError(
            f"connector pixel_shuffle factor: {factor if isinstance(factor, int) else sides} must be at least 1, or "
            "[rows, cols] of them with axes: 2."
        )
    return (1, sides[0]) if axes == 1 else (sides[0], sides[-1])
