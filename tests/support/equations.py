"""Steps that papers share, as they write them: norm, GELU, affine maps, rotary positions, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def affine(x: Tensor, layer: nn.Linear) -> Tensor:
    """W x + b."""
    return torch.einsum("...i,oi->...o", x, layer.weight) + (0 if layer.bias is None else layer.bias)


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's cumulative."""
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def norm(x: Tensor, layer: nn.Module | None = None) -> Tensor:
    """LayerNorm with the layer's weight and bias, or without any."""
    centred = x - x.mean(-1, keepdim=True)
    found = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return found if layer is None else found * layer.weight + layer.bias


def rotated(x: Tensor, positions: Tensor | None = None) -> Tensor:
    """RoPE of float[S, heads, d]: pairs (i, i + d / 2) turned by position * 10000^(-2 i / d)."""
    half = x.shape[-1] // 2
    at = torch.arange(len(x)) if positions is None else positions
    angles = at[:, None] * 10000.0 ** (-torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
