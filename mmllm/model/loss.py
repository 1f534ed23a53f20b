"""Loss of a packed row: the LM head runs at the positions that predict a label and nowhere else, chunk by chunk."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mmllm.hooks import ForwardContext
from mmllm.llms.causal_lm import CausalLM
from mmllm.types import IGNORE_INDEX

CHUNK_LOGITS = 2**25
"""Logits in memory at once (128 MiB in float32); with more, chunks are recomputed in the backward pass."""


def label_nll(
    llm: CausalLM, hidden: torch.Tensor, labels: torch.Tensor, ctx: ForwardContext, chunk: int | None = None
) -> torch.Tensor:
    """Sum of the negative log likelihoods over label positions: float32 scalar.

    ``hidden`` float[S, D], ``labels`` int64[S] aligned with the row (position s is predicted from s - 1; the first
    position of a conversation carries no label). ``chunk`` label positions go through the head at once. Without labels
    the sum is 0, still attached to ``hidden`` and the head, so that no rank's backward pass differs from another's.
    """
    positions = (labels != IGNORE_INDEX).nonzero().squeeze(-1)
    if positions.numel() == 0:
        return llm.logits(hidden[:1], ctx, positions.new_zeros(1)).float().sum() * 0.0
    # an LLM's state at a position predicts the next one; labels are aligned with the row, so the shift is here
    places = positions - 1
    states, targets = hidden[places], labels[positions]
    size = chunk or max(1, CHUNK_LOGITS // llm.vocab_size)
    if len(targets) <= size:
        return _nll(llm, ctx, states, targets, places)
    sums = [
        # chunk by chunk, as the float32 logits of a long row may be the largest tensor of a step
        checkpoint(_nll, llm, ctx, *some, use_reentrant=False)
        for some in zip(states.split(size), targets.split(size), places.split(size), strict=True)
    ]
    return torch.stack(sums).sum()


def _nll(
    llm: CausalLM, ctx: ForwardContext, states: torch.Tensor, targets: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    return F.cross_entropy(llm.logits(states, ctx, places).float(), targets, reduction="sum")
