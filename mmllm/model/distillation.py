"""``distill: text``: the frozen LLM that reads an item's text teaches the model that is shown the item.

The loss is Hinton et al.'s (2015, arXiv 1503.02531) with the LLM itself as the teacher, as Ultravox trains a speech
projector: at every label position the divergence from what the LLM says behind the text, beside the label's likelihood.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mmllm.hooks import ForwardContext
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.loss import chunk_size


def distilled(
    llm: CausalLM,
    states: torch.Tensor,
    places: torch.Tensor,
    ctx: ForwardContext,
    taught: torch.Tensor,
    targets: torch.Tensor,
    weight: float,
    chunk: int | None = None,
) -> torch.Tensor:
    """``(1 - weight)`` of the labels' negative log likelihood and ``weight`` of KL(teacher || model), summed over M
    label positions: float32 scalar.

    Args:
        llm: whose head both go through.
        states: final hidden states of the model at label positions, float[M, D].
        places: where they stand in their row, int64[M].
        ctx: of the model's pass.
        taught: the teacher's logits at the same labels, float[M, V].
        targets: the labels, int64[M].
        weight: of the teacher, 0 to 1.
        chunk: label positions that go through the head at once.
    """
    size = chunk or chunk_size(llm, states)
    mixed = partial(_mixed, llm, ctx, weight)
    sums = [
        # as in the loss of labels: logits of a chunk are computed again in the backward pass and not kept
        checkpoint(mixed, *some, use_reentrant=False)
        for some in zip(states.split(size), places.split(size), taught.split(size), targets.split(size), strict=True)
    ]
    return torch.stack(sums).sum()


def _mixed(
    llm: CausalLM,
    ctx: ForwardContext,
    weight: float,
    states: torch.Tensor,
    places: torch.Tensor,
    taught: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    said = llm.logits(states, ctx, places).float().log_softmax(-1)
    nll = F.nll_loss(said, targets, reduction="sum")
    divergence = F.kl_div(said, taught.float().log_softmax(-1), reduction="sum", log_target=True)
    return (1 - weight) * nll + weight * divergence
