"""Weights on their way out of a run: handed over to another model without a copy, and given back to the system.

A run and what is written of it are never in memory both: the written model takes over the run's own tensors, and the
run is released before other software opens what was written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def release(model: nn.Module) -> None:
    """Give back the memory of a model's tensors; whatever else is known of it stays, it computes nothing any more.

    Whoever took a tensor over (``state_dict()``, :func:`hand_over`) keeps it.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        # in place: hooks and copies of a model that share its parameters would keep another one's memory
        tensor.data = tensor.data.new_empty(0)


def hand_over(there: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors, by their names in ``there``, in the place of its parameters and buffers, without a copy.

    Shapes are the caller's to compare. A name that ``there`` does not have raises AttributeError.
    """
    for name, tensor in tensors.items():
        where, _, last = name.rpartition(".")
        module = there.get_submodule(where)
        old = getattr(module, last)
        own = tensor.detach()
        setattr(module, last, nn.Parameter(own, requires_grad=False) if isinstance(old, nn.Parameter) else own)


@torch.no_grad()
def in_float32(model: Any, but: Collection[str] = ()) -> None:
    """Cast parameters and persistent buffers one by one, but those of the names ``but``."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in but and tensor.is_floating_point():
            tensor.data = tensor.data.float()


def with_rows(table: Tensor, rows: int) -> Tensor:
    """A table float[V, D] with rows up to ``rows`` behind its own, each their mean; itself where it has so many."""
    if len(table) >= rows:
        return table
    return torch.cat([table, table.mean(0, keepdim=True).expand(rows - len(table), -1)])
