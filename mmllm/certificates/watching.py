"""Runs a model's hooks on tensors without numbers and notes whether they leave conversations without media alone.

Each hook is held to what it was given itself: where none changes a position, and everything between them is the frozen
model's own, the whole pass gives there what the bare model gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mmllm.certificates.unknown import Unknown
from mmllm.hooks import ForwardContext
from mmllm.llms.causal_lm import CausalLM


@dataclass
class Watch:
    """What hooks were seen to do, by the name of the place and the kind and number of the hook there."""

    llm: CausalLM
    layout: str = ""
    """Name of the pass that runs."""
    seen: dict[str, int] = field(default_factory=dict)
    """Hook -> how often it ran."""
    changes: dict[str, str] = field(default_factory=dict)
    """Hook -> the first that it was seen to do with a conversation without media."""
    failed: str = ""
    """Why the passes could not be run to their end, as of frozen parts that look at numbers; empty: they were."""

    def note(self, hook: str, what: str | None) -> None:
        """One run of a hook; ``what`` it did, None: nothing."""
        self.seen[hook] = self.seen.get(hook, 0) + 1
        if what is not None:
            self.changes.setdefault(hook, f"{what} ({self.layout})")

    @property
    def context(self) -> ForwardContext | None:
        """Of the pass that runs."""
        return self.llm.scope.peek


@contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Inside, every hook in the LLM is held to what it was given."""
    llm = watch.llm
    with ExitStack() as stack:
        for name, module in llm.model.named_modules():
            for kind, run in (("_forward_hooks", _after), ("_forward_pre_hooks", _before)):
                own = module.__dict__[kind]
                words = module.__dict__[f"{kind}_with_kwargs"]
                for number, (key, hook) in enumerate(list(own.items())):
                    where = hook_name(name, kind, number)
                    own[key] = partial(run, watch, where, hook, key in words)
                    stack.callback(own.__setitem__, key, hook)
        for layer, changes in llm._extensions.items():
            before = list(changes)
            changes[:] = [
                partial(_extended, watch, hook_name(f"attention {layer}", "_extensions", n), one)
                for n, one in enumerate(before)
            ]
            stack.callback(changes.__setitem__, slice(None), before)
        heads = list(llm._logit_changes)
        llm._logit_changes[:] = [
            partial(_logits, watch, hook_name("logits", "_logit_changes", n), one) for n, one in enumerate(heads)
        ]
        stack.callback(llm._logit_changes.__setitem__, slice(None), heads)
        yield watch


def hook_name(place: str, kind: str, number: int) -> str:
    """How a hook is called in a certificate."""
    return f"{place or 'the model'}: {kind.strip('_').replace('_', ' ').removesuffix('s')} {number}"


def _after(watch: Watch, where: str, hook: Any, words: bool, module: nn.Module, *given: Any) -> Any:
    """Stands for a forward hook: ``given`` args[, kwargs], output."""
    *inputs, output = given
    result, what = _held(watch, lambda y, *x: hook(module, *x, y), output, inputs)
    watch.note(where, what)
    return output if result is None else result


def _before(watch: Watch, where: str, hook: Any, words: bool, module: nn.Module, *given: Any) -> Any:
    """Stands for a hook before a module: ``given`` args[, kwargs]."""

    def run(changed: Any) -> Any:
        found = hook(module, *changed)
        if found is None:
            return changed
        if words:
            return list(found)
        return [found if isinstance(found, tuple) else (found,)]

    result, what = _held(watch, run, list(given), [])
    watch.note(where, what)
    return tuple(result) if words else result[0]


def _extended(watch: Watch, where: str, change: Any, ctx: Any, query: Tensor, output: Tensor, scale: float) -> Any:
    """Stands for what changes the output of an attention."""
    result, what = _held(watch, lambda y, q: change(ctx, q, y, scale), output, [query])
    watch.note(where, what)
    return result


