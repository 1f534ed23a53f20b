"""Frames of clips, positions in time and transformer blocks; used by ``iva`` and ``temporal_aligner``."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.layers.basics import feed_forward
from mmllm.errors import MmllmError
from mmllm.types import Features


def frames_of(features: Features, name: str) -> tuple[Tensor, Tensor]:
    """Split features of N clips into frames: patches float[N, F, P, D] and which are real, bool[N, F, P].

    F frames of P patches: of (time, rows, cols); a picture (rows, cols) is one frame, sound (time,) has one patch each.
    """
    n_frames = frames_in(features.grid, name)
    shape = (n_frames, prod(features.grid) // n_frames)
    return features.concatenated().unflatten(1, shape), features.mask.unflatten(1, shape)


def frames_in(grid: Sequence[int], name: str) -> int:
    """Number of frames F in one item's grid.

    Raises:
        MmllmError: the grid has more axes than time, rows and columns.
    """
    if len(grid) not in (1, 2, 3):
        raise MmllmError(f"connector {name} needs a grid of time, rows and columns; this encoder gives {list(grid)}.")
    return 1 if len(grid) == 2 else grid[0]


def in_time(length: int, width: int, like: Tensor) -> Tensor:
    """Sinusoids of positions 0.. (Vaswani et al. 2017): float[length, width] as ``like``; no weights, any length."""
    steps = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=torch.float32) * (-log(1e4) / width))
    # sine and cosine of a rate side by side, as in the paper; an odd width drops the last cosine
    waves = torch.stack([torch.sin(steps * rates), torch.cos(steps * rates)], dim=-1).flatten(1)
    return waves[:, :width].to(like.dtype)


def earlier(length: int, like: Tensor) -> Tensor:
    """Mask bool[length, length] of causal attention: step q (first axis) sees step k (second axis) where k <= q."""
    return torch.ones(length, length, dtype=torch.bool, device=like.device).tril()


class Attention(nn.Module):
    """Attention softmax(Q Kᵀ / √d) V of several heads with Q of x, K and V of z."""

    def __init__(self, width: int, heads: int, bias: bool = False, output_bias: bool = False) -> None:
        """``bias``: whether Q, K and V have one; ``output_bias``: whether the map back has."""
        super().__init__()
        if heads < 1 or width % heads:
            raise MmllmError(f"heads: {heads} must divide the width of {width} channels.")
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(width, 2 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=output_bias)

    def forward(self, x: Tensor, z: Tensor, seen: Tensor) -> Tensor:
        """Let x float[N, Q, W] read z float[N, K, W] where ``seen`` bool[N or 1, Q or 1, K]; each sees some."""
        pairs = (self.query(x), *self.key_value(z).chunk(2, dim=-1))
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in pairs)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])
        return self.output(read.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Block x += Attn(LN x, LN x); where it ``reads`` x += Attn(LN x, z); x += FF(x)."""

    def __init__(self, width: int, heads: int, reads: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.reading_norm = nn.LayerNorm(width) if reads else None
        self.reading = Attention(width, heads) if reads else None
        self.feed = feed_forward(width)

    def forward(self, x: Tensor, seen: Tensor, z: Tensor | None = None, seen_z: Tensor | None = None) -> Tensor:
        """Update x float[N, Q, W]; ``seen`` of x and ``seen_z`` of ``z`` float[N, K, W] as ``Attention`` has it."""
        normed = self.norm(x)
        x = x + self.attention(normed, normed, seen)
        if self.reading is not None and self.reading_norm is not None:
            assert z is not None and seen_z is not None
            x = x + self.reading(self.reading_norm(x), z, seen_z)
        return x + self.feed(x)
