"""Items of a batch whose features are kept, as plain tensors: what the loader hands on in place of pixels.

``collated`` runs in the loader and ``CollatedItems`` reads its tensors beside the encoder; between them they are moved,
pinned and pickled like any other inputs of an encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from mmllm.features.record import Record
from mmllm.processors.base import Item
from mmllm.types import Features, Grid, Layer

KEY = "cached.key"
"""uint8[32] of an item whose features are kept or are to be kept; absent where its content is not known."""
GRID = "cached.grid"
SECONDS = "cached.seconds"
LAYER, EXTRA = "cached.layer.", "cached.extra."
ORDER = "cached.order"
"""int64[N]: place of each item of the batch among the different ones, known ones first."""
KNOWN, KEYS, SIZES = "cached.known", "cached.keys", "cached.sizes"
INPUTS = "cached.inputs."
NUMBERS = (ORDER, KNOWN, KEYS, SIZES)
"""Read as numbers beside the encoder."""
BLANK = "cached.blank"
"""Beside inputs of a blank item."""
NO_KEY = bytes(32)


def item_of(key: bytes, record: Record) -> Item:
    """A record as the loader hands it on."""
    item = {KEY: key_tensor(key), **shape_of(record.grid, record.seconds)}
    item |= {LAYER + name: value for name, value in record.layers.items()}
    return item | {EXTRA + name: value for name, value in record.extras.items()}


def shape_of(grid: Grid, seconds: Tensor | None) -> Item:
    """What the loader needs of a record to plan with it."""
    return {GRID: torch.tensor(grid)} if seconds is None else {GRID: torch.tensor(grid), SECONDS: seconds}


def key_tensor(key: bytes) -> Tensor:
    """uint8[32]."""
    return torch.frombuffer(bytearray(key), dtype=torch.uint8)


def is_known(item: Mapping[str, Tensor]) -> bool:
    """Whether an item is a record, not what a processor has read."""
    return GRID in item


def collated(items: Sequence[Item], collate: Callable[[Sequence[Item]], dict[str, Tensor]], most: int) -> Item:
    """Inputs of N items, of which some are records and others are to be computed, ``most`` at once; each once."""
    names = [bytes(item[KEY].numpy()) if KEY in item else None for item in items]
    known: dict[bytes, Item] = {}
    fresh: list[tuple[bytes, Item]] = []
    places: dict[bytes, int] = {}
    for name, item in zip(names, items, strict=True):
        if name is not None and is_known(item):
            known.setdefault(name, item)
    numbers = {name: number for number, name in enumerate(known)}
    order = []
    for name, item in zip(names, items, strict=True):
        if name in known:
            order.append(numbers[name])
        elif name is not None and name in places:
            order.append(places[name])
        else:
            place = len(known) + len(fresh)
            fresh.append((name or NO_KEY, item))
            order.append(place)
            if name is not None:
                places[name] = place
    found: Item = {ORDER: torch.tensor(order)}
    if known:
        found |= _stacked(list(known.values()))
    groups = [fresh[start : start + most] for start in range(0, len(fresh), most)]
    found[SIZES] = torch.tensor([len(group) for group in groups], dtype=torch.int64)
    found[KEYS] = torch.stack([key_tensor(key) for key, _ in fresh]) if fresh else torch.zeros(0, 32, dtype=torch.uint8)
    for number, group in enumerate(groups):
        inputs = collate([_read_alone(item) for _, item in group])
        found |= {f"{INPUTS}{number}.{name}": value for name, value in inputs.items()}
    for number, (_, item) in enumerate(fresh):
        if SECONDS in item:
            found[f"{SECONDS}.{number}"] = item[SECONDS]
    return found


class CollatedItems:
    """What :func:`collated` made, on the encoder's device but for what is read as numbers."""

    def __init__(self, inputs: Mapping[str, Tensor], on_host: Callable[[str], bool]) -> None:
        """``on_host``: whether an input stays on the CPU wherever the encoder is."""
        self.inputs, self._on_host = inputs, on_host
        # where all are known, nothing is asked of the device: the host would wait for all that it still has to do
        fresh = len(inputs[SIZES]) > 0
        keys = [bytes(row) for row in inputs[KEYS].cpu().numpy()] if fresh else []
        self.keys = [None if key == NO_KEY else key for key in keys]
        """Of the items that were not known to the loader."""
        self.sizes: list[int] = inputs[SIZES].tolist() if fresh else []
        """Of the groups in which they are computed."""

    def group(self, number: int) -> dict[str, Tensor]:
        """Inputs of the encoder for one group."""
        start = f"{INPUTS}{number}."
        return {name.removeprefix(start): value for name, value in self.inputs.items() if name.startswith(start)}

    def seconds(self, number: int) -> Tensor | None:
        """Times of the item with that number among those that were not known."""
        found = self.inputs.get(f"{SECONDS}.{number}")
        return None if found is None else found.cpu()

    def features(
        self, fresh: Sequence[Record], layers: Sequence[Layer], like: Tensor, fixed: Grid | None = None
    ) -> Features:
        """All items in their order: the known ones and ``fresh``, in the dtype and on the device of ``like``.

        ``fixed``: the grid of all of them, where the processor knows one.
        """
        parts = []
        if KNOWN in self.inputs:
            parts.append(self._placed(self.inputs, like))
        if fresh:
            parts.append(self._placed(_stacked([item_of(NO_KEY, record) for record in fresh]), like))
        order = self.inputs[ORDER].cpu()
        there = order.to(like.device, non_blocking=True)
        found = {name: _joined([part[name] for part in parts]) for name in parts[0]}
        # known or new alone, each shown once, they are in order already
        if len(parts) > 1 or len(order) != len(found[KNOWN]):
            found = {name: value[order if self._on_host(name) else there] for name, value in found.items()}
        n = len(order)
        grids: list[Grid] = [fixed] * n if fixed is not None else [tuple(grid) for grid in found[KNOWN].tolist()]
        largest = max(grids, key=prod)
        if len(set(grids)) == 1:
            mask = torch.ones(n, prod(largest), dtype=torch.bool, device=like.device)
        else:
            real = torch.arange(prod(largest)) < torch.tensor([prod(grid) for grid in grids])[:, None]
            mask = real.to(like.device, non_blocking=True)
        given = {layer: found[f"{LAYER}{layer}"].to(like.dtype) for layer in layers}
        extras = {name.removeprefix(EXTRA): value for name, value in found.items() if name.startswith(EXTRA)}
        return Features(given, mask, largest, tuple(grids) if len(set(grids)) > 1 else None, extras)

    def _placed(self, tensors: Mapping[str, Tensor], like: Tensor) -> Item:
        """Those of features, where they belong."""
        return {
            name: value.cpu() if self._on_host(name) else value.to(like.device, non_blocking=True)
            for name, value in tensors.items()
            if _is_feature(name)
        }


