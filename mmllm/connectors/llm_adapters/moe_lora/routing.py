"""Choice and weights of the experts of each token; part of ``moe_lora``: routers, top-k, experts per block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmllm.errors import MmllmError

ALLOCATIONS = {
    "uniform": (5, 5, 5, 5),
    "triangle": (8, 6, 4, 2),
    "inverted_triangle": (2, 4, 6, 8),
    "hourglass": (8, 2, 2, 8),
    "diamond": (2, 8, 8, 2),
}
"""Experts in each quarter of the depth, lowest blocks first (MoLA, Gao et al. 2024, arXiv:2402.08562)."""


def experts_per_block(experts: int | Sequence[int] | str, mean: float, n_blocks: int) -> list[int]:
    """Number of experts in each of the blocks.

    ``experts``: one number for all, one per block, or a name of ``ALLOCATIONS``, which is scaled so that the blocks
    have ``round(mean * n_blocks)`` experts in all, whatever the name: allocations are compared at equal totals.

    Raises:
        MmllmError: an unknown name, a list of another length, or a block without an expert.
    """
    if isinstance(experts, int):
        counts = [experts] * n_blocks
    elif isinstance(experts, str):
        counts = _allocated(experts, mean, n_blocks)
    else:
        counts = list(experts)
        if len(counts) != n_blocks:
            raise MmllmError(
                f"moe_lora: experts lists {len(counts)} blocks, this LLM has {n_blocks}; give one per block."
            )
    if min(counts) < 1:
        raise MmllmError(f"moe_lora: experts {counts}: every block needs at least 1; raise experts_mean ({mean:g}).")
    return counts


def _allocated(name: str, mean: float, n_blocks: int) -> list[int]:
    """The pattern at this depth, rounded so that the total is exact (largest remainder)."""
    if name not in ALLOCATIONS:
        raise MmllmError(f"moe_lora: experts {name!r} is no allocation; known: {', '.join(ALLOCATIONS)}.")
    shape = [ALLOCATIONS[name][4 * block // n_blocks] for block in range(n_blocks)]
    total = round(mean * n_blocks)
    exact = [total * part / sum(shape) for part in shape]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(n_blocks), key=lambda block: (counts[block] - exact[block], block))
    for block in by_remainder[: total - sum(counts)]:
        counts[block] += 1
    return counts


class Router(nn.Module):
    """Logits over the experts: ``W x (+ b)``, in float32."""

    def __init__(self, dim: int, n_experts: int, bias: bool) -> None:
        """``dim`` is the width of what it reads; kaiming-uniform weights, as ``nn.Linear``'s."""
        super().__init__()
        self.linear = nn.Linear(dim, n_experts, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """float[T, dim] -> float[T, E]."""
        return self.linear(x.to(self.linear.weight.dtype))


@dataclass(frozen=True)
class Routing:
    """Experts of T tokens: sorted by expert once, for every linear layer that shares the decision."""

    probabilities: Tensor
    """float[T, E], softmax over all experts."""
    weights: Tensor
    """float[T, k] of the chosen experts, or float[T, E] where all work."""
    chosen: Tensor | None
    """int64[T, k]; None where all experts work on every token."""
    order: Tensor | None
    """int64[T * k], the (token, choice) pairs sorted by expert; None where nothing need be sorted."""
    inverse: Tensor | None
    """int64[T * k], the place of each pair in ``order``."""
    ends: Tensor | None
    """int32[E], where each expert's pairs end in ``order``."""

    @classmethod
    def of(cls, logits: Tensor, top_k: int, renormalise: bool, temperature: float) -> Routing:
        """Route by ``softmax(logits / temperature)``.

        ``top_k`` 0: every expert by its probability (soft). Else the k most probable, each weighted by its probability,
        or (``renormalise``) by its share among the k.
        """
        probabilities = (logits / temperature).softmax(dim=-1)
        n_experts = logits.shape[-1]
        if top_k == 0 or n_experts == 1:
            return cls(probabilities, probabilities, None, None, None, None)
        weights, chosen = probabilities.topk(top_k, dim=-1)
        if renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if len(logits) == 1:  # one token, as in every step of a chat: its experts are picked without sorting
            return cls(probabilities, weights, chosen, None, None, None)
        pairs = chosen.flatten()
        # stable: one order on every machine, as sums over an expert's tokens are rounded by it
        order = pairs.argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        counts = torch.zeros(n_experts, dtype=torch.int32, device=pairs.device)
        ends = counts.index_add(0, pairs, torch.ones_like(pairs, dtype=torch.int32)).cumsum(0, dtype=torch.int32)
        return cls(probabilities, weights, chosen, order, inverse, ends)
