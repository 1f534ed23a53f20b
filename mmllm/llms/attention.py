"""Attention of a packed row, registered with transformers under ``ATTENTION``; ``CausalLM`` sets it on its model.

A row holds B conversations end to end. Each attends to itself only: by a varlen kernel on GPUs, by one causal
``scaled_dot_product_attention`` per group of equally long conversations elsewhere, never through a dense mask over
the whole row. A conversation with bidirectional stretches takes a call for each of them and for what lies between.
Without a :class:`Packing` (cached decoding) the padded path of transformers is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from mmllm.hooks import Scope
from mmllm.hooks.points import Extend
from mmllm.llms.attention_weights import AttentionWeights
from mmllm.llms.last_block import AttentionReached, Given
from mmllm.llms.packing import Packing
from mmllm.llms.padded_stretches import PaddedStretches
from mmllm.llms.scoring import Scoring, band, capped, masked, repeated
from mmllm.llms.stored_keys import StoredKeys
from mmllm.llms.temperature import HELD

ATTENTION = "mmllm_packed"
"""Name under which the attention below is known to transformers."""


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
    stored: StoredKeys | None = None,
    stretches: PaddedStretches | None = None,
    extensions: Mapping[int, Sequence[Extend]] | None = None,
    scope: Scope[Any] | None = None,
    capture: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    stop: bool = False,
    given: Given | None = None,
    weights: AttentionWeights | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend, as transformers calls it in every layer.

    ``query`` float[1 or B, heads, S, d], ``key`` and ``value`` float[1 or B, kv_heads, S, d]; ``packing`` says that
    the row is packed (``attention_mask`` is then not looked at), ``stored`` that its conversations go on, ``stretches``
    what of padded rows is bidirectional.
    ``extensions``: layer -> what changes its output, given the pass's context by ``scope``. ``capture`` takes key and
    value and nothing is attended; ``stop`` raises them (AttentionReached), ``given`` are read instead of them.
    ``weights`` is told queries and keys of a packed row. Returns float[1 or B, S, heads, d].
    """
    if scope is not None and HELD in module.__dict__:
        query = module.__dict__[HELD].of(query, scope.current.position_ids[0])
    scoring = Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, sliding_window)
    if capture is not None:
        capture.append((key, value))
        return query.transpose(1, 2), None
    if stop:
        raise AttentionReached(key, value)
    if given is not None:
        key, value = given.key, given.value
    if weights is not None:
        weights.take(query, key, scoring)
    if stored is not None:
        out = stored.attend(module.layer_idx, query, key, value, scoring)  # type: ignore[arg-type]
    elif packing is not None:
        out = _packed(query, key, value, scoring, packing)
    else:
        if stretches is not None:
            attention_mask = _with_stretches(attention_mask, query, scoring, stretches)
        out = _padded(module, query, key, value, attention_mask, scoring, dropout=dropout, **kwargs)
    if extensions is not None:
        for extend in extensions.get(module.layer_idx, ()):  # type: ignore[call-overload]
            assert scope is not None
            out = extend(scope.current, query, out, scoring.scale)
    return out, None


def _padded(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scoring: Scoring,
    **kwargs: Any,
) -> torch.Tensor:
    """float[B, S, heads, d] of padded rows, as transformers does it."""
    if scoring.softcap is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scoring.scale, **kwargs)
        return out
    if attention_mask is None:  # sdpa_mask leaves it out when it is plainly causal
        attention_mask = band(query.shape[2], key.shape[2], None, query.device)
    return capped(query, key, value, scoring, attention_mask).transpose(1, 2)


def _with_stretches(
    mask: torch.Tensor | None, query: torch.Tensor, scoring: Scoring, stretches: PaddedStretches
) -> torch.Tensor:
    """bool[B, 1, S, S]: the mask of transformers, which knows nothing of them."""
    if mask is None:  # sdpa_mask leaves it out when it is plainly causal
        mask = band(query.shape[2], query.shape[2], None, query.device)[None, None]
    return stretches.over(mask, scoring.window)


