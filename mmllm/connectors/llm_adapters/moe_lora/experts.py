"""The experts of one linear layer: E low-rank updates, each run on its own tokens only; part of ``moe_lora``."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmllm.connectors.layers.basics import is_noop

ALIGNMENT = 4
"""Widths that grouped products accept on every device are multiples of 16 bytes: of 4 float32 numbers."""


class Experts(nn.Module):
    """``sum_e w_e * (alpha / rank) * B_e A_e dropout(x)`` of one linear layer; zero at the start, because B is.

    Tokens sorted by expert go through two grouped matrix products, so the work is that of one LoRA whatever E is
    (benchmarks/speed/RESULTS.md). Where every expert works on every token (soft), or widths do not suit grouped
    products, it is one product with all A, weights (zero where not chosen), and one with all B.
    """

    def __init__(self, dim: int, out: int, n_experts: int, rank: int, alpha: float, dropout: float) -> None:
        """``dim`` and ``out``: widths of the frozen layer's input and output."""
        super().__init__()
        # float32 whatever the LLM computes in: small steps vanish in bfloat16 weights
        self.a = nn.Parameter(torch.empty(n_experts, rank, dim))
        self.b = nn.Parameter(torch.zeros(n_experts, rank, out))
        bound = 1 / math.sqrt(dim)  # kaiming-uniform with a = sqrt(5), as LoRA's A
        nn.init.uniform_(self.a, -bound, bound)
        self.dropout = nn.Dropout(dropout)
        self.scaling = alpha / rank
        self.sortable = all(width % ALIGNMENT == 0 for width in (dim, out, rank))
        self.idle = False

    def skip_if_zero(self) -> None:
        """Skip the update while it is frozen and zero, as in a stage before the one that trains it."""
        self.idle = is_noop(self.b)

    def forward(
        self,
        x: Tensor,
        weights: Tensor,
        chosen: Tensor | None,
        order: Tensor | None,
        inverse: Tensor | None,
        ends: Tensor | None,
    ) -> Tensor:
        """float[T, dim] -> float[T, out] in the dtype of ``x``; the other arguments as in ``Routing``."""
        rows = self.dropout(x.to(self.a.dtype))  # one draw for all experts, as a single LoRA has it
        scaled = weights * self.scaling
        if chosen is None:
            delta = self._all(rows, scaled)
        elif len(rows) == 1:
            delta = self._one(rows, scaled, chosen[0])
        elif self.sortable and order is not None:
            delta = self._sorted(rows, scaled, order, inverse, ends)
        else:
            full = scaled.new_zeros(len(rows), len(self.a))
            delta = self._all(rows, full.scatter(1, chosen, scaled))
        return delta.to(x.dtype)

    def _all(self, x: Tensor, weights: Tensor) -> Tensor:
        """Every expert on every token: ``weights`` float[T, E]."""
        low = (x @ self.a.flatten(0, 1).T).unflatten(-1, (len(self.a), -1)) * weights[..., None]
        return low.flatten(1) @ self.b.flatten(0, 1)

    def _one(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """A single token and its k experts: ``chosen`` int64[k]."""
        low = x @ self.a.index_select(0, chosen).flatten(0, 1).T
        low = low.view(len(chosen), -1) * weights.T
        return low.view(1, -1) @ self.b.index_select(0, chosen).flatten(0, 1)

    def _sorted(self, x: Tensor, weights: Tensor, order: Tensor, inverse: Tensor | None, ends: Tensor | None) -> Tensor:
        """Each expert on the tokens that chose it."""
        # torch's grouped products (public since 2.10): one kernel for all experts, whatever they got
        rows = _Dispatch.apply(x, order, inverse)
        low = F.grouped_mm(rows, self.a.transpose(1, 2), offs=ends)
        low = low * _Dispatch.apply(weights.reshape(-1, 1), order, inverse)
        return _Combine.apply(F.grouped_mm(low, self.b, offs=ends), order, inverse, len(x))


class _Dispatch(torch.autograd.Function):
    """float[T, D] -> float[T * k, D], a row per (token, choice) pair in sorted order; its adjoint is ``_Combine``.

    Plain indexing would add up gradients position by position; both directions here are one gather.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        ctx.length = len(x)
        return _dispatch(x, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        _, inverse = ctx.saved_tensors
        return _combine(gradients[0], inverse, ctx.length), None, None


class _Combine(torch.autograd.Function):
    """float[T * k, D] in sorted order -> float[T, D], the sum over each token's choices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return _combine(x, inverse, length)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        order, _ = ctx.saved_tensors
        return _dispatch(gradients[0], order), None, None, None


def _dispatch(x: Tensor, order: Tensor) -> Tensor:
    choices = len(order) // len(x)
    return x.index_select(0, order if choices == 1 else order // choices)


def _combine(x: Tensor, inverse: Tensor, length: int) -> Tensor:
    rows = x.index_select(0, inverse)
    return rows if len(rows) == length else rows.unflatten(0, (length, -1)).sum(dim=1)
