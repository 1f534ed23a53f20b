"""Keeps less of a gated MLP for the backward pass: ``act(gate)`` and ``act(gate) * up`` are made again from the two.

They are a third to a half of what a frozen block keeps, and cost two cheap products to make again. Values are the same
bits; nothing of the model's own forward is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from mmllm.hooks import Handle
from mmllm.hooks.handles import with_forward
from mmllm.hooks.shards import full_shape

NAMES = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""Layers of the gated MLP as Llama and most families after it call them; that they are used so is checked."""


class _Again:
    """A tensor that is computed when the backward pass asks for it."""

    def __init__(self, make: Callable[[], torch.Tensor], shape: torch.Size) -> None:
        self.make, self.shape = make, shape


class _Run:
    """One forward of a gated MLP: what its activation was given, and what that was multiplied by."""

    def __init__(self, act: nn.Module) -> None:
        self.act = act
        self.gate: torch.Tensor | None = None
        self.activated: torch.Tensor | None = None
        self.up: torch.Tensor | None = None
        self.product: torch.Tensor | None = None
        self.again: torch.Tensor | None = None
        """``act(gate)`` as the backward pass made it for the product, until the factor itself is asked for."""

    def activate(self, _: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Hook after the activation."""
        self.gate, self.activated = args[0].detach(), output

    def multiply(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook before the last layer."""
        self.product = args[0]

    def pack(self, tensor: torch.Tensor) -> torch.Tensor | _Again:
        """What the graph keeps of a tensor that an operation saves."""
        if self.activated is None or self.gate is None:
            return tensor
        if _same(tensor, self.activated):
            return _Again(self._activated(self.gate), tensor.shape)
        if self.product is None:
            # between the activation and the last layer there is one operation: the other factor is what it saves
            self.up = tensor.detach() if tensor.shape == self.activated.shape else self.up
        elif self.up is not None and _same(tensor, self.product):
            return _Again(self._product(self.gate, self.up), tensor.shape)
        return tensor

    def _activated(self, gate: torch.Tensor) -> Callable[[], torch.Tensor]:
        def make() -> torch.Tensor:
            # the backward pass asks for the product first, if at all: what it was made of is then at hand
            found, self.again = self.again, None
            return self.act.forward(gate) if found is None else found

        return make

    def _product(self, gate: torch.Tensor, up: torch.Tensor) -> Callable[[], torch.Tensor]:
        def make() -> torch.Tensor:
            self.again = self.act.forward(gate)
            return self.again * up

        return make


def _unpack(kept: torch.Tensor | _Again) -> torch.Tensor:
    if isinstance(kept, torch.Tensor):
        return kept
    with torch.no_grad():
        return kept.make().view(kept.shape)


def _same(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a saved tensor is this one, perhaps in another shape: a linear layer of two axes."""
    # by their storage: tensors of a model that is laid out to be planned have no address
    one, two = ((t.untyped_storage()._cdata, t.storage_offset()) for t in (tensor, other))
    return one == two and tensor.numel() == other.numel() and tensor.dtype == other.dtype


def keep_less(mlp: nn.Module, wanted: Callable[[], bool]) -> Handle | None:
    """Make ``mlp`` keep less while ``wanted()``; None where it is not such an MLP."""
    parts = dict(mlp.named_children())
    if set(parts) != set(NAMES) or not _is_gated(mlp, parts):
        return None
    act, plain = parts["act_fn"], mlp.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or not wanted():
            return plain(*args, **kwargs)
        run = _Run(act)
        # only while it runs: a connector that merges itself into a layer refuses one with hooks of others; and last, so
        # that they see what connectors have made of it
        last = mlp.get_submodule("down_proj")
        hooks = [act.register_forward_hook(run.activate), last.register_forward_pre_hook(run.multiply)]
        try:
            with saved_tensors_hooks(run.pack, _unpack):
                return plain(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
            # the graph holds what it needs of them
            run.activated = run.product = None

    return with_forward(mlp, forward)


@torch.no_grad()
def _is_gated(mlp: nn.Module, parts: dict[str, nn.Module]) -> bool:
    """Whether it computes ``down(act(gate x) * up x)``."""
    weight = parts["gate_proj"].weight
    assert isinstance(weight, torch.Tensor)
    if weight.is_meta:  # laid out to be planned: there are no numbers to compare, and its names have to do
        return True
    first = parts["gate_proj"]
    # packed weights have another shape than the layer
    width = first.in_features if isinstance(first, nn.Linear) else full_shape(weight)[1]
    x = torch.linspace(-1, 1, 2 * width, device=weight.device).view(1, 2, -1)
    x = x.to(weight.dtype) if weight.is_floating_point() else x  # a quantised layer takes what it is given
    gated = parts["down_proj"](parts["act_fn"](parts["gate_proj"](x)) * parts["up_proj"](x))
    return bool(torch.equal(mlp(x), gated))
