"""Prompts of one layer, and prompts made from the features of an item in two ways, for ``llama_adapter``."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.layers.basics import mlp
from mmllm.connectors.layers.prompt_attention import HeadGate
from mmllm.errors import MmllmError
from mmllm.types import Features


class Prompts(nn.Module):
    """Prompts P float[K, D] of one layer, from N(0, 1): with zero gates *and* zero prompts nothing would ever learn."""

    def __init__(self, prompts: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(prompts, width))

    def forward(self) -> Tensor:
        """Copy the prompts: under ZeRO-3 the weight itself is whole in here only."""
        return self.weight.clone()


class VisualPrompts(nn.Module):
    """Map from an item's features to ``cells`` vectors of the LLM's width; and the early gates, which learn with it."""

    def __init__(self, dim: int, width: int, cells: int, depth: int, gates: dict[str, HeadGate]) -> None:
        super().__init__()
        self.cells = cells
        self.project = nn.Sequential(nn.LayerNorm(dim), mlp(dim, width, depth), nn.LayerNorm(width))
        self.gates = nn.ModuleDict(gates)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Make prompts float[N, cells, width] in raster order; bool[N, cells]: cells with at least one real feature."""
        rows, cols = (prod(features.grid[:-1]), features.grid[-1])
        shape = divided(self.cells, rows, cols)
        x, mask = features.concatenated(), features.mask[..., None].to(features.concatenated().dtype)
        # the mean over real features alone: divided by their share of each cell, where there are none by the smallest
        # number
        share = _averaged(mask, (rows, cols), shape)
        mean = _averaged(x * mask, (rows, cols), shape) / share.clamp(min=torch.finfo(share.dtype).tiny)
        return self.project(mean), share.squeeze(-1) > 0


class VisualQueries(nn.Module):
    """Learned queries and an item's features through blocks of a ViT; what becomes of the queries, in the LLM's width.

    As LLaMA-Adapter's released multimodal V2: LN of a linear map to ``inner`` channels, queries from N(0, 1) in front,
    ``depth`` blocks of ``heads`` heads, then LN of a linear map to ``width``.
    """

    def __init__(self, dim: int, width: int, queries: int, inner: int, depth: int, heads: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block  # seconds, and the other forms do without

        if min(inner, depth, heads) < 1 or inner % heads:
            raise MmllmError(
                f"connector llama_adapter: visual_width {inner}, visual_depth {depth} and visual_heads {heads} must be "
                "at least 1, and the heads divide the width."
            )
        self.input, self.input_norm = nn.Linear(dim, inner), nn.LayerNorm(inner)
        self.queries = nn.Parameter(torch.randn(queries, inner))
        # nn.LayerNorm: the eps that timm's blocks had when the weights were released
        made = (Block(inner, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(depth))
        self.blocks = nn.ModuleList(made)
        self.output, self.output_norm = nn.Linear(inner, width), nn.LayerNorm(width)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Make prompts float[N, queries, width]; bool[N, queries], all True."""
        x = self.input_norm(self.input(features.concatenated()))
        queries = self.queries.to(x.dtype).expand(len(x), -1, -1)
        real = features.mask.new_ones(queries.shape[:2])
        seen = torch.cat([real, features.mask], dim=1)[:, None, None]
        x = torch.cat([queries, x], dim=1)
        for block in self.blocks:
            x = block(x, attn_mask=seen)
        return self.output_norm(self.output(x[:, : queries.shape[1]])), real


def divided(cells: int, rows: int, cols: int) -> tuple[int, int]:
    """Divide into ``cells`` cells: the (rows, cols) whose shape is nearest to that of rows x cols."""
    factors = [(r, cells // r) for r in range(1, cells + 1) if cells % r == 0]
    # a ratio and its inverse are equally far
    return min(factors, key=lambda pair: max(pair[0] * cols / (pair[1] * rows), pair[1] * rows / (pair[0] * cols)))


def _averaged(x: Tensor, grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Mean over the cells: float[N, rows * cols, D] -> float[N, cells, D]."""
    maps = x.transpose(1, 2).unflatten(2, grid)
    return functional.adaptive_avg_pool2d(maps, cells).flatten(2).transpose(1, 2)
