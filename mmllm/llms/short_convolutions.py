"""Short convolutions in place of attention (LFM2): in a packed row each conversation is convolved by itself.

transformers runs them over the whole row, so a conversation's first positions would read the last ones of that before.
``CausalLM`` puts the forward below on each such block; padded rows take transformers' own, whose cache keeps the last
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

from mmllm.errors import MmllmError
from mmllm.hooks import Handle
from mmllm.hooks.handles import with_forward
from mmllm.llms.packing import Packing
from mmllm.llms.stored_keys import StoredKeys

Run = tuple[int, Sequence[Tensor]]
"""How many of the last positions are asked, and stretches float[1, D, n] that end with them."""


def short_convolutions(blocks: nn.ModuleList) -> list[Lfm2ShortConv]:
    """Those of a decoder's blocks; empty for most LLMs."""
    return [part for block in blocks for part in block.children() if isinstance(part, Lfm2ShortConv)]


def kept_apart(module: Lfm2ShortConv) -> Handle:
    """Let ``module`` keep the conversations of a packed row apart, those that go on from stored positions too.

    Raises:
        MmllmError: its layers have biases, by which pads of padded rows would reach the first tokens.
    """
    if module.bias:
        raise MmllmError(
            "conv_bias: true cannot be used: with biases the short convolutions of an LFM2 read the pads of padded "
            "rows (transformers masks what enters the biased layer); its published checkpoints have none"
        )
    return with_forward(module, partial(_forward, module, module.forward))


def hybrid_cache(config: Any) -> DynamicCache:
    """An empty cache with a layer of each block's kind, that grows by layers which attend."""
    cache = DynamicCache(config=config)
    # copied blocks come on top, see `HookedLM.copy_block`
    cache.layer_class_to_replicate = DynamicLayer
    return cache


def _forward(
    module: Lfm2ShortConv,
    plain: Callable[..., Tensor],
    hidden_states: Tensor,
    past_key_values: Any = None,
    attention_mask: Tensor | None = None,
    packing: Packing | None = None,
    stored: StoredKeys | None = None,
    **_: Any,
) -> Tensor:
    """float[R, S, D] of a block's normed input; with ``packing`` or ``stored`` R is 1 and conversations lie in it."""
    if packing is None and stored is None:
        return plain(hidden_states, past_key_values=past_key_values, attention_mask=attention_mask)
    before, after, x = module.in_proj(hidden_states).transpose(1, 2).chunk(3, dim=1)
    gated = before * x
    runs = _packed(gated, packing) if packing is not None else _stored(gated, stored, module.layer_idx)
    mixed = _convolved(module.conv, runs, module.conv_kernel_size - 1)
    out: Tensor = module.out_proj((after * mixed).transpose(1, 2))
    return out


def _packed(gated: Tensor, packing: Packing) -> list[Run]:
    """Of each run of queries what it sees; a convolution sees nothing ahead, also where an item's tokens would."""
    return [(one.n_queries, [gated[:, :, start:end] for start, end in one.keys]) for one in packing.runs]


def _stored(gated: Tensor, stored: StoredKeys | None, layer: int) -> list[Run]:
    """The same where conversations go on; what was convolved is stored as keys of one head, with values of no width."""
    assert stored is not None
    found: list[Run] = []
    for one in stored.parts:
        new = gated[:, :, one.places].transpose(1, 2)[:, None]
        states, _ = one.stored.put(layer, one.past, new, new[..., :0])
        found.append((one.length, [states[:, 0].transpose(1, 2)]))
    return found


def _convolved(conv: nn.Conv1d, runs: Sequence[Run], reach: int) -> Tensor:
    """float[1, D, S]: all runs in one call, zeros between them where nothing is before a run; ``reach``: positions
    that a position reads before its own."""
    pieces, asked, end = [], [], 0
    for n, stretches in runs:
        seen = torch.cat(list(stretches), dim=2)[:, :, -(n + reach) :]
        pieces.append(F.pad(seen, (n + reach - seen.shape[2], 0)))
        end += n + reach
        asked.append(torch.arange(end - n, end))
    row = torch.cat(pieces, dim=2)
    # called, not its weight read: with ZeRO-3 a call is what gathers it
    out: Tensor = conv(row)
    return out[:, :, torch.cat(asked).to(row.device)]
