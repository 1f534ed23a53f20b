"""What the ``texthawk`` projector is made of: queries proposed from the features, and layers that read these again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.layers.basics import feed_forward


class QueryProposals(nn.Module):
    """The query proposal network, QPN: MLP (four times wider, GELU), the largest of each region, a linear map."""

    def __init__(self, width: int, region: tuple[int, int]) -> None:
        super().__init__()
        self.region = region
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, rows: int, cols: int) -> Tensor:
        """Tiles float[M, rows * cols, W] -> queries float[M, regions, W], row after row."""
        maps = self.mlp(x).transpose(1, 2).unflatten(2, (rows, cols))
        return self.output(functional.max_pool2d(maps, self.region).flatten(2).transpose(1, 2))


class LearnedQueries(nn.Module):
    """The same ``n`` learned queries for every tile."""

    def __init__(self, width: int, n: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(n, width) * 0.02)

    def forward(self, x: Tensor, rows: int, cols: int) -> Tensor:
        """Tiles float[M, T, W] -> float[M, n, W]."""
        return self.queries.to(x.dtype).expand(len(x), -1, -1)


class ResamplingLayer(nn.Module):
    """z += Attn(LN z, LN x + p, LN x), then z += FF(z): queries read one tile's patches, whose places p are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_queries, self.norm_features = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_query, self.to_value, self.attended = (nn.Linear(width, width) for _ in range(3))
        # a key's bias shifts all scores of a query alike, so it would never learn
        self.to_key = nn.Linear(width, width, bias=False)
        self.feed = feed_forward(width)

    def forward(self, z: Tensor, x: Tensor, placed: Tensor | None, seen: Tensor) -> Tensor:
        """Queries float[M, Q, W], patches float[M, T, W], places float[M, T, W], mask bool[M, T] -> float[M, Q, W]."""
        x = self.norm_features(x)
        keys = x if placed is None else x + placed
        query, key, value = (
            one.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for one in (self.to_query(self.norm_queries(z)), self.to_key(keys), self.to_value(x))
        )
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None])
        z = z + self.attended(found.transpose(1, 2).flatten(2))
        return z + self.feed(z)
