"""Experts of a block as transformers stacks them: found by structure, and run with other weights than their own.

From 5.0 on a module of experts holds a tensor for all of them, [experts, ...], and is called with the chosen ones of
each position: ``(hidden states, ids, weights)``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mmllm.hooks.handles import Handle, with_forward
from mmllm.hooks.scope import Scope

CALLED_WITH = ("hidden_states", "top_k_index", "top_k_weights")
"""Arguments of such a module (read in transformers 5.23), by which it is known."""

RunExperts = Callable[[Any, Callable[..., Tensor], Tensor, Tensor, Tensor], Tensor]
"""(context, the experts' own forward, hidden float[N, D], ids int64[N, K], weights float[N, K]) -> float[N, D]."""


def experts_in(block: nn.Module) -> nn.Module | None:
    """The stacked experts of a block; None where it has none."""
    return next((module for module in block.modules() if _are_experts(module)), None)


def expert_tensors(experts: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> tensor of all experts, [experts, ...]."""
    return dict(experts.named_parameters(recurse=False))


def n_experts(experts: nn.Module) -> int:
    """How many there are to choose from."""
    return len(next(iter(expert_tensors(experts).values())))


def run_experts(
    experts: nn.Module, tensors: Mapping[str, Tensor], hidden: Tensor, ids: Tensor, weights: Tensor
) -> Tensor:
    """What the module's own code gives with other tensors in place of its own, as many experts as they hold.

    Args:
        experts: as :func:`experts_in` found them.
        tensors: as :func:`expert_tensors` names them.
        hidden: float[N, D].
        ids: int64[N, K], experts of ``tensors``.
        weights: float[N, K].

    Returns:
        float[N, D].
    """
    twin = copy.copy(experts)
    # on the twin alone, whose dictionaries are otherwise those of the original
    twin.__dict__["_parameters"] = dict(tensors)
    twin.__dict__.pop("forward", None)
    twin.__dict__["num_experts"] = len(next(iter(tensors.values())))
    found: Tensor = type(experts).forward(twin, hidden, ids, weights)
    return found


def around_experts(experts: nn.Module, run: RunExperts, scope: Scope[Any]) -> Handle:
    """Let ``run(context, the experts' own forward, hidden, ids, weights)`` compute what this instance returns."""
    plain = experts.forward

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        if not scope.enabled:
            return plain(hidden_states, top_k_index, top_k_weights)
        return run(scope.current, plain, hidden_states, top_k_index, top_k_weights)

    return with_forward(experts, forward)


def _are_experts(module: nn.Module) -> bool:
    tensors = list(module.parameters(recurse=False))
    if not any(tensor.dim() == 3 for tensor in tensors) or not isinstance(getattr(module, "num_experts", None), int):
        return False
    called_with = tuple(inspect.signature(type(module).forward).parameters)[1:]
    # the decorator that chooses an implementation keeps the signature of what it wraps
    return called_with == CALLED_WITH and all(len(tensor) == module.num_experts for tensor in tensors)
