"""How much room the features of a stage's data take: said before anything is computed, refused where it is not there.

Called by ``cached_stage`` before a stage, and by ``cache_ahead``.
"""

from __future__ import annotations

import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmllm.datasets.base import Dataset
from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.features import files
from mmllm.features.encoder_cache import EncoderCache
from mmllm.model.feature_cache import FeatureCache
from mmllm.model.inputs import loaded
from mmllm.types import Among, identity

LOOKED_AT = 64
"""Items measured to know the mean size of those that differ in size."""
COUNTED = 2000
"""Samples looked at for a first estimate of how many items a stage has."""
OVERHEAD = 128
"""Bytes of an item beside its features: key, digest, grid, times."""

Shown = Mapping[str, Sequence[str]]
"""Placeholder -> keys of the encoders that read its items."""


@dataclass(frozen=True)
class Room:
    """Room for the features of one encoder's items."""

    encoder: str
    n_items: int
    """To be computed."""
    item_bytes: int
    """Of one, in the mean."""
    exact: bool = True
    """Whether they were counted one by one; else there are at most so many."""

    @property
    def n_bytes(self) -> int:
        """Of all of them."""
        return self.n_items * self.item_bytes


def minding(cache: FeatureCache, shown: Shown) -> frozenset[str]:
    """Placeholders of which an encoder that is kept reads an item differently beside others of its conversation."""
    kept = cache.encoders
    return frozenset(
        key for key, names in shown.items() if any(n in kept and kept[n].processor.minds_others for n in names)
    )


def distinct(datasets: Mapping[str, Dataset], minds_others: Container[str] = ()) -> dict[str, list[Any]]:
    """Placeholder -> its different items in the order of the data; samples that cannot be used are passed over.

    ``minds_others``: placeholders whose items beside others of a conversation are items of their own.
    """
    found: dict[str, dict[Any, Any]] = {}
    for dataset in datasets.values():
        for sample in _samples(dataset, range(len(dataset))):
            for key in sample.media:
                items = sample.items(key, key in minds_others)
                found.setdefault(key, {}).update((identity(item) or id(item), item) for item in items)
    return {key: list(items.values()) for key, items in found.items()}


def counted(cache: FeatureCache, media: Mapping[str, Sequence[Any]], shown: Shown) -> list[Room]:
    """Room for items that are not there; what cannot be told without reading a file counts as missing."""
    rooms = []
    for placeholder, names in shown.items():
        for name in names:
            if name in cache.encoders:
                one = cache.encoders[name]
                missing = [item for item in media.get(placeholder, ()) if not _is_there(one, item)]
                rooms.append(Room(one.name, len(missing), item_bytes(one, missing)))
    return rooms


def estimated(cache: FeatureCache, datasets: Mapping[str, Dataset], shown: Shown, n_samples: int) -> list[Room]:
    """Room that ``n_samples`` drawn samples take at most, from some of them."""
    total, seen = sum(map(len, datasets.values())), 0
    found: dict[str, list[Any]] = {}
    minds = minding(cache, shown)
    for dataset in datasets.values():
        step = max(1, total // COUNTED)
        for sample in _samples(dataset, range(0, len(dataset), step)):
            seen += 1
            for key in sample.media:
                found.setdefault(key, []).extend(sample.items(key, key in minds))
    rooms = []
    for placeholder, names in shown.items():
        items = found.get(placeholder, [])
        most = -(-len(items) * min(total, n_samples) // max(1, seen))
        for name in names:
            if name in cache.encoders:
                one = cache.encoders[name]
                rooms.append(Room(one.name, most, item_bytes(one, items), exact=False))
    return rooms


def item_bytes(cache: EncoderCache, items: Sequence[Any]) -> int:
    """Bytes of an item's features; the mean of some where they differ in size, 0 where none can be read."""
    encoder, processor = cache.encoder, cache.processor
    of_token = encoder.dim * len(encoder.layers) * cache.dtype.itemsize
    fixed = processor.fixed_grid()
    if fixed is not None:
        return prod(fixed) * of_token + OVERHEAD
    sizes = []
    for item in items[:: max(1, len(items) // LOOKED_AT)][:LOOKED_AT]:
        try:
            sizes.append(prod(processor.grid(processor.measure(processor.told(loaded(item))))))
        except MediaError:  # it is named when it is read
            continue
    return sum(sizes) * of_token // max(1, len(sizes)) + OVERHEAD


def check(where: str, folder: Path, rooms: Sequence[Room]) -> str:
    """A sentence on the room that is needed and there.

    Raises:
        MmllmError: the disk cannot hold it, or the folder cannot be written.
    """
    free, needed = free_bytes(folder), sum(room.n_bytes for room in rooms)
    parts = [
        f"{'' if room.exact else 'at most '}{room.n_items:,} items of {room.encoder} x {size(room.item_bytes)}"
        for room in rooms
    ]
    said = f"{size(needed)} of features to be kept in {folder} ({'; '.join(parts)}), {size(free)} free"
    if needed > free:
        raise MmllmError(
            f"{where}: {said}: they do not fit; name a `dir` on a larger disk or another `dtype`, or leave `cache` out."
        )
    files.prepare(folder)
    return f"{where}: {said}"


def fits(folder: Path, rooms: Sequence[Room]) -> bool:
    """Whether the disk has room for all of them."""
    return sum(room.n_bytes for room in rooms) <= free_bytes(folder)


def free_bytes(folder: Path) -> int:
    """Free on the disk that a folder lies on or will lie on."""
    place = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(place).free


def size(n_bytes: float) -> str:
    """Bytes in the unit that fits: ``1.5 GiB``."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if n_bytes >= 2**power:
            return f"{n_bytes / 2**power:,.1f} {unit}"
    return f"{n_bytes:,.0f} B"


def _samples(dataset: Dataset, indices: Sequence[int]) -> Iterator[Any]:
    for index in indices:
        try:
            yield dataset[index]
        except SampleError:  # it is counted and named when it is drawn
            continue


def _is_there(cache: EncoderCache, item: Any) -> bool:
    """Whether an item's features are there, as far as that is known without reading it."""
    if not isinstance(item.item if isinstance(item, Among) else item, str | Path):
        return False
    try:
        content = cache.processor.content(cache.processor.told(item))
    except MediaError:
        return False
    key = None if content is None else cache.contents.known(content)
    return key is not None and cache.store.has(key)
