"""What makes positions of two conversations the same: token ids, and the content of the media that are shown.

Two conversations whose keys begin alike have the same keys and values for as long (``prefixes``); two items with the
same digest are encoded once (``packed``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mmllm.batches.sample import Encoded, Item

Digests = Mapping[str, list[bytes]]
"""Placeholder -> digest of each of its items, in order."""


class DigestedItem(dict[str, dict[str, torch.Tensor]]):
    """An item as its encoders read it, with its digest."""

    def __init__(self, item: Item, found: bytes) -> None:
        """``found``: what :func:`digest` gives of ``item``."""
        super().__init__(item)
        self.digest = found

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        return sum(value.numel() * value.element_size() for one in self.values() for value in one.values())


def digest(item: Item) -> bytes:
    """Digest of an item as its encoders read it: the same for the same tensors, whatever file they came from."""
    if isinstance(item, DigestedItem):
        return item.digest
    found = hashlib.sha256()
    for name in sorted(item):
        for word, value in sorted(item[name].items()):
            found.update(f"{name}\0{word}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


def digests(encoded: Encoded) -> dict[str, list[bytes]]:
    """Digests of all items of a conversation."""
    return {key: [digest(item) for item in items] for key, items in encoded.media.items()}


def position_keys(encoded: Encoded, found: Digests, reads_later_items: bool) -> list[Hashable]:
    """One key for each position: equal beginnings of two lists are beginnings that the LLM makes the same of.

    Places of an item are told by its content. The first key also holds what shapes every position: the data key, which
    placeholders have items at all (``when``), how far a bidirectional prefix reaches, and with ``reads_later_items``
    all items. What lies inside a bidirectional stretch is the same only together with the rest of it (:func:`whole`).
    """
    keys: list[Hashable] = list(encoded.ids)
    for span in encoded.spans:
        content = found[span.key][span.item]
        for offset in range(span.length):
            keys[span.start + offset] = (span.key, content, offset, span.start)
        if not span.length:  # an item without places begins here
            keys[span.start] = (keys[span.start], span.key, content)
    shown: Hashable = tuple(sorted(key for key, items in encoded.media.items() if items))
    if reads_later_items:
        shown = tuple((key, tuple(found[key])) for key in sorted(found))
    keys[0] = (encoded.dataset, shown, encoded.prefix, keys[0])
    return keys


def whole(encoded: Encoded, known: int) -> int:
    """Of the first ``known`` positions as many as end inside no bidirectional stretch: what one would leave behind has
    states that depend on what follows."""
    return next((one.start for one in encoded.bidirectional if one.start < known < one.end), known)
