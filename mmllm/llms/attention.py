"""Attention of a packed row, registered with transformers under ``ATTENTION``; ``CausalLM`` sets it on its model.

A row holds B conversations end to end. Each attends to itself only: by a varlen kernel on GPUs, by one causal
``scaled_dot_product_attention`` per group of equally long conversations elsewhere, never through a dense mask over
the whole row. Without a :class:`Packing` (cached decoding) the padded path of transformers is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from mmllm.hooks import Scope
from mmllm.hooks.points import Extend
from mmllm.llms.last_block import AttentionReached, Given
from mmllm.llms.packing import Packing, Piece

ATTENTION = "mmllm_packed"
"""Name under which the attention below is known to transformers."""


class Stored(Protocol):
    """What conversations that go on hand to every layer instead of a packing, see ``stored_keys.StoredKeys``."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        softcap: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Store keys and values of the row and attend: float[1, S, heads, d]."""
        ...


def register() -> None:
    """Make ``ATTENTION`` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, attention)
    # padded passes (cached decoding) run through transformers' sdpa, so their masks are made as for it
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    packing: Packing | None = None,
    stored: Stored | None = None,
    extensions: Mapping[int, Sequence[Extend]] | None = None,
    scope: Scope[Any] | None = None,
    capture: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    stop: bool = False,
    given: Given | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend, as transformers calls it in every layer.

    ``query`` float[1 or B, heads, S, d], ``key`` and ``value`` float[1 or B, kv_heads, S, d]; ``packing`` says that
    the row is packed (``attention_mask`` is then not looked at), ``stored`` that its conversations go on.
    ``extensions``: layer -> what changes its output, given the pass's context by ``scope``. ``capture`` takes key and
    value and nothing is attended; ``stop`` raises them (AttentionReached), ``given`` are read instead of them. Returns
    float[1 or B, S, heads, d].
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if capture is not None:
        capture.append((key, value))
        return query.transpose(1, 2), None
    if stop:
        raise AttentionReached(key, value)
    if given is not None:
        key, value = given.key, given.value
    words = {"dropout": dropout, "softcap": softcap, "sliding_window": sliding_window, **kwargs}
    if stored is not None:
        out = stored.attend(module.layer_idx, query, key, value, scale, softcap, sliding_window)  # type: ignore[arg-type]
    else:
        out = _attended(module, query, key, value, attention_mask, scale, packing, **words)
    if extensions is not None:
        for extend in extensions.get(module.layer_idx, ()):  # type: ignore[call-overload]
            assert scope is not None
            out = extend(scope.current, query, out, scale)
    return out, None


def _attended(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scale: float,
    packing: Packing | None,
    *,
    dropout: float,
    softcap: float | None,
    sliding_window: int | None,
    **kwargs: Any,
) -> torch.Tensor:
    """float[1 or B, S, heads, d]: packed, or as transformers does it."""
    if packing is not None:
        if not packing.chosen and _varlen_fits(query, value, softcap):
            return _varlen(query, key, value, scale, sliding_window, packing)
        return _per_conversation(query, key, value, scale, softcap, sliding_window, packing)
    if softcap is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scale, **kwargs
        )
        return out
    if attention_mask is None:  # sdpa_mask leaves it out when it is plainly causal
        attention_mask = _band(query.shape[2], key.shape[2], None, query.device)
    return _capped(query, key, value, scale, softcap, attention_mask).transpose(1, 2)


def _varlen_fits(query: torch.Tensor, value: torch.Tensor, softcap: float | None) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16)
    # flash attention: half precision, values as wide as keys, heads of at most 256, no soft-cap
    return query.is_cuda and half and softcap is None and query.shape[-1] == value.shape[-1] <= 256


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None, packing: Packing
) -> torch.Tensor:
    """Torch's own varlen flash attention: one kernel for the row."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    # the kernel counts the positions behind a query without the query itself; -1: all of them
    left = -1 if window is None else window - 1
    words: dict[str, Any] = {"scale": scale, "window_size": (left, 0), "enable_gqa": query.shape[1] != key.shape[1]}
    if packing.segments is None:
        bounds, longest = packing.cu_seqlens, packing.longest
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, **words)
    else:  # the last query of a segment sees its last key, as flash attention aligns them
        index, queries, keys, most = packing.seen
        out = varlen_attn(q, k[index], v[index], queries, keys, packing.longest, most, **words)
    assert isinstance(out, torch.Tensor)  # a pair only where statistics are asked for
    return out.unsqueeze(0)


def _per_conversation(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    softcap: float | None,
    window: int | None,
    packing: Packing,
) -> torch.Tensor:
    """One call per group of equal lengths and per piece; the results go back to their places in the row."""
    if query.is_cuda:  # float32 on GPUs: the kernel for it knows no grouped heads; on CPUs they are 10 % faster
        key, value = _repeated(query, key, value)
    grouped = query.shape[1] != key.shape[1]
    pieces: list[tuple[int, torch.Tensor]] = []
    for length, starts in packing.groups:
        q, k, v = (torch.cat([s[:, :, a : a + length] for a in starts]) for s in (query, key, value))
        if softcap is None and (window is None or length <= window):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1, scale=scale, enable_gqa=grouped)
        else:
            out = _windowed(q, k, v, scale, softcap, window or length)
        pieces += zip(starts, out.transpose(1, 2).unbind(0), strict=True)
    for piece in packing.pieces:
        out = _of_piece(query, key, value, scale, softcap, window, piece)
        pieces.append((piece.queries[0], out.transpose(1, 2)[0]))
    # groups are by length; the row wants its own order back
    pieces.sort(key=lambda piece: piece[0])
    return torch.cat([out for _, out in pieces]).unsqueeze(0)


def _of_piece(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    softcap: float | None,
    window: int | None,
    piece: Piece,
) -> torch.Tensor:
    """float[1, heads, queries, d] of queries whose keys lie in several places, or that are not all of a segment's."""
    q, k, v = query[:, :, slice(*piece.queries)], piece.of_keys(key), piece.of_keys(value)
    mask = piece.mask(window, query.device)
    if softcap is not None:
        return _capped(q, k, v, scale, softcap, mask)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)


def _windowed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softcap: float | None, window: int
) -> torch.Tensor:
    """Causal attention over at most the last ``window`` positions, a window of queries at a time: O(S * window)."""
    length = query.shape[2]
    blocks = []
    for start in range(0, length, window):
        end, first = min(start + window, length), max(0, start - window + 1)
        mask = _band(end - start, end - first, window, query.device)
        q, k, v = query[:, :, start:end], key[:, :, first:end], value[:, :, first:end]
        if softcap is None:
            k, v = _repeated(q, k, v)
            blocks.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale))
        else:
            blocks.append(_capped(q, k, v, scale, softcap, mask))
    return torch.cat(blocks, dim=2)


def _band(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """bool[queries, keys]: the last query sees the last key, each sees ``window`` keys back, itself included."""
    behind = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    return behind >= 0 if window is None else (behind >= 0) & (behind < window)


def _repeated(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values once per query head."""
    repeats = query.shape[1] // key.shape[1]
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)


def _capped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softcap: float, mask: torch.Tensor
) -> torch.Tensor:
    """Attention whose scores pass ``softcap * tanh(score / softcap)`` first (Gemma 2): float[B, heads, S, d]."""
    key, value = _repeated(query, key, value)
    # the scale goes in before the soft-cap, as in the family's own attention
    scores = torch.tanh(query @ key.transpose(2, 3) * (scale / softcap)) * softcap
    # the smallest finite number, not -inf: a row that sees nothing (left padding) must not become nan
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
