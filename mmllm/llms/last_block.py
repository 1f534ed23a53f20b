"""The last block of an LLM at chosen positions only: their final states need everybody's keys and values, no more.

In training the head reads label positions, often an eighth of a row. The block is run twice: up to its attention, for
keys and values of all positions, and whole, for the chosen ones, whose queries read those keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmllm.hooks import Handle, Scope
from mmllm.hooks.context import ForwardContext
from mmllm.hooks.handles import first_input, with_first_input, with_forward
from mmllm.hooks.passes import at_positions


class AttentionReached(Exception):
    """No error: carries keys and values of all positions out of a block that has reached its attention."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor) -> None:
        super().__init__()
        self.key, self.value = key, value


@dataclass(frozen=True)
class Given:
    """Keys and values that the attention of a block reads instead of its own."""

    key: torch.Tensor
    value: torch.Tensor


def at_wanted(block: nn.Module, scope: Scope[ForwardContext]) -> Handle:
    """Let ``block`` give the positions ``ctx.wanted`` of a pass only, float[1, M, D]; all where there are none."""
    plain: Callable[..., Any] = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        ctx = scope.peek
        # what says of each position where its keys are
        row = next((word for word in ("packing", "stored") if word in kwargs), None)
        if ctx is None or ctx.wanted is None or row is None:
            return plain(*args, **kwargs)
        try:
            plain(*args, **kwargs, stop=True)
        except AttentionReached as reached:
            given = Given(reached.key, reached.value)
        else:
            raise RuntimeError(f"{type(block).__name__} ran to its end without calling its attention")
        kwargs = {name: rows_of(value, ctx.wanted) for name, value in kwargs.items()}
        kwargs[row] = kwargs[row].at((ctx.wanted if ctx.wanted_here is None else ctx.wanted_here).tolist())
        args, kwargs = with_first_input(args, kwargs, first_input(args, kwargs)[:, ctx.wanted])
        args = (args[0], *(rows_of(value, ctx.wanted) for value in args[1:])) if args else args
        with scope.open(at_positions(ctx, ctx.wanted)):
            return plain(*args, **kwargs, given=given)

    return with_forward(block, forward)


def rows_of(value: Any, positions: torch.Tensor | slice) -> Any:
    """What a block is handed for every position of the row (rotary angles, position ids), for these only."""
    if isinstance(value, tuple):
        return tuple(rows_of(one, positions) for one in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.dim() == 2:  # position ids [1, S]
        return value[:, positions]
    if value.dim() == 3:  # angles [1, S, d], or position ids [axes, 1, S]
        return value[:, positions] if value.shape[0] == 1 else value[..., positions]
    return value  # the mask of one element that transformers is given in place of one
