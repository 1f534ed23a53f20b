"""How a connector works inside a frozen model: hooks and replacements on instances, each undone by its handle.

Used by `llms/hook_points.py` and `encoders/hook_points.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Change = Callable[[torch.Tensor], torch.Tensor]
"""Of an input."""
ChangeOutput = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of an output, given the input too."""

Around = Callable[[Callable[..., Any], torch.Tensor], torch.Tensor]
"""Of a whole layer, given its own forward and its input."""


class Handle:
    """Undoes one change when ``remove()`` is called; calling it again does nothing."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo: Callable[[], None] | None = undo

    def remove(self) -> None:
        """Put things back as they were."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


class Switch:
    """Whether the hooks of one LLM work; off while its frozen layers are asked for something outside of a pass."""

    def __init__(self) -> None:
        self.on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """No hook works inside."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before


def all_of(handles: list[Handle]) -> Handle:
    """One handle that removes all, last first."""

    def undo() -> None:
        for handle in reversed(handles):
            handle.remove()

    return Handle(undo)


def after(module: nn.Module, change: ChangeOutput, switch: Switch, first: bool = False) -> Handle:
    """Replace what ``module`` returns by ``change(its first input, what it returned)``.

    ``first``: before the hooks that already stand there, such as those by which transformers records hidden states.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not switch.on:
            return output
        given = first_input(args, kwargs)
        if isinstance(output, tuple):
            return (change(given, output[0]), *output[1:])
        return change(given, output)

    return Handle(module.register_forward_hook(hook, with_kwargs=True, prepend=first).remove)


def before(module: nn.Module, change: Change, switch: Switch) -> Handle:
    """Replace the first input of ``module`` by ``change(it)``."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return with_first_input(args, kwargs, change(first_input(args, kwargs))) if switch.on else (args, kwargs)

    return Handle(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


def around(module: nn.Module, run: Around, switch: Switch) -> Handle:
    """Let ``run(the module's own forward, input)`` compute what this instance of ``module`` returns."""
    plain = module.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        return run(plain, x) if switch.on else plain(x)

    return _with_forward(module, forward)


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden states a decoder layer or one of its parts was called with, by position or by name."""
    return args[0] if args else kwargs["hidden_states"]


def with_first_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], value: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with other hidden states."""
    return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": value})


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
    """A float32 copy that may learn, without the hooks that stand in ``module``."""
    plain = copy.deepcopy(module)
    for inner in plain.modules():
        inner._forward_hooks.clear()
        inner._forward_pre_hooks.clear()
        inner._forward_hooks_with_kwargs.clear()
        inner._forward_pre_hooks_with_kwargs.clear()
        inner.__dict__.pop("forward", None)
    return plain.float().requires_grad_(True)


def checkpointed(module: nn.Module) -> Handle:
    """Recompute ``module`` in the backward pass instead of keeping its activations (non-reentrant, same gradients)."""
    plain = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return recomputed(plain, args, kwargs)

    return _with_forward(module, forward)


def recomputed(run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``run(*args, **kwargs)``, computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return run(*args, **kwargs)
    return checkpoint(partial(run, **kwargs), *args, use_reentrant=False)


def _with_forward(module: nn.Module, forward: Callable[..., Any]) -> Handle:
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
