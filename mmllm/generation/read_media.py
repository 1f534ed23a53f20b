"""Media that were read, found again by the content of their file: a chat shows the same picture in every turn.

``generator`` encodes samples through it. What a file holds decides, never its name or time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmllm.generation.content import DigestedItem, digest
from mmllm.generation.memory import Recent
from mmllm.modalities import MODALITIES
from mmllm.model.inputs import Input, Item, loaded
from mmllm.types import QuestionReader, Span

FILE_BYTES = 2**25
"""Larger files are read anew each time, instead of into memory as well."""


ReadItems = Recent[DigestedItem]
"""Read items by the content of their files."""


class KnownInput:
    """An input of the model whose items are read once."""

    def __init__(self, entry: Input, known: ReadItems) -> None:
        self.entry, self.known = entry, known

    @property
    def questions(self) -> QuestionReader | None:
        """See :class:`Input`."""
        return self.entry.questions

    def read(self, media: Any) -> Item:
        """Read an item, or find it again; MediaError where it cannot be read."""
        content = _content(self.entry, media)
        if content is None:
            return self.entry.read(media)
        found = self.known.get(content)
        if found is None:
            found = self._read(media)
            self.known.put(content, found)
        return found

    def _read(self, media: Any) -> DigestedItem:
        item = self.entry.read(media)
        return DigestedItem(item, digest(item))

    def measure(self, media: Any) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """See :class:`Input`."""
        return self.entry.measure(media)

    def n_tokens(self) -> int | None:
        """See :class:`Input`."""
        return self.entry.n_tokens()

    def layout(self, item: Mapping[str, Mapping[str, torch.Tensor]]) -> list[Span]:
        """See :class:`Input`."""
        return self.entry.layout(item)

    def collate(self, items: Sequence[Item]) -> Item:
        """See :class:`Input`."""
        return self.entry.collate(items)


def _content(entry: Input, media: Any) -> Hashable | None:
    """What makes the file the same; None where that cannot be told by one file alone."""
    if entry.modality not in ("image", "audio", "video"):
        return None  # others may name a part of a file, or other files
    media = loaded(media)
    suffix = ""
    if isinstance(media, str | Path):
        path = Path(media)
        if not path.is_file() or path.stat().st_size > FILE_BYTES:
            return None
        media, suffix = path.read_bytes(), path.suffix
    if not isinstance(media, bytes) or len(media) > FILE_BYTES or not MODALITIES[entry.modality].begins(media):
        return None  # playlists and the like name other files
    return entry.key, suffix, hashlib.sha256(media).digest()
