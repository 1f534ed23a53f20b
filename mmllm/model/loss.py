"""Loss of a packed row: the LM head runs at the positions that predict a label and nowhere else, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mmllm.hooks import ForwardContext
from mmllm.llms.causal_lm import CausalLM
from mmllm.types import IGNORE_INDEX

CHUNK_LOGITS = {"cpu": 2**23, "cuda": 2**26}
"""Logits in memory at once. 2**23 are 32 MiB in float32 and 55 rows of a vocabulary of 152k, where a product on a
CPU is as fast as with more; a GPU reads the head's weight once a chunk, so its chunks are larger."""


def chunk_size(llm: CausalLM, states: torch.Tensor) -> int:
    """Label positions that go through the head at once, where ``states`` lie."""
    return max(1, CHUNK_LOGITS["cuda" if states.is_cuda else "cpu"] // llm.vocab_size)


def head_places(labels: torch.Tensor) -> torch.Tensor:
    """int64[M], positions of a packed row whose states predict a label; the first one where there is no label.

    ``labels`` int64[S] are aligned with the row; the first position of a conversation carries none.
    """
    # an LLM's state at a position predicts the next one; labels are aligned with the row, so the shift is here
    places = (labels != IGNORE_INDEX).nonzero().squeeze(-1) - 1
    return places if len(places) else places.new_zeros(1)


def without_labels(labels: torch.Tensor, places: torch.Tensor) -> bool:
    """Whether :func:`head_places` found no label in a row."""
    # the place of such a row is its first, and what follows it (if anything does) is none
    return len(places) == 1 and (int(places[0]) + 1 >= len(labels) or int(labels[places[0] + 1]) == IGNORE_INDEX)


def label_nll(
    llm: CausalLM, hidden: torch.Tensor, labels: torch.Tensor, ctx: ForwardContext, chunk: int | None = None
) -> torch.Tensor:
    """:func:`nll_at` of the final hidden states of a whole row, float[S, D]."""
    places = head_places(labels)
    return nll_at(llm, hidden[places], labels, places, ctx, chunk)


def nll_at(
    llm: CausalLM,
    states: torch.Tensor,
    labels: torch.Tensor,
    places: torch.Tensor,
    ctx: ForwardContext,
    chunk: int | None = None,
) -> torch.Tensor:
    """Sum of the negative log likelihoods over label positions: float32 scalar.

    ``states`` float[M, D] at ``places`` int64[M], see :func:`head_places`; ``labels`` int64[S] of the row. ``chunk``
    label positions go through the head at once. Without labels the sum is 0, still attached to the states and the head,
    so that no rank's backward pass differs from another's.
    """
    if without_labels(labels, places):
        return llm.logits(states, ctx, places).float().sum() * 0.0
    targets = labels[places + 1]
    size = chunk or chunk_size(llm, states)
    if llm.head_is_frozen:
        head = partial(llm.logits, ctx=ctx)
        total: torch.Tensor = _FrozenHead.apply(states, targets, places, head, size, *llm.new_rows)
        return total
    if len(targets) <= size:
        return _nll(llm, ctx, states, targets, places)
    sums = [
        # chunk by chunk, as the float32 logits of a long row may be the largest tensor of a step
        checkpoint(_nll, llm, ctx, *some, use_reentrant=False)
        for some in zip(states.split(size), targets.split(size), places.split(size), strict=True)
    ]
    return torch.stack(sums).sum()


@torch.inference_mode()
def label_log_likelihoods(
    llm: CausalLM, states: torch.Tensor, labels: torch.Tensor, places: torch.Tensor, ctx: ForwardContext
) -> torch.Tensor:
    """Log likelihood of each label, float32[M], in nats; arguments as :func:`nll_at`, at least one label."""
    size = chunk_size(llm, states)
    found = [
        -F.cross_entropy(llm.logits(some, ctx, where).float(), right, reduction="none")
        for some, right, where in zip(
            states.split(size), labels[places + 1].split(size), places.split(size), strict=True
        )
    ]
    return torch.cat(found)


class _FrozenHead(torch.autograd.Function):
    """Sum of the negative log likelihoods under a head that does not learn but for a few ``rows``, chunk by chunk.

    The gradients of the states and rows are taken at once, while a chunk's logits are there: none are kept, none
    computed twice.
    """

    @staticmethod
    def forward(
        kept: Any,
        states: torch.Tensor,
        targets: torch.Tensor,
        places: torch.Tensor,
        head: Callable[..., torch.Tensor],
        size: int,
        *rows: torch.Tensor,
    ) -> torch.Tensor:
        """Float32 scalar; ``head(states, positions=)`` gives logits, with the help of ``rows``."""
        wanted, learns = kept.needs_input_grad[0], bool(rows)
        total = states.new_zeros((), dtype=torch.float32)
        gradients: list[torch.Tensor] = []
        of_rows = [torch.zeros_like(row) for row in rows]
        for some, right, where in zip(states.split(size), targets.split(size), places.split(size), strict=True):
            some = some.detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted or learns):
                logits = head(some, positions=where)
            nll, gradient = _softmax_gradient(logits.detach(), right)
            total += nll
            if wanted or learns:
                found = torch.autograd.grad(logits, [*([some] if wanted else []), *rows], gradient.to(logits.dtype))
                gradients += found[: int(wanted)]
                for whole, part in zip(of_rows, found[int(wanted) :], strict=True):
                    whole += part
        kept.save_for_backward(*([torch.cat(gradients)] if wanted else []), *of_rows)
        return total

    @staticmethod
    def backward(kept: Any, *outside: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The states' gradient, times what the sum is multiplied by."""
        scaled = [gradient * outside[0].to(gradient.dtype) for gradient in kept.saved_tensors]
        of_states = scaled.pop(0) if kept.needs_input_grad[0] else None
        return of_states, None, None, None, None, *scaled


def _softmax_gradient(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed negative log likelihood of ``targets`` int64[M], and its gradient in the logits float[M, V].

    Float32 logits are overwritten: a second tensor of their size would double what a step needs.
    """
    values = logits.float()
    most = values.amax(dim=-1, keepdim=True)
    picked = values.gather(-1, targets[:, None])
    values.sub_(most).exp_()
    sums = values.sum(dim=-1, keepdim=True)
    # what is likely first: the sum of a sure answer is about 1, and its logit may be 20
    nll = (sums.log() + (most - picked)).sum()
    values.div_(sums).scatter_add_(-1, targets[:, None], values.new_full((len(targets), 1), -1.0))
    return nll, values


def _nll(
    llm: CausalLM, ctx: ForwardContext, states: torch.Tensor, targets: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    return F.cross_entropy(llm.logits(states, ctx, places).float(), targets, reduction="sum")
