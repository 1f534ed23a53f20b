"""The ``pool`` connector: averages blocks of patches, then an MLP; token i still owns image region i (InfMLLM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.connector import Connector, perceptron, plane, two
from mmllm.types import Features, MmllmError


class PoolConnector(Connector):
    """Mean over k x k blocks of patches, then W2 GELU(W1 Y + b1) + b2 (InfMLLM, Zhou et al. 2023, arXiv 2311.06791).

    ``grid`` is the pooled grid [rows, cols]; the encoder's grid must be a whole multiple of it. ``depth`` counts the
    linear layers of the MLP, ``width`` the channels between them (default: the LLM's). No position table: position is
    in the features, the raster order and the LLM's own. ``norm`` puts a LayerNorm before the pooling, as InfMLLM has
    after its encoder: for encoders whose hidden states are large, and an MLP of ordinary size would start far outside
    the LLM's embeddings.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        grid: Sequence[int] = (12, 12),
        depth: int = 2,
        norm: bool = False,
        width: int | None = None,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        self.grid = two(grid, "connector pool grid")
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.mlp = perceptron(dim, llm_dim, depth, width=width)

    def tokens(self, grid: Sequence[int]) -> int:
        """rows * cols of the pooled grid (per frame or tile); raises where the blocks do not come out whole."""
        maps, rows, cols = plane(grid, "pool")
        if rows % self.grid[0] or cols % self.grid[1]:
            raise MmllmError(
                f"connector pool cannot average {rows} x {cols} patches to a grid of {list(self.grid)}: {rows} / "
                f"{self.grid[0]} and {cols} / {self.grid[1]} must be whole numbers; choose divisors of them."
            )
        return maps * self.grid[0] * self.grid[1]

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """float[N, rows * cols, dim] -> float[N, pooled rows * cols, llm_dim]."""
        tokens = self.tokens(features.grid)
        _, rows, cols = plane(features.grid, "pool")
        x = self.norm(features.concatenated())
        maps = x.reshape(-1, rows, cols, x.shape[-1]).permute(0, 3, 1, 2)
        pooled = functional.avg_pool2d(maps, (rows // self.grid[0], cols // self.grid[1]))
        return self.mlp(pooled.flatten(2).transpose(1, 2).reshape(x.shape[0], tokens, x.shape[-1]))

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> PoolConnector:
        """4 x 4 patches to 2 x 2 tokens."""
        return cls(dim=dim, llm_dim=llm.dim, grid=(2, 2))
