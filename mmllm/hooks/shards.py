"""Weights that DeepSpeed's ZeRO-3 has split over the ranks, looked at whole: by what copies, checks and hashes them.

DeepSpeed marks such a parameter with ``ds_id`` and gives it the methods used here (read in 0.19).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn


def is_split(tensor: Any) -> bool:
    """Whether ZeRO-3 has split a weight over the ranks, or given them back their own part of it."""
    return hasattr(tensor, "ds_id")


def calls_of_all(n: int, module: nn.Module) -> int:
    """How many of ``n`` calls of a module every rank makes: each gathers its weights, which all ranks do together.

    Without this, a rank that has more to do than another waits for it forever.
    """
    weight = next(module.parameters(), None)
    if weight is None or not is_split(weight) or not distributed.is_initialized():
        return n
    most = torch.tensor(n, device=weight.device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)


@contextmanager
def whole(parameters: Iterable[Any]) -> Iterator[None]:
    """Gather those of ``parameters`` that are split, and let them go again; every rank has to do the same."""
    split = sorted({one for one in parameters if is_split(one)}, key=lambda one: one.ds_id)
    if not split:
        yield
        return
    split[0].all_gather(param_list=split)
    try:
        yield
    finally:
        split[0].partition(param_list=split, has_been_updated=False)


def full_shape(tensor: Any) -> torch.Size:
    """Shape of a weight, of one that is split as a whole."""
    return tensor.ds_shape if hasattr(tensor, "ds_shape") else tensor.shape