def _packed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring, packing: Packing
) -> torch.Tensor:
    """float[1, S, heads, d] of a packed row."""
    if not packing.chosen and _varlen_fits(query, value, scoring):
        return _varlen(query, key, value, scoring, packing)
    return _per_conversation(query, key, value, scoring, packing)


def _varlen_fits(query: torch.Tensor, value: torch.Tensor, scoring: Scoring) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16)
    # flash attention: half precision, values as wide as keys, heads of at most 256, no soft-cap
    return query.is_cuda and half and scoring.softcap is None and query.shape[-1] == value.shape[-1] <= 256


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring, packing: Packing
) -> torch.Tensor:
    """Torch's own varlen flash attention: one kernel for the row."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    words: dict[str, Any] = {"scale": scoring.scale, "enable_gqa": query.shape[1] != key.shape[1]}
    # the kernel counts the positions behind a query without the query itself; -1: all of them
    left = -1 if scoring.window is None else scoring.window - 1
    trees = packing.trees
    if trees is None:
        bounds, longest = packing.cu_seqlens, packing.longest
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=(left, 0), **words)
    else:
        places = (k[trees.keys], v[trees.keys], *trees.bounds, *trees.longest)
        out = varlen_attn(q, *places, window_size=(left, 0), **words)
    assert isinstance(out, torch.Tensor)  # a pair only where statistics are asked for
    for windowed, rows in packing.ahead(scoring.window):
        # all of the row went through one causal kernel, without a copy of its keys: what these get is put over it.
        # Beside a window the kernel is told a number for what lies ahead, at most as far as there are keys
        size = (left, rows.longest[1]) if windowed else (-1, -1)
        places = (k[rows.keys], v[rows.keys], *rows.bounds, *rows.longest)
        found = varlen_attn(q[rows.index], *places, window_size=size, **words)
        assert isinstance(found, torch.Tensor)
        out = out.index_copy(0, rows.index, found)
    return out.unsqueeze(0)


def _per_conversation(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring, packing: Packing
) -> torch.Tensor:
    """One call per group of equal lengths and per :class:`SharedKeys`; the results go back to their places."""
    if query.is_cuda:  # float32 on GPUs: the kernel for it knows no grouped heads; on CPUs they are 10 % faster
        key, value = repeated(query, key, value)
    grouped, window = query.shape[1] != key.shape[1], scoring.window
    pieces: list[tuple[int, torch.Tensor]] = []
    for length, starts in packing.groups:
        q, k, v = (torch.cat([s[:, :, a : a + length] for a in starts]) for s in (query, key, value))
        if scoring.softcap is None and (window is None or length <= window):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1, scale=scoring.scale, enable_gqa=grouped)
        else:
            out = _windowed(q, k, v, scoring, window or length)
        pieces += zip(starts, out.transpose(1, 2).unbind(0), strict=True)
    for one in packing.shared(window):
        mask = one.mask(window, query.device)
        out = masked(query[:, :, slice(*one.queries)], one.of_keys(key), one.of_keys(value), scoring, mask)
        pieces.append((one.queries[0], out.transpose(1, 2)[0]))
    # groups are by length; the row wants its own order back
    pieces.sort(key=lambda piece: piece[0])
    return torch.cat([out for _, out in pieces]).unsqueeze(0)


def _windowed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring, window: int
) -> torch.Tensor:
    """Causal attention over at most the last ``window`` positions, a window of queries at a time: O(S * window)."""
    length = query.shape[2]
    blocks = []
    for start in range(0, length, window):
        end, first = min(start + window, length), max(0, start - window + 1)
        mask = band(end - start, end - first, window, query.device)
        q, k, v = query[:, :, start:end], key[:, :, first:end], value[:, :, first:end]
        # once per query head: as this was computed before grouped heads were, to the last bit
        k, v = repeated(q, k, v)
        blocks.append(masked(q, k, v, scoring, mask))
    return torch.cat(blocks, dim=2)
