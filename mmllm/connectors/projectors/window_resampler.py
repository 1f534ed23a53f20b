"""The ``window_resampler`` connector: learned queries read each short window of a sound or video; its length stays."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import feed_forward
from mmllm.connectors.layers.windows import Windows
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class WindowResamplerConnector(Projector):
    """Learned queries read each window, after the idea of SALMONN's Q-Former (Tang et al. 2024, arXiv 2310.13289).

    The first axis of the grid is cut into windows of ``window`` indices (SALMONN: 17 of Whisper's, a third of a
    second); in each, ``queries`` learned vectors (1) pass ``depth`` layers (2) of self-attention, cross-attention to
    the window and an MLP, so n indices give ceil(n / window) * queries tokens, each through a linear map to the LLM.
    The last window of an item holds what is left; nothing beyond an item's end is read. ``width`` of the queries is the
    features' own unless given; ``heads`` divide it. Positions are in the features, none are added.

    SALMONN's own layers are another connector, ``window_qformer`` with ``rest: drop``. Here norms stand before
    attention and MLP, not behind them as in BERT; the MLP and keys have no biases; a single query has no
    self-attention; and a rest of less than a window is read too (SALMONN leaves it out: 88 tokens in half a minute,
    here 89).
    """

    accepts_padding = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        window: int = 17,
        queries: int = 1,
        depth: int = 2,
        heads: int = 8,
        width: int | None = None,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        for name, value in {"window": window, "queries": queries, "depth": depth, "heads": heads}.items():
            if value < 1:
                raise MmllmError(f"connector window_resampler {name}: {value} must be at least 1.")
        inner = dim if width is None else width
        if inner < 1 or inner % heads:
            raise MmllmError(f"connector window_resampler: heads ({heads}) must divide the width ({inner}).")
        self.window, self.n_queries = window, queries
        self.norm_input = nn.LayerNorm(dim)
        self.input = nn.Identity() if width is None else nn.Linear(dim, inner)
        # 0.02: as a Q-Former's queries start
        self.queries = nn.Parameter(torch.randn(queries, inner) * 0.02)
        # a single query has nobody else to attend to
        self.among = nn.ModuleList(Attention(inner, heads) for _ in range(depth if queries > 1 else 0))
        self.across = nn.ModuleList(Attention(inner, heads) for _ in range(depth))
        self.feed = nn.ModuleList(feed_forward(inner) for _ in range(depth))
        self.norm = nn.LayerNorm(inner)
        self.output = nn.Linear(inner, llm_dim)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid (windows, 1, queries): as many queries for a last window that is not full."""
        return (-(-grid[0] // self.window), 1, self.n_queries)

    def forward(self, features: Features) -> Tensor:
        """Read features float[N, T, dim] window by window: float[N, most n_tokens, llm_dim].

        Each item's own tokens come first, zeros behind them.
        """
        x = self.input(self.norm_input(features.concatenated()))
        counts = [self.out_grid(grid)[0] for grid in features.item_grids()]
        windows = Windows.of(x, features.mask, counts, self.window * prod(features.grid[1:]))
        z = self.queries.to(x.dtype).expand(len(windows.mask), -1, -1)
        for index, (across, feed) in enumerate(zip(self.across, self.feed, strict=True)):
            if len(self.among):
                z = z + self.among[index](z, z, None)
            z = z + across(z, windows.values, windows.mask)
            z = z + feed(z)
        return windows.by_item(self.output(self.norm(z)))


class Attention(nn.Module):
    """Attention Attn(LN z, x): queries read what ``mask`` allows; biases as in BERT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        # a key's bias shifts all scores of a query alike, so it would never learn
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, z: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """Queries float[K, Q, W], what they read float[K, L, W], mask bool[K, L] -> float[K, Q, W] to be added."""
        z = self.norm(z)
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.query(z), self.key(x), self.value(x))
        )
        seen = None if mask is None else mask[:, None, None]
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.output(out.transpose(1, 2).flatten(2))
