"""What one encoder gave of one item, as it is kept: between ``shards`` (files) and ``batching`` (inputs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.types import Features

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Word of the recipe -> dtype of what is kept."""


@dataclass(frozen=True)
class Record:
    """Features of one item, without axis N and without padding, on the CPU."""

    layers: Mapping[str, Tensor]
    """Layer as text (``-2``, ``final``) -> float[T, D] in the dtype that is kept."""
    grid: tuple[int, ...]
    """T is its product."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Further tensors in their own dtype."""
    seconds: Tensor | None = None
    """float64[steps], time of each index of the grid's first axis; None for what has no time."""

    @property
    def n_bytes(self) -> int:
        """Bytes of its tensors."""
        tensors = [*self.layers.values(), *self.extras.values(), *([] if self.seconds is None else [self.seconds])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def split(features: Features, dtype: torch.dtype, where: str) -> list[Record]:
    """Each item of an encoder's output in ``dtype``; ``where`` is the encoder's name in errors.

    Raises:
        MmllmError: an item has tokens that are masked, or numbers that ``dtype`` cannot hold.
    """
    records = []
    for number, grid in enumerate(features.item_grids()):
        tokens = prod(grid)
        if not features.mask[number, :tokens].all():
            raise MmllmError(f"{where} masks tokens inside an item's grid, so its features cannot be kept.")
        layers = {str(name): _kept(layer[number, :tokens], dtype, where) for name, layer in features.layers.items()}
        extras = {name: _copied(value[number]) for name, value in features.extras.items()}
        records.append(Record(layers, grid, extras))
    return records


def _kept(layer: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    kept = _copied(layer.to(dtype))
    if not kept.isfinite().all():
        largest = float(layer.abs().max())
        raise MmllmError(
            f"{where} gives features of up to {largest:g}, which {str(dtype).removeprefix('torch.')} cannot hold; keep "
            "them as float32 or bfloat16 (`cache: {dtype: float32}`)."
        )
    return kept


def _copied(value: Tensor) -> Tensor:
    # outside inference mode: what an evaluation keeps, a training of the same process may read
    with torch.inference_mode(False):
        return value.detach().clone().cpu().contiguous()
