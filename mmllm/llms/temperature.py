"""Attention whose temperature falls with the position (Llama 4's layers without rotary positions).

transformers counts positions over the row, so in a packed row of long conversations all but the first would be read
otherwise, and in a padded one the pads count. ``CausalLM`` takes it over; ``attention`` asks here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

HELD = "temperature"
"""Attribute of an attention module that has one; a copied block keeps it."""


@dataclass(frozen=True)
class Temperature:
    """Queries times 1 + scale * log(1 + floor((position + 1) / floor)) (Nakanishi 2025, arXiv 2501.19399)."""

    floor: float
    scale: float

    def of(self, query: Tensor, positions: Tensor) -> Tensor:
        """``query`` float[R, heads, S, d] at ``positions`` int64[R, S], each counted in its own conversation."""
        scales = 1.0 + self.scale * torch.log1p(torch.floor((positions.float() + 1.0) / self.floor))
        return (query * scales[:, None, :, None]).to(query.dtype)


def take_over(attention: nn.Module) -> None:
    """Let ``attention`` leave its temperature to :class:`Temperature`, where it has one."""
    words = attention.__dict__
    if words.get("attn_temperature_tuning") and not words.get("use_rope", True):
        words["attn_temperature_tuning"] = False
        words[HELD] = Temperature(words["floor_scale"], words["attn_scale"])
