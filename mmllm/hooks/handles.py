"""Hooks and replacements on instances of frozen modules, each undone by its handle: connectors work through them.

Used by `llms/hook_points.py` and `encoders/hook_points.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmllm.errors import MmllmError
from mmllm.hooks.scope import Scope
from mmllm.hooks.shards import whole

Change = Callable[[Any, torch.Tensor], torch.Tensor]
"""(context, hidden states entering a module) -> those that enter it instead."""
ChangeOutput = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""(context, input, output of a module) -> another output."""
Around = Callable[[Any, Callable[..., Any], torch.Tensor], torch.Tensor]
"""(context, a layer's own forward, its input) -> its output."""


class Handle:
    """Undoes one change when ``remove()`` is called; calling it again does nothing."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo: Callable[[], None] | None = undo

    @classmethod
    def of(cls, handles: Iterable[Handle]) -> Handle:
        """One handle that removes all of these, last first: a later hook may stand on what an earlier one made."""
        made = list(handles)

        def undo() -> None:
            for handle in reversed(made):
                handle.remove()

        return cls(undo)

    @property
    def active(self) -> bool:
        """Whether the change is still there."""
        return self._undo is not None

    def remove(self) -> None:
        """Put things back as they were."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def after(module: nn.Module, change: ChangeOutput, scope: Scope[Any], first: bool = False) -> Handle:
    """Replace what ``module`` returns by ``change(context, its first input, what it returned)``.

    ``first``: before the hooks that already stand there, such as those by which transformers records hidden states.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not scope.enabled:
            return output
        given = first_input(args, kwargs)
        # attention modules, and the blocks of some families, return (hidden states, weights or cache, ...)
        if isinstance(output, tuple):
            return (change(scope.current, given, output[0]), *output[1:])
        return change(scope.current, given, output)

    return Handle(module.register_forward_hook(hook, with_kwargs=True, prepend=first).remove)


def before(module: nn.Module, change: Change, scope: Scope[Any]) -> Handle:
    """Replace the first input of ``module`` by ``change(context, it)``."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not scope.enabled:
            return args, kwargs
        return with_first_input(args, kwargs, change(scope.current, first_input(args, kwargs)))

    return Handle(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


def wrap_forward(module: nn.Module, run: Around, scope: Scope[Any]) -> Handle:
    """Let ``run(context, the module's own forward, input)`` compute what this instance of ``module`` returns."""
    plain = module.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        return run(scope.current, plain, x) if scope.enabled else plain(x)

    return with_forward(module, forward)


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden states a decoder layer or one of its parts was called with, by position or by name."""
    return args[0] if args else kwargs[_word(kwargs)]


def with_first_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], value: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with other hidden states."""
    return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, _word(kwargs): value})


def _word(kwargs: dict[str, Any]) -> str:
    """Name of the hidden states in a call; the tower of Llama 4 has another than every other model."""
    return "hidden_state" if "hidden_state" in kwargs else "hidden_states"


def replace(root: nn.Module, name: str, module: nn.Module) -> Handle:
    """Put ``module`` where ``name`` is under ``root``."""
    parent_name, _, child = name.rpartition(".")
    parent = root.get_submodule(parent_name)
    old = parent.get_submodule(child)
    parent.register_module(child, module)

    def undo() -> None:
        parent.register_module(child, old)

    return Handle(undo)


def copied(module: nn.Module) -> nn.Module:
    """A float32 copy that may learn, without the hooks that stand in ``module``.

    Hooks of other connectors would act on the copy too, and those of DeepSpeed's ZeRO-3 would gather weights it has
    not got.
    """
    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        raise MmllmError(
            "a connector of this recipe learns from copies of the LLM's layers, and those of a quantised LLM cannot "
            "learn; leave llm.quantize out, or choose another connector"
        )
    with whole(module.parameters()):
        plain = copy.deepcopy(module)
    for inner in plain.modules():
        # private in torch (read in 2.15): the public way to take a hook off is its handle, and others hold those
        inner._forward_hooks.clear()
        inner._forward_pre_hooks.clear()
        inner._forward_hooks_with_kwargs.clear()
        inner._forward_pre_hooks_with_kwargs.clear()
        # a wrapped forward is copied as it is: it would still run the original with the original's weights
        inner.__dict__.pop("forward", None)
    return plain.float().requires_grad_(True)


def checkpointed(module: nn.Module, scope: Scope[Any]) -> Handle:
    """Recompute ``module`` in the backward pass instead of keeping its activations (non-reentrant, same gradients).

    The recomputation sees the context of its own forward, whatever passes were opened in between.
    """
    plain = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        # peek: a layer without a connector's hooks may also run outside of a pass
        context = scope.peek
        if context is None:
            return recomputed(plain, args, kwargs)

        def run(*inner: Any, **words: Any) -> Any:
            with scope.open(context):
                return plain(*inner, **words)

        return recomputed(run, args, kwargs)

    return with_forward(module, forward)


def recomputed(run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``run(*args, **kwargs)``, computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return run(*args, **kwargs)
    # non-reentrant: the reentrant kind gives a block's own weights no gradient where its input has none, as under
    # frozen embeddings, and takes no keywords
    return checkpoint(partial(run, **kwargs), *args, use_reentrant=False)


def with_forward(module: nn.Module, forward: Callable[..., Any]) -> Handle:
    """Another ``forward`` on this instance; what it had (its class's, or an earlier one of its own) comes back."""
    own = module.__dict__.get("forward")
    # on the instance: transformers' own switch needs train mode, which would also turn dropout on
    module.__dict__["forward"] = forward

    def undo() -> None:
        if own is None:
            module.__dict__.pop("forward")
        else:
            module.__dict__["forward"] = own

    return Handle(undo)
