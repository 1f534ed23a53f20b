"""The ``c_abstractor`` connector: convolutions around a pooling, so that neighbours stay neighbours (Honeybee)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import as_maps, mlp, pair
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class CAbstractorConnector(Projector):
    """The C-Abstractor of Honeybee (Cha et al. 2023, arXiv 2312.06742).

    Features + positions (trunc-normal .02) -> ``depth`` RegNet blocks with squeeze-excitation, ``width`` channels ->
    adaptive average pooling to ``grid`` [rows, cols] -> ``depth`` RegNet blocks -> ``mlp_depth`` linear layers, SiLU.
    The table of positions belongs to one encoder grid, ``source_grid`` [rows, cols]; another grid is an error.
    ``norm``: a LayerNorm of the features first. ``eos``: so many learned tokens (trunc-normal .02) behind a picture's,
    all of them then in one line, grid (1, n). The released code has both as options, off in its models.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        source_grid: Sequence[int] = (24, 24),
        grid: Sequence[int] = (12, 12),
        depth: int = 3,
        width: int = 1024,
        mlp_depth: int = 2,
        norm: bool = False,
        eos: int = 0,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if depth < 1:
            raise MmllmError(f"connector c_abstractor depth: {depth} must be at least 1; without blocks use pool.")
        if eos < 0:
            raise MmllmError(f"connector c_abstractor eos: {eos} must be at least 0.")
        self.source_grid = pair(source_grid, "connector c_abstractor source_grid")
        self.grid = pair(grid, "connector c_abstractor grid")
        self.positions = nn.Parameter(torch.empty(self.source_grid[0] * self.source_grid[1], dim))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.before = regnet_blocks(depth, dim, width)
        self.sample = nn.AdaptiveAvgPool2d(self.grid)
        self.after = regnet_blocks(depth, width, width)
        self.mlp = mlp(width, llm_dim, mlp_depth, "silu")
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()  # as timm's
        self.n_eos = eos
        self.eos = nn.Parameter(torch.empty(eos, llm_dim)) if eos else None
        if self.eos is not None:
            nn.init.trunc_normal_(self.eos, std=0.02)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Pooled grid, of each frame or tile in front; with ``eos`` a line.

        Raises:
            MmllmError: the encoder's rows and columns are not those that there are positions for; ``eos`` and more than
                one map.
        """
        maps, rows, cols = as_maps(grid, "c_abstractor")
        if (rows, cols) != self.source_grid:
            raise MmllmError(
                f"connector c_abstractor has positions for a grid of {list(self.source_grid)}, but the encoder gives "
                f"{rows} x {cols} patches; set source_grid: [{rows}, {cols}]."
            )
        if self.n_eos:
            if maps > 1:
                raise MmllmError(
                    f"connector c_abstractor eos: {self.n_eos} tokens are put behind one map, but an item has {maps} "
                    f"({list(grid)}); leave eos out for clips and tiles."
                )
            return (1, self.grid[0] * self.grid[1] + self.n_eos)
        return (*grid[:-2], *self.grid)

    def forward(self, features: Features) -> Tensor:
        """Convolve, pool and project features float[N, T, dim]: float[N, n_tokens, llm_dim]."""
        tokens = self.n_tokens(features.grid)
        x = self.norm(features.concatenated())
        # frames and tiles in front of rows and columns are maps of their own, with the same positions
        placed = x.reshape(-1, self.source_grid[0] * self.source_grid[1], x.shape[-1]) + self.positions.to(x.dtype)
        maps = placed.transpose(1, 2).unflatten(2, self.source_grid)
        maps = self.after(self.sample(self.before(maps)))
        out = self.mlp(maps.flatten(2).transpose(1, 2))
        if self.eos is not None:
            out = torch.cat([out, self.eos.to(out.dtype).expand(len(out), -1, -1)], dim=1)
        return out.reshape(x.shape[0], tokens, self.llm_dim)


def regnet_blocks(depth: int, dim: int, width: int) -> nn.Module:
    """Make RegNet blocks as Honeybee sets them: depthwise 3 x 3, squeeze-excitation, SiLU, layer norm over channels."""
    return RegStage(depth, dim, width, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
