"""Attention over extra keys with a softmax of its own, and its gate per head.

Used by connectors that let frozen attention read more (``llama_adapter``, ``layerwise``) through ``extend_attention``,
and by the cross attention of ``gated_cross_attention``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def extra_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor | None) -> Tensor:
    """Read K extra keys alone, softmax(scaling q k'ᵀ) v', so that a zero gate after it is an exact identity.

    Args:
        query: float[R, heads, S, d], as the block's own attention uses it (position encoding included).
        key: float[kv_heads, K, d], the same for all rows, or float[R, kv_heads, K, d]; head h reads
            key head h // (heads // kv_heads).
        value: like ``key``.
        scaling: multiplies q k'ᵀ.
        seen: bool[R, S, K], which keys a position sees; None: all. Positions that see none get exactly 0, and give
            finite (zero) gradients.

    Returns:
        float[R, S, heads, d] in the dtype of ``query``; the softmax is taken in float32.
    """
    kv_heads = key.shape[-3]
    grouped = query.unflatten(1, (kv_heads, query.shape[1] // kv_heads))  # R, kv_heads, repeats, S, d
    key, value = (states.to(query.dtype).unsqueeze(-3) for states in (key, value))
    scores = (grouped @ key.transpose(-1, -2)).float() * scaling
    if seen is None:
        weights = scores.softmax(dim=-1)
    else:
        hidden = ~seen[:, None, None]
        # the smallest finite number, then zero: with -inf a position that sees nothing would be nan
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(hidden, 0.0)
    return (weights.to(value.dtype) @ value).flatten(1, 2).transpose(1, 2)


class HeadGate(nn.Module):
    """Gate tanh(g) per attention head; at g = 0 what it gates is exactly 0."""

    def __init__(self, heads: int, start: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((heads,), start))

    def forward(self, x: Tensor, still: Tensor | None = None) -> Tensor:
        """Gate float[R, S, heads, d], in float32; positions in ``still`` bool[R, S] give g no gradient."""
        gate: Tensor = self.weight
        if still is not None:
            gate = torch.where(still[..., None], gate.detach(), gate)  # R, S, heads
        return torch.tanh(gate)[..., None] * x.float()
