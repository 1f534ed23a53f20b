"""``distill: text``: the frozen LLM that reads an item's text teaches the model that is shown the item.

The loss is Hinton et al.'s (2015, arXiv 1503.02531) with the LLM itself as the teacher, as Ultravox trains a speech
projector: at every label position the divergence from what the LLM says behind the text, beside the label's likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mmllm.hooks import ForwardContext
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.loss import chunk_size


@dataclass(frozen=True)
class LabelStates:
    """Final hidden states of one pass at the M positions that predict a label."""

    states: torch.Tensor
    """float[M, D]."""
    places: torch.Tensor
    """int64[M], where they stand in their row."""
    ctx: ForwardContext

    def log_probabilities(self, llm: CausalLM, chunk: slice) -> torch.Tensor:
        """Log probabilities of a stretch of them, float32[m, V]."""
        return llm.logits(self.states[chunk], self.ctx, self.places[chunk]).float().log_softmax(-1)


def distilled(
    llm: CausalLM, shown: LabelStates, taught: LabelStates, targets: torch.Tensor, weight: float
) -> torch.Tensor:
    """``(1 - weight)`` of the labels' negative log likelihood and ``weight`` of KL(teacher || model), summed over M
    label positions: float32 scalar.

    Args:
        llm: whose head both go through.
        shown: of the model that is shown the items.
        taught: of the LLM that reads their texts, at the same labels.
        targets: the labels, int64[M].
        weight: of the teacher, 0 to 1.
    """

    def mixed(chunk: slice) -> torch.Tensor:
        said = shown.log_probabilities(llm, chunk)
        with torch.no_grad():
            teacher = taught.log_probabilities(llm, chunk)
        nll = F.nll_loss(said, targets[chunk], reduction="sum")
        return (1 - weight) * nll + weight * F.kl_div(said, teacher, reduction="sum", log_target=True)

    size = chunk_size(llm, shown.states)
    # as in the loss of labels: logits of a chunk are computed again in the backward pass and not kept
    sums = [
        checkpoint(mixed, slice(first, first + size), use_reentrant=False) for first in range(0, len(targets), size)
    ]
    return torch.stack(sums).sum()
