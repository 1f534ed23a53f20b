"""Hook points of one frozen LLM for several sets: each set's connectors see and change their own conversations alone.

A set's connector attaches to :class:`SetPoints` as it would to the LLM. In a pass over rows of several sets its hooks
get the positions of its own :class:`~mmllm.hooks.context.Stretch`, with the context of a pass over these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.errors import MmllmError
from mmllm.hooks import Around, Change, ChangeOutput, ForwardContext, Handle
from mmllm.hooks.context import Stretch
from mmllm.llms.attention import Extend
from mmllm.llms.causal_lm import CausalLM

READ = frozenset(
    {
        "model", "tokenizer", "n_blocks", "dim", "vocab_size", "decoder", "blocks", "hidden_dim", "heads", "kv_heads",
        "final_norm", "device", "dtype", "parts", "linears", "block_linears", "value_projection", "copy_block",
        "copied", "keys_values",
    }
)  # fmt: skip
"""What a connector may ask the LLM itself for."""

Point = tuple[str, Hashable]
"""A kind of hook point, and which of them."""


class UnmixableError(MmllmError):
    """A connector works at a point where rows of several sets cannot be told apart."""


class SharedPoints:
    """The hooks of all sets in one LLM: one real hook at each point, which hands on to those whose rows there are."""

    def __init__(self, llm: CausalLM) -> None:
        self.llm = llm
        self._changes: dict[Point, dict[Hashable, list[Callable[..., Any]]]] = {}
        self._handles: dict[Point, Handle] = {}

    def add(self, point: Point, owner: Hashable, change: Callable[..., Any], hook: Callable[[], Handle]) -> Handle:
        """Let ``change`` be found at ``point`` for the rows of ``owner``; ``hook`` makes the real hook there, once."""
        if point not in self._changes:
            self._changes[point] = {}
            self._handles[point] = hook()
        self._changes[point].setdefault(owner, []).append(change)
        return Handle(lambda: self._remove(point, owner, change))

    def _remove(self, point: Point, owner: Hashable, change: Callable[..., Any]) -> None:
        of = self._changes[point]
        of[owner].remove(change)
        if not of[owner]:
            del of[owner]
        if not of:
            del self._changes[point]
            self._handles.pop(point).remove()

    def at(self, point: Point, ctx: ForwardContext) -> Iterator[tuple[Stretch, Callable[..., Any]]]:
        """What is to be done there in this pass, and where in the row."""
        of = self._changes.get(point, {})
        for stretch in ctx.stretches or ():
            for change in of.get(stretch.owner, ()):
                yield stretch, change


class SetPoints:
    """The LLM as the connectors of one set see it. What rows of several sets cannot share raises UnmixableError."""

    def __init__(self, shared: SharedPoints, owner: Hashable) -> None:
        self._shared, self._owner = shared, owner
        self._llm = shared.llm
        self._made: list[Handle] = []

    def __getattr__(self, name: str) -> Any:
        """What does not depend on whose rows there are is the LLM's own."""
        if name in READ:
            return getattr(self._llm, name)
        raise UnmixableError(f"it uses {name} of the LLM, where rows of several sets cannot be told apart")

    def clear(self) -> None:
        """Take out all that was put in, also where attaching ended in the middle."""
        Handle.of(self._made).remove()
        self._made = []

    # ---- points

    def before_block(self, index: int, change: Change) -> Handle:
        """See the LLM's own."""
        return self._before(("before_block", index), change, lambda run: self._llm.before_block(index, run))

    def before_attention(self, index: int, change: Change) -> Handle:
        """See the LLM's own."""
        return self._before(("before_attention", index), change, lambda run: self._llm.before_attention(index, run))

    def before_mlp(self, index: int, change: Change) -> Handle:
        """See the LLM's own."""
        return self._before(("before_mlp", index), change, lambda run: self._llm.before_mlp(index, run))

    def before_linear(self, name: str, change: Change) -> Handle:
        """See the LLM's own."""
        return self._before(("before_linear", name), change, lambda run: self._llm.before_linear(name, run))

    def after_block(self, index: int, change: ChangeOutput) -> Handle:
        """See the LLM's own."""
        return self._after(("after_block", index), change, lambda run: self._llm.after_block(index, run))

    def after_attention(self, index: int, change: ChangeOutput) -> Handle:
        """See the LLM's own."""
        return self._after(("after_attention", index), change, lambda run: self._llm.after_attention(index, run))

    def after_mlp(self, index: int, change: ChangeOutput) -> Handle:
        """See the LLM's own."""
        return self._after(("after_mlp", index), change, lambda run: self._llm.after_mlp(index, run))

    def after_linear(self, name: str, change: ChangeOutput) -> Handle:
        """See the LLM's own."""
        return self._after(("after_linear", name), change, lambda run: self._llm.after_linear(name, run))

    def around_linear(self, name: str, run: Around) -> Handle:
        """See the LLM's own; the layer is computed for all rows, and once more for those of the set."""
        plain = self._llm.model.get_submodule(name).forward

        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            return run(ctx, plain, x)

        return self.after_linear(name, change)

    def after_embed(self, change: ChangeOutput) -> Handle:
        """See the LLM's own."""
        return self._after(("after_embed", ""), change, self._llm.after_embed)

    def after_final_norm(self, change: ChangeOutput) -> Handle:
        """See the LLM's own."""
        return self._after(("after_final_norm", ""), change, self._llm.after_final_norm)

    def insert_block(self, index: int, block: nn.Module, choose: ChangeOutput) -> Handle:
        """See the LLM's own; the block runs on the set's rows alone, over their own stored keys."""
        made = self._llm.insert_block(index, block, choose, owner=self._owner)
        self._made.append(made)
        return made

    def extend_attention(self, index: int, extend: Extend) -> Handle:
        """See the LLM's own."""
        point: Point = ("extend_attention", index)
        llm, layer = self._llm, int(self._llm.parts(index).attention.layer_idx)  # type: ignore[arg-type]

        def everyone(ctx: ForwardContext, query: Tensor, output: Tensor, scaling: float) -> Tensor:
            for stretch, own in self._shared.at(point, ctx):
                rows = slice(stretch.start, stretch.end)
                # of which keys_values reads the shape alone
                stretch.ctx.notes["rotary", layer] = ctx.notes["rotary", layer]
                with llm.scope.open(stretch.ctx):
                    made = own(stretch.ctx, query[:, :, rows], output[:, rows], scaling)
                output = _put(output, made, stretch, 1)
            return output

        return self._add(point, extend, lambda: llm.extend_attention(index, everyone))

    # ---- how

    def _before(self, point: Point, change: Change, hook: Callable[[Change], Handle]) -> Handle:
        def everyone(ctx: ForwardContext, x: Tensor) -> Tensor:
            for stretch, own in self._shared.at(point, ctx):
                x = _put(x, own(stretch.ctx, _own(x, stretch)), stretch, _axis(x))
            return x

        return self._add(point, change, lambda: hook(everyone))

    def _after(self, point: Point, change: ChangeOutput, hook: Callable[[ChangeOutput], Handle]) -> Handle:
        def everyone(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            for stretch, own in self._shared.at(point, ctx):
                made = own(stretch.ctx, _own(x, stretch), _own(output, stretch))
                output = _put(output, made, stretch, _axis(output))
            return output

        return self._add(point, change, lambda: hook(everyone))

    def _add(self, point: Point, change: Callable[..., Any], hook: Callable[[], Handle]) -> Handle:
        made = self._shared.add(point, self._owner, change, hook)
        self._made.append(made)
        return made


def _axis(x: Tensor) -> int:
    """Axis of the positions: [1, S, D], or [S, D] and ids [S]."""
    return 1 if x.dim() == 3 else 0


def _own(x: Tensor, stretch: Stretch) -> Tensor:
    return x.narrow(_axis(x), stretch.start, stretch.end - stretch.start)


def _put(whole: Tensor, part: Tensor, stretch: Stretch, axis: int) -> Tensor:
    """``whole`` with ``part`` at the set's positions; every other element stays bit for bit."""
    # a new tensor: what a hook is given may be kept by the model (a residual) or by another hook
    n = whole.shape[axis]
    pieces = [
        whole.narrow(axis, 0, stretch.start),
        part.to(whole.dtype),
        whole.narrow(axis, stretch.end, n - stretch.end),
    ]
    return torch.cat([one for one in pieces if one.shape[axis]], dim=axis)
