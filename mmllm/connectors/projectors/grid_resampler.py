"""The ``grid_resampler`` connector: one cross-attention of learned queries that know where in a picture patches are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid

Positions = Literal["stretched", "counted"]
"""``stretched``: the queries' grid of positions brought to the patches' by bicubic interpolation, so that both cover
the picture (Qwen-VL); ``counted``: patches have the positions of their own rows and columns (MiniCPM-V 2.5 and later).
"""


class GridResamplerConnector(Projector):
    """The adapter of Qwen-VL (Bai et al. 2023, arXiv 2308.12966) and MiniCPM-V (Yao et al. 2024, arXiv 2408.01800).

    ``grid`` [rows, cols] of learned queries Q read the features x once: with k = LN(W x) the tokens are
    LN(Attn(LN(Q) + P, k + P', k)) through a linear map without bias; no residual, no MLP. P and P' are fixed sines and
    cosines of column and row, half the width each, see ``positions``; ``query_positions: false`` leaves P out, as
    MiniCPM-V does from 2.5 on. Frames and tiles are read one by one. ``width`` of the attention is the LLM's unless
    given, and ``heads`` divide it (default: 128 channels each, as both models have).
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        grid: Sequence[int] = (16, 16),
        heads: int | None = None,
        width: int | None = None,
        positions: Positions = "stretched",
        query_positions: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        inner = llm_dim if width is None else width
        self.heads = max(1, inner // 128) if heads is None else heads
        if len(grid) != 2 or min(grid) < 1:
            raise MmllmError(f"connector grid_resampler grid: {list(grid)} must be [rows, cols], both at least 1.")
        if self.heads < 1 or inner < 4 or inner % self.heads or inner % 4:
            raise MmllmError(
                f"connector grid_resampler: heads ({self.heads}) and 4 must divide the width ({inner}): sines and "
                "cosines of rows and of columns fill a quarter of it each."
            )
        if positions not in get_args(Positions):
            known = ", ".join(get_args(Positions))
            raise MmllmError(f"connector grid_resampler positions: {positions!r} is unknown; known: {known}.")
        self.grid = (grid[0], grid[1])
        self.positions, self.query_positions, self.width = positions, query_positions, inner
        self.queries = nn.Parameter(nn.init.trunc_normal_(torch.empty(grid[0] * grid[1], inner), std=0.02))
        self.input = nn.Linear(dim, inner, bias=False)
        self.norm_queries = nn.LayerNorm(inner, eps=eps)
        self.norm_features = nn.LayerNorm(inner, eps=eps)
        self.to_query, self.to_value, self.attended = (nn.Linear(inner, inner) for _ in range(3))
        # a key's bias shifts all scores of a query alike, so it would never learn
        self.to_key = nn.Linear(inner, inner, bias=False)
        self.norm = nn.LayerNorm(inner, eps=eps)
        self.output = nn.Linear(inner, llm_dim, bias=False)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """One row of queries, of each frame or tile where there are several: (1, n) or (time, 1, n).

        Raises:
            MmllmError: the features lie on no map.
        """
        if len(grid) < 2:
            raise MmllmError(
                f"connector grid_resampler reads maps of rows and columns, and its encoder's grid is {list(grid)}; "
                "use resampler or window_resampler."
            )
        return (*grid[:-2], 1, self.grid[0] * self.grid[1])

    def forward(self, features: Features) -> Tensor:
        """Read features float[N, T, dim]: float[N, n_tokens, llm_dim]; tokens that the mask excludes are not read."""
        tokens, (rows, cols) = self.n_tokens(features.grid), features.grid[-2:]
        x = features.concatenated()
        n = len(x)
        x = self.norm_features(self.input(x.reshape(-1, rows * cols, x.shape[-1])))
        seen = features.mask.reshape(len(x), 1, 1, rows * cols)
        queries = self.norm_queries(self.queries.to(x.dtype))
        if self.query_positions:
            queries = queries + sines(*self.grid, self.width, x.device).to(x.dtype)
        keys = x + self._of_patches(rows, cols, x.device).to(x.dtype)
        query, key, value = (
            one.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for one in (self.to_query(queries).expand(len(x), -1, -1), self.to_key(keys), self.to_value(x))
        )
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        found = self.attended(found.transpose(1, 2).flatten(2))
        return self.output(self.norm(found)).reshape(n, tokens, self.llm_dim)

    def _of_patches(self, rows: int, cols: int, device: torch.device) -> Tensor:
        """P', float32[rows * cols, width]."""
        if self.positions == "counted" or (rows, cols) == self.grid:
            return sines(rows, cols, self.width, device)
        table = sines(*self.grid, self.width, device).reshape(1, *self.grid, self.width).movedim(-1, 1)
        found = functional.interpolate(table, (rows, cols), mode="bicubic", align_corners=False)
        return found[0].flatten(1).T


def sines(rows: int, cols: int, width: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions float32[rows * cols, width] in raster order: sines and cosines of the column, then of the row.

    Of a coordinate u: sin(u w_i), then cos(u w_i), with w_i = 10000^(-i / (width / 4)).
    """
    quarter = width // 4
    omega = 10000 ** -(torch.arange(quarter, dtype=torch.float64, device=device) / quarter)
    row, col = (torch.arange(n, dtype=torch.float64, device=device)[:, None] * omega for n in (rows, cols))
    of_row, of_col = (torch.cat([angle.sin(), angle.cos()], dim=-1) for angle in (row, col))
    both = torch.cat([of_col.expand(rows, -1, -1), of_row[:, None].expand(-1, cols, -1)], dim=-1)
    return both.flatten(0, 1).float()
