"""One pass of a model over a packed row, as training and evaluation make it: embeddings, states, logits."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache

from mmllm.hooks import ForwardContext, passes
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.types import Batch


def embedded(model: MultimodalLM, batch: Batch) -> Tensor:
    """float[S, D]: what the LLM reads, media at their places."""
    return model.embed(batch)[1]


def hidden(model: MultimodalLM, batch: Batch, embeds: Tensor | None = None) -> Tensor:
    """float[S, D_hidden] after the LLM's blocks, of these embeddings or of the batch's own."""
    ctx, own = model.embed(batch)
    return model.llm(own if embeds is None else embeds, ctx)


def logits(model: MultimodalLM, batch: Batch) -> Tensor:
    """float[S, V]."""
    return model.logits(batch)


def per_row(model: MultimodalLM, batch: Batch) -> list[Tensor]:
    """float[S_b, V] of each conversation."""
    return list(logits(model, batch).split(batch.cu_seqlens.diff().tolist()))


def text_context(ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> ForwardContext:
    """Context of a packed row of text with these position ids, int64[S]."""
    return replace(passes.text_context(ids, cu_seqlens), position_ids=position_ids[None, None])


def text_hidden(llm: CausalLM, ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """float[S, D_hidden] of a packed row of text."""
    ctx = text_context(ids, position_ids, cu_seqlens)
    return llm(llm.embed(ids, ctx), ctx)


def text_logits(llm: CausalLM, ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """float[S, V] of a packed row of text."""
    ctx = text_context(ids, position_ids, cu_seqlens)
    return llm.logits(llm(llm.embed(ids, ctx), ctx), ctx)


def decoded(
    llm: CausalLM,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    cache: DynamicCache,
    embeds: Tensor | None = None,
) -> Tensor:
    """float[B, V] after left-padded rows of text, int64[B, S], were fed to ``cache``; ``mask`` bool[B, S_total].

    ``embeds`` float[B, S, D]: instead of those of the text.
    """
    whole = text_context(ids.flatten(), positions.flatten(), torch.tensor([0, ids.numel()], dtype=torch.int32))
    rows = torch.arange(len(ids))[:, None].expand(ids.shape)
    ctx = replace(
        whole,
        input_ids=ids,
        position_ids=positions[None],
        cu_seqlens=None,
        sequence_ids=rows,
        attention_mask=mask[:, -ids.shape[1] :],
        loss_mask=torch.zeros_like(ids, dtype=torch.bool),
        dataset_names=("",) * len(ids),
    )
    return llm.decode(llm.embed(ids, ctx) if embeds is None else embeds, ctx, mask, cache)
