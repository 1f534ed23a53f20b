"""Attention of packed items inside a tower, registered with transformers under ``ATTENTION``: each sees itself alone.

The encoder hands the items' bounds to the tower's blocks where they expect an attention mask, so nothing of a pass is
kept anywhere, and no mask over the whole row is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "mmllm_per_item"
"""Name under which the attention below is known to transformers."""


def register() -> None:
    """Make ``ATTENTION`` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


Bounds = tuple[Tensor, tuple[int, ...]]
"""int32[N + 1] on the device, where each of N items begins and the last one ends (``cu_seqlens``), and their lengths,
which the host knows without asking the device. A plain tuple: DeepSpeed looks into what it hands to modules."""


def bounds_of(lengths: Sequence[int], device: torch.device | str) -> Bounds:
    """Bounds of items of these lengths in one row."""
    ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return ends.to(device, non_blocking=True), tuple(lengths)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Bounds | Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **words: Any,
) -> tuple[Tensor, None]:
    """Attend, as transformers calls it in every block: float[1, heads, P, d] -> float[1, P, heads, d].

    ``attention_mask``: the bounds of the items in the row; a tensor is a mask as ever. Everything within an item sees
    everything in it.
    """
    if not isinstance(attention_mask, tuple):
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **words
        )
        return out, None
    half = query.dtype in (torch.bfloat16, torch.float16)
    # torch's varlen flash attention knows half precision and heads of at most 256
    if query.is_cuda and half and query.shape[-1] <= 256 and not dropout:
        return _varlen(query, key, value, attention_mask, scaling), None
    pieces = zip(*(states.split(attention_mask[1], dim=2) for states in (query, key, value)), strict=True)
    out = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling) for q, k, v in pieces]
    return torch.cat(out, dim=2).transpose(1, 2), None


def _varlen(query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, scaling: float | None) -> Tensor:
    """One kernel for the row."""
    from torch.nn.attention.varlen import varlen_attn

    ends, lengths = bounds
    longest = max(lengths)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling)
    assert isinstance(out, Tensor)  # a pair only where statistics are asked for
    return out.unsqueeze(0)
