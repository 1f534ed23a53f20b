"""The way from an item to its features where they are kept: look, else read and compute once, and keep what is used.

``model.inputs`` asks it in the loader (``read``, ``collate``), ``MultimodalLM.encode`` beside the encoder
(``features``). What is computed is rounded to the dtype that is kept before it is used, so that a hit and a miss are
the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.errors import MediaError, MmllmError
from mmllm.features import batching
from mmllm.features.batching import BLANK, KEY, SECONDS, CollatedItems, collated, is_known, item_of, key_tensor
from mmllm.features.contents import ContentDigests
from mmllm.features.record import Record, split
from mmllm.features.store import FeatureStore
from mmllm.hooks.shards import calls_of_all
from mmllm.processors.base import Item, ItemInfo
from mmllm.types import Features, Grid

Run = Callable[[Mapping[str, Tensor]], Features]
"""Collated inputs -> the encoder's features."""
MOST = 16
"""Items computed at once where an accelerator does it; on a CPU it is one."""


class EncoderCache:
    """Kept features of one frozen encoder. Reading is safe for threads."""

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        store: FeatureStore,
        contents: ContentDigests,
        dtype: torch.dtype,
        adds: bool = True,
    ) -> None:
        """``name`` of the encoder in errors: ``encoders.image``; ``adds``: whether what is computed is kept."""
        self.name, self.encoder, self.store, self.contents, self.dtype = name, encoder, store, contents, dtype
        self.processor = encoder.processor
        self.adds = adds
        self.n_computed = 0
        """Items computed so far."""
        self._drawn = not encoder.processor.deterministic
        self._tried = False
        self._blank: Features | None = None
        self._lock = Lock()

    # ---- in the loader

    def read(self, media: Any) -> Item:
        """The record of an item, undecoded, or what the processor reads of it; MediaError where it cannot be read."""
        for _ in range(3):
            content = self.processor.content(media)
            if content is None:
                return self._tried_twice(media)
            seen = self.contents.of(content)
            record = self.store.get(seen.key)
            if record is not None:
                return item_of(seen.key, record)
            item = self._tried_twice(media)
            # else features of a new picture would be kept as those of the old one
            if self.contents.unchanged(content, seen):
                seconds = self.processor.seconds(item)
                times = {} if seconds is None else {SECONDS: torch.tensor(list(seconds), dtype=torch.float64)}
                return {**item, **times, KEY: key_tensor(seen.key)}
        raise MediaError("it changes while it is read")

    def measure(self, media: Any) -> ItemInfo:
        """What ``grid`` and ``seconds`` need: of a file that is known unread, without opening it."""
        if isinstance(media, str | Path | bytes):
            content = self.processor.content(media)
            key = None if content is None else self.contents.known(content)
            shape = None if key is None else self.store.shape(key)
            if shape is not None:
                return batching.shape_of(*shape)
        return self.processor.measure(media)

    def grid(self, item: ItemInfo) -> Grid:
        """Shape of the tokens of an item."""
        return tuple(item[batching.GRID].tolist()) if is_known(item) else self.processor.grid(item)

    def seconds(self, item: ItemInfo) -> Sequence[float] | None:
        """Time of each index of its grid's first axis."""
        if not is_known(item):
            return self.processor.seconds(item)
        found: list[float] | None = item[SECONDS].tolist() if SECONDS in item else None
        return found

    def collate(self, items: Sequence[Item]) -> Item:
        """Inputs of N items, records among them."""
        # alone on a CPU: features then do not depend on the neighbours, to the last bit; elsewhere as many as may be
        # split again without a rest
        weight = next(self.encoder.parameters(), None)
        together = weight is not None and weight.device.type != "cpu" and self.processor.fixed_grid() is not None
        return collated(items, self.processor.collate, MOST if together else 1)

    def marked_blank(self, inputs: Mapping[str, Tensor]) -> Item:
        """Inputs of a blank item, whose features are computed once and remembered."""
        return {**inputs, BLANK: torch.ones(1, dtype=torch.bool)}

    # ---- beside the encoder

    def on_host(self, name: str) -> bool:
        """Whether this input is read as numbers, and so taken on the CPU: by the encoder, or here."""
        return name in batching.NUMBERS or self.encoder.on_host(name.rpartition(".")[-1])

    def features(self, inputs: Mapping[str, Tensor], run: Run) -> Features:
        """Features of N items; ``run`` computes those that are not kept.

        Raises:
            MmllmError: the encoder learns, or something learns inside it; the disk is full.
        """
        if self.encoder.adapters or any(weight.requires_grad for weight in self.encoder.parameters()):
            raise MmllmError(
                f"{self.name} learns, or a connector inside it, so its features change and cannot be kept; leave "
                "`cache` out."
            )
        if BLANK in inputs:
            return self._of_blank({name: value for name, value in inputs.items() if name != BLANK}, run)
        items = CollatedItems(inputs, self.on_host)
        # an encoder without weights is where the features and pixels are
        floats = (value for value in inputs.values() if value.is_floating_point())
        like: Tensor = next(chain(self.encoder.parameters(), floats))
        # a step that was read ahead may hold items that the last one has computed
        known = [None if key is None else self.store.get(key) for key in items.keys]
        starts = [sum(items.sizes[:number]) for number in range(len(items.sizes))]
        waiting = [
            (number, start)
            for number, (start, size) in enumerate(zip(starts, items.sizes, strict=True))
            if any(record is None for record in known[start : start + size])
        ]
        self._together(len(waiting), run)
        for number, start in waiting:
            made = split(run(items.group(number)), self.dtype, self.name)
            for place, record in enumerate(made, start):
                if known[place] is None:
                    known[place] = self._keep(items.keys[place], record, items.seconds(place))
        made = [record for record in known if record is not None]
        return items.features(made, self.encoder.layers, like, self.processor.fixed_grid())

    def _keep(self, key: bytes | None, record: Record, seconds: Tensor | None) -> Record:
        self.n_computed += 1
        whole = Record(record.layers, record.grid, record.extras, seconds)
        if key is not None and self.adds:
            self.store.add(key, whole)
        return whole

    def _of_blank(self, inputs: Mapping[str, Tensor], run: Run) -> Features:
        """Features of a blank item: a batch without media needs them for zeros that all that learns takes part in."""
        self._together(int(self._blank is None), run)
        if self._blank is None:
            self._blank = run(inputs)
        return self._blank

    def _together(self, n: int, run: Run) -> None:
        """Under ZeRO-3 all ranks gather an encoder's weights together: run it on nothing where others have more."""
        more = calls_of_all(n, self.encoder) - n
        if more:
            device = next(self.encoder.parameters()).device
            blank = self.processor.collate([self.processor.blank()])
            for _ in range(more):
                run({name: value if self.on_host(name) else value.to(device) for name, value in blank.items()})

    def _tried_twice(self, media: Any) -> Item:
        """What the processor reads; MmllmError where it reads the first item differently the second time."""
        item = self.processor.read(media)
        with self._lock:
            first, self._tried = not self._tried, True
        if first and not self._drawn:
            again = self.processor.read(media)
            self._drawn = any(not torch.equal(value, again[name]) for name, value in item.items())
        if self._drawn:
            raise MmllmError(
                f"the processor of {self.name} draws at random (augmentation), so its features differ each time and "
                "cannot be kept; leave `cache` out."
            )
        return item