def _is_feature(name: str) -> bool:
    return name == KNOWN or name.startswith((LAYER, EXTRA))


def _read_alone(item: Item) -> Item:
    """What the processor itself has read."""
    return {name: value for name, value in item.items() if name not in (KEY, SECONDS)}


def _stacked(items: Sequence[Item]) -> Item:
    """Records with axis N in front; shorter ones padded behind."""
    found = {KNOWN: torch.stack([item[GRID] for item in items])}
    for name in items[0]:
        if name.startswith((LAYER, EXTRA)):
            found[name] = _joined([item[name][None] for item in items], 0.0 if name.startswith(LAYER) else None)
    return found


def _joined(values: Sequence[Tensor], fill: float | None = None) -> Tensor:
    """Tensors end to end on their first axis; where others differ, padded behind: layers with 0, extras with -1."""
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    if all(list(value.shape[1:]) == shape for value in values):
        return torch.cat(list(values))
    joined = values[0].new_full((sum(map(len, values)), *shape), _padding(values[0]) if fill is None else fill)
    start = 0
    for value in values:
        joined[(slice(start, start + len(value)), *(slice(size) for size in value.shape[1:]))] = value
        start += len(value)
    return joined


def _padding(value: Tensor) -> Any:
    """What stands behind a shorter extra: -1, as ``Features.extras`` has it."""
    return -1 if value.dtype.is_signed else 0
