"""Rows that say the same about the same media; a survey looks for them.

Media are compared by their bytes, and read only where conversations are equal but files have other names.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmllm.errors import MediaError
from mmllm.inspection.naming import NAMED
from mmllm.types import Sample, Stored


@dataclass(frozen=True)
class Duplicates:
    """Rows that repeat another."""

    count: int = 0
    """Rows beyond the first of each group."""
    n_groups: int = 0
    groups: tuple[tuple[str, ...], ...] = ()
    """Names of the rows of the largest groups, the first of each."""


class Conversations:
    """Remembers conversations by their digest, with where their media are."""

    def __init__(self) -> None:
        self._rows: dict[bytes, list[tuple[str, tuple[Hashable, ...]]]] = defaultdict(list)
        self._digests: dict[Hashable, Hashable] = {}

    def add(self, sample: Sample) -> None:
        """Remember one; bytes of media are kept as a digest alone."""
        said = [[message.role, message.text] for message in sample.messages]
        counts = [[key, len(items)] for key, items in sorted(sample.media.items()) if items]
        media = tuple(_kept(item) for _, items in sorted(sample.media.items()) for item in items)
        self._rows[_sha(json.dumps([said, counts]).encode("utf-8", "surrogatepass"))].append((sample.name, media))

    def duplicates(self) -> Duplicates:
        """Return those that are there more than once."""
        groups = []
        for rows in self._rows.values():
            alike: dict[Hashable, list[str]] = defaultdict(list)
            for name, media in rows if len(rows) > 1 else ():
                same = all(media == other for _, other in rows)
                alike[() if same else tuple(map(self._content, media))].append(name)
            groups += [names for names in alike.values() if len(names) > 1]
        groups.sort(key=lambda names: -len(names))
        shown = tuple(tuple(names[:NAMED]) for names in groups[:NAMED])
        return Duplicates(sum(len(names) - 1 for names in groups), len(groups), shown)

    def _content(self, item: Hashable) -> Hashable:
        """What an item holds; its own name where it cannot be read."""
        if item not in self._digests:
            self._digests[item] = _content_of(item)
        return self._digests[item]


def _kept(item: Any) -> Hashable:
    """What is kept of an item: its digest where it lies in memory, else where it lies."""
    if isinstance(item, bytes):
        return _Digest(_sha(item))
    if isinstance(item, Path | Stored | str):
        return item
    # a picture; anything else is like nothing but itself
    return _Digest(_sha(item.tobytes())) if hasattr(item, "tobytes") else _Digest(object())


@dataclass(frozen=True)
class _Digest:
    """Bytes that were digested."""

    value: Hashable


def _content_of(item: Hashable) -> Hashable:
    if not isinstance(item, Path | Stored):
        return item
    try:
        found = item.load() if isinstance(item, Stored) else item
        return _Digest(_sha(found.read_bytes() if isinstance(found, Path) else found))
    except (OSError, MediaError):
        # a folder, a part of a clip or a node of a graph is equal by its name alone
        return item


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
