"""How a connector works inside an LLM: hooks and replacements on instances, each undone by its handle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Handle:
    """Undoes one change when ``remove()`` is called; calling it again does nothing."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo: Callable[[], None] | None = undo

    def remove(self) -> None:
        """Put things back as they were."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def all_of(handles: list[Handle]) -> Handle:
    """One handle that removes all, last first."""

    def undo() -> None:
        for handle in reversed(handles):
            handle.remove()

    return Handle(undo)


def after(module: nn.Module, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Handle:
    """Replace what ``module`` returns by ``change(its first input, what it returned)``."""

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(args[0], output[0]), *output[1:])
        return change(args[0], output)

    return Handle(module.register_forward_hook(hook).remove)


def replace(root: nn.Module, name: str, module: nn.Module) -> Handle:
    """Put ``module`` where ``name`` is under ``root``."""
    parent_name, _, child = name.rpartition(".")
    parent = root.get_submodule(parent_name)
    old = parent.get_submodule(child)
    parent.register_module(child, module)

    def undo() -> None:
        parent.register_module(child, old)

    return Handle(undo)


def checkpointed(module: nn.Module) -> Handle:
    """Recompute ``module`` in the backward pass instead of keeping its activations (non-reentrant, same gradients)."""
    plain = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        return checkpoint(partial(plain, **kwargs), *args, use_reentrant=False)

    # on the instance: transformers' own switch needs train mode, which would also turn dropout on
    module.__dict__["forward"] = forward
    return Handle(lambda: module.__dict__.pop("forward"))
