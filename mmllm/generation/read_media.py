"""Media that were read, found again by the content of their file: a chat shows the same picture in every turn.

``generator`` encodes samples through it. What a file holds decides, never its name or time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from mmllm.generation.content import DigestedItem, digest
from mmllm.generation.memory import Recent
from mmllm.modalities import MODALITIES
from mmllm.model.input_proxy import InputProxy
from mmllm.model.inputs import Input, Item, loaded
from mmllm.types import Among

FILE_BYTES = 2**25
"""Larger files are read anew each time, instead of into memory as well."""


ReadItems = Recent[DigestedItem]
"""Read items by the content of their files."""


class KnownInput(InputProxy):
    """An input of the model whose items are read once."""

    def __init__(self, entry: Input, known: ReadItems, tenant: str = "", reads: str = "") -> None:
        """``tenant``: whose files are read; one does not find those of another (see ``answers.Request``).

        ``reads``: whose items these are, where others keep theirs in ``known`` as well.
        """
        super().__init__(entry)
        self.known, self.whose = known, (tenant, reads)

    def read(self, media: Any) -> Item:
        """Read an item, or find it again; MediaError where it cannot be read."""
        content = _content(self.entry, media)
        if content is None:
            return self.entry.read(media)
        content = (self.whose, content)
        found = self.known.get(content)
        if found is None:
            found = self._read(media)
            self.known.put(content, found)
        return found

    def _read(self, media: Any) -> DigestedItem:
        item = self.entry.read(media)
        return DigestedItem(item, digest(item))


def _content(entry: Input, media: Any) -> Hashable | None:
    """What makes the file the same; None where that cannot be told by one file alone."""
    if entry.modality not in ("image", "audio", "video"):
        return None  # others may name a part of a file, or other files
    media = loaded(media)
    among = isinstance(media, Among)
    media = media.item if among else media
    suffix = ""
    if isinstance(media, str | Path):
        path = Path(media)
        if not path.is_file() or path.stat().st_size > FILE_BYTES:
            return None
        media, suffix = path.read_bytes(), path.suffix
    if not isinstance(media, bytes) or len(media) > FILE_BYTES or not MODALITIES[entry.modality].begins(media):
        return None  # playlists and the like name other files
    return entry.key, among, suffix, hashlib.sha256(media).digest()
