"""Weights that DeepSpeed's ZeRO-3 has split over the ranks, looked at whole: by what copies, checks and hashes them.

DeepSpeed marks such a parameter with ``ds_id`` and gives it the methods used here (read in 0.19).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def whole(parameters: Iterable[Any]) -> Iterator[None]:
    """Gather those of ``parameters`` that are split, and let them go again; every rank has to do the same."""
    split = sorted({one for one in parameters if hasattr(one, "ds_id")}, key=lambda one: one.ds_id)
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
