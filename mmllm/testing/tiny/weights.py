"""Weights for tests: what starts at zero gets values, so that it can be seen to work."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 5, buffers: bool = False) -> None:
    """Every weight gets a value, gates and what else starts at zero included; with ``buffers`` statistics too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    for buffer in module.buffers() if buffers else ():
        buffer.copy_(torch.randn(buffer.shape, generator=generator).abs() * 0.2 + 0.5)
