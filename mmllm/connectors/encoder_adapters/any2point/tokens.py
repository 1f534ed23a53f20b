"""The learned part of Any2Point in front of the frozen blocks: points become tokens (a small Point-PN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmllm.errors import MmllmError


class PointTokenizer(nn.Module):
    """Points in farthest-first order -> tokens, halving ``stages`` times (after Point-PN, Zhang et al. 2023).

    Each stage: the first half of the points are centres; each gathers its ``neighbours`` nearest of all, their features
    beside the centre's are multiplied with trigonometric features of where they lie, pass an MLP, and the largest
    plus the mean over the group is the centre's new feature. The width doubles at each stage. Nothing mixes items, so
    layer norms stand where the original has batch norms.
    """

    def __init__(self, dim: int, width: int, stages: int, neighbours: int) -> None:
        """``dim`` of the tokens, ``width`` of the first features."""
        super().__init__()
        if width < 1 or neighbours < 1 or stages < 0:
            raise MmllmError(f"any2point: width {width} and neighbours {neighbours} must be at least 1.")
        self.neighbours = neighbours
        self.start = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))
        sizes = [width * 2**stage for stage in range(1, stages + 1)]
        self.stages = nn.ModuleList(_Stage(size) for size in sizes)
        self.norm = nn.LayerNorm(width * 2**stages)
        self.out = nn.Linear(width * 2**stages, dim)

    def forward(self, points: Tensor) -> Tensor:
        """float[N, P, 3] -> float[N, P / 2^stages, dim]."""
        x = self.start(points.to(self.norm.weight.dtype))
        for stage in self.stages:
            x = stage(points, x, self.neighbours)
            points = points[:, : points.shape[1] // 2]
        return self.out(self.norm(x))


class _Stage(nn.Module):
    """Halving of the points; ``dim`` is the width after it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, points: Tensor, x: Tensor, neighbours: int) -> Tensor:
        """Features float[N, P, dim / 2] of all points -> float[N, P / 2, dim] of the first half."""
        half = points.shape[1] // 2
        centres = points[:, :half]
        index = nearest(centres, points, min(neighbours, points.shape[1]))
        offsets = gathered(points, index) - centres[:, :, None]
        # of each item alone, as nothing may mix items; at least 1e-6 where all points are at one place
        spread = offsets.norm(dim=-1).mean(dim=(1, 2)).clamp_min(1e-6)
        around = waves(offsets / spread[:, None, None, None], self.dim).to(x.dtype)
        beside = x[:, :half, None].expand(-1, -1, index.shape[2], -1)
        group = (torch.cat([beside, gathered(x, index)], dim=-1) + around) * around
        group = group + self.mlp(group)
        return group.amax(dim=2) + group.mean(dim=2)


def nearest(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` points nearest to each query: float[N, Q, 3], float[N, P, 3] -> int64[N, Q, k].

    Exact (no product form of the distance, which loses digits); in order of distance.
    """
    distances = torch.cdist(queries.float(), points.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return distances.topk(k, dim=-1, largest=False, sorted=True).indices


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each item: float[N, P, C], int64[N, Q, k] -> float[N, Q, k, C]."""
    n, q, k = index.shape
    flat = index.reshape(n, q * k, 1).expand(-1, -1, x.shape[-1])
    return x.gather(1, flat).reshape(n, q, k, -1)


def waves(x: Tensor, dim: int) -> Tensor:
    """Sines and cosines of each coordinate, float[..., 3] -> float[..., dim], wavelengths from 8 down to 1."""
    count = -(-dim // 6)
    rates = torch.pi / 4 * 8.0 ** torch.linspace(0, 1, count, device=x.device, dtype=x.dtype)
    angles = x[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1).transpose(-1, -2).flatten(-2)[..., :dim]
