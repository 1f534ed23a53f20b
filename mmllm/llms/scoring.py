"""How queries score keys, and the plain ways of attending that packed rows and stored keys share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Scoring:
    """What a layer does to the products of queries and keys."""

    scale: float
    """They are multiplied by it."""
    softcap: float | None = None
    """``softcap * tanh(score / softcap)`` follows (Gemma 2); None: nothing does."""
    window: int | None = None
    """Keys that a query sees back from its own, itself included; None: all."""


def band(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """bool[queries, keys]: the last query sees the last key, each sees ``window`` keys back, itself included."""
    return seen_from(torch.arange(keys - queries, keys, device=device), keys, window)


def seen_from(own: torch.Tensor, keys: int, window: int | None, ahead: bool = False) -> torch.Tensor:
    """bool[queries, keys]: each query sees the key ``own`` int64[queries] and those before it, ``window`` in all.

    ``ahead``: it sees all those behind its own as well.
    """
    behind = own[:, None] - torch.arange(keys, device=own.device)
    if ahead:
        return behind < (keys if window is None else window)
    return behind >= 0 if window is None else (behind >= 0) & (behind < window)


def repeated(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values once per query head."""
    repeats = query.shape[1] // key.shape[1]
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)


def masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of float[B, heads, S, d] where ``mask`` bool[S, K] lets it (None: everywhere); heads of keys may be
    shared."""
    if scoring.softcap is not None:
        return capped(query, key, value, scoring, mask)
    if query.is_cuda:  # kernels with a mask know no grouped heads there
        key, value = repeated(query, key, value)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scoring.scale, enable_gqa=grouped)


def capped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention whose scores pass a soft-cap first: float[B, heads, S, d]."""
    assert scoring.softcap is not None
    key, value = repeated(query, key, value)
    # the scale goes in before the soft-cap, as in the family's own attention
    scores = torch.tanh(query @ key.transpose(2, 3) * (scoring.scale / scoring.softcap)) * scoring.softcap
    if mask is not None:
        # the smallest finite number, not -inf: a row that sees nothing (left padding) must not become nan
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