def _logits(watch: Watch, where: str, change: Any, ctx: Any, hidden: Tensor, logits: Tensor) -> Any:
    """Stands for what changes logits."""
    result, what = _held(watch, lambda y, x: change(ctx, x, y), logits, [hidden])
    watch.note(where, what)
    return result


def _held(watch: Watch, run: Callable[..., Any], value: Any, others: list[Any]) -> tuple[Any, str | None]:
    """What ``run(value, *others)`` gives, and what it changed of ``value`` or the others where there are no media."""
    given, seen = _marked([value, *others])
    numbers = [one.origins.clone() for one in seen]
    try:
        result = run(*given)
    # whatever the hook's code raises without numbers: it is then not known what it does with some
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return value, f"cannot be followed: {reason}"
    rows = Rows.of(watch.context)
    for one, before in zip(seen, numbers, strict=True):
        if not rows.same(one, before):
            return result, "writes into what it was given"
    returned = given[0] if result is None else result
    return result, _difference(rows, given[0], returned, dict(zip(map(id, seen), numbers, strict=True)))


def _difference(rows: Rows, given: Any, returned: Any, numbers: dict[int, Tensor]) -> str | None:
    """How what came back differs from what was given, leaf by leaf."""
    before, after = (torch.utils._pytree.tree_leaves(one) for one in (given, returned))
    if len(before) != len(after):
        return "gives something else than it was given"
    for one, other in zip(before, after, strict=True):
        if isinstance(one, Unknown):
            if not isinstance(other, Unknown) or other.shape != one.shape or other.dtype != one.dtype:
                return "gives another kind of tensor"
            if not rows.same(other, numbers[id(one)]):
                return "changes positions of conversations without media"
        elif one is not other and not (isinstance(one, Tensor) and torch.equal(one, other)):
            return "changes what the module is told besides its input"
    return None


def _marked(values: list[Any]) -> tuple[list[Any], list[Unknown]]:
    """The same with marked tensors, and those."""
    seen: list[Unknown] = []

    def mark(tensor: Unknown) -> Unknown:
        seen.append(tensor.marked())
        return seen[-1]

    return tree_map_only(Unknown, mark, values), seen


@dataclass(frozen=True)
class Rows:
    """Which positions of a pass belong to conversations without media."""

    text: Tensor | None
    """bool[R, S]; None: no pass is open, and all count."""
    head: Tensor | None
    """bool[M], at the positions whose logits are asked for."""

    @classmethod
    def of(cls, ctx: ForwardContext | None) -> Rows:
        """Read the context of a pass."""
        if ctx is None:
            return cls(None, None)
        shown = [one for one in ctx.has_media.values()]
        has = torch.stack(shown).any(dim=0)[ctx.sequence_ids] if shown else torch.zeros_like(ctx.attention_mask)
        text = ctx.attention_mask & ~has
        places = ctx.head_positions
        return cls(text, text[:, -1] if places is None else text.flatten()[places])

    def same(self, tensor: Unknown, numbers: Tensor) -> bool:
        """Whether every element at such a position is the one of this number."""
        equal = tensor.origins == numbers
        chosen = self._among(tensor)
        return bool((equal if chosen is None else equal[chosen]).all())

    def _among(self, tensor: Tensor) -> Tensor | None:
        """Index of the positions in a tensor's first axes; None: it has none, so all of it counts."""
        if self.text is None or self.head is None:
            return None
        rows, length = self.text.shape
        shape = tuple(tensor.shape)
        if shape[:2] == (rows, length):
            return self.text
        if shape[:1] == (rows * length,):
            return self.text.flatten()
        if len(shape) == 4 and (shape[0], shape[2]) == (rows, length):  # [R, heads, S, d]
            return self.text[:, None].expand(shape[:3])
        if shape[:2] == (1, len(self.head)):
            return self.head[None]
        return self.head if shape[:1] == (len(self.head),) else None
