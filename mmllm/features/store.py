"""The features that one encoder gave with one preprocessing, by the content of their items: shards, and what is new.

Any number of processes may read and fill the same folder: a shard appears whole under a name of its own and never
changes. Two that compute the same item keep it twice, and the older one is read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import Any

from torch import Tensor

from mmllm.features import files, shards
from mmllm.features.record import Record
from mmllm.features.shards import DamagedShard, Shard, UnreadableShard
from mmllm.types import Grid

LOG = logging.getLogger(__name__)
SAID = "encoder.json"
"""File that says what a store's features depend on; nothing reads it."""
SHARD_BYTES = 128 << 20
"""Bytes of features that are gathered in memory before they are written as a shard."""


class FeatureStore:
    """Records by the 32 bytes of their keys. Safe for threads."""

    def __init__(self, folder: Path, said: Mapping[str, Any] | None = None) -> None:
        """Open what is there; damaged shards are named, removed and count as missing.

        ``said``: what its features depend on, written beside them for people who look.
        """
        self.folder, self._said = folder, said
        self._lock = RLock()
        self._shards: dict[str, Shard] = {}
        self._rows: dict[bytes, tuple[str, int]] = {}
        self._new: dict[bytes, Record] = {}
        self._new_bytes = 0
        self._unusable: set[str] = set()
        self._looked = -1
        files.remove_left_over(folder)
        self._look()

    def __len__(self) -> int:
        """Number of records, those in memory included."""
        return len(self._rows.keys() | self._new.keys())

    def get(self, key: bytes) -> Record | None:
        """The record of an item; None where there is none, or none that is what was written."""
        found = self._new.get(key) or self._read(key)
        if found is None and self._look():  # another process may have written it since
            found = self._read(key)
        return found

    def shape(self, key: bytes) -> tuple[Grid, Tensor | None] | None:
        """Grid and times of an item, without reading its record; None where there is none."""
        new, place = self._new.get(key), self._rows.get(key)
        if new is not None:
            return new.grid, new.seconds
        shard = self._shards.get(place[0]) if place is not None else None
        return None if place is None or shard is None else shard.shape(place[1])

    def has(self, key: bytes) -> bool:
        """Whether there is a record, without reading it."""
        return key in self._new or key in self._rows

    def add(self, key: bytes, record: Record) -> None:
        """Keep a record; a shard is written whenever there is enough for one. MmllmError where the disk is full."""
        with self._lock:
            if key in self._new or key in self._rows:
                return
            self._new[key] = record
            self._new_bytes += record.n_bytes
            if self._new_bytes >= SHARD_BYTES:
                self.commit()

    def commit(self) -> None:
        """Write what is new as a shard; MmllmError where the disk is full."""
        with self._lock:
            if not self._new:
                return
            path = shards.write(self.folder, self._new)
            if self._said is not None and not (self.folder / SAID).exists():
                (self.folder / SAID).write_text(json.dumps(self._said, indent=1) + "\n", encoding="utf-8")
            self._open(path.name)
            self._new, self._new_bytes = {}, 0

    def _read(self, key: bytes) -> Record | None:
        place = self._rows.get(key)
        shard = self._shards.get(place[0]) if place is not None else None
        if place is None or shard is None:
            return None
        try:
            return shard.read(place[1])
        except DamagedShard as error:
            self._drop(place[0], error)
            return None

    def _look(self) -> bool:
        """Open shards that have appeared since the last look; whether there were any."""
        try:
            changed = self.folder.stat().st_mtime_ns
        except OSError:
            return False
        if changed == self._looked:
            return False
        with self._lock:
            # before the names are read: one that appears meanwhile changes the folder's time again
            self._looked = changed
            new = [name for name in files.names(self.folder) if name not in self._shards]
            return any([self._open(name) for name in new if name not in self._unusable])

    def _open(self, name: str) -> bool:
        try:
            shard = Shard(self.folder / name)
        except DamagedShard as error:
            self._drop(name, error)
            return False
        self._shards[name] = shard
        for row, key in enumerate(shard.keys):
            self._rows.setdefault(key, (name, row))
        return True

    def _drop(self, name: str, error: DamagedShard) -> None:
        """Forget a shard, and remove it: what it held is computed anew."""
        with self._lock:
            if name in self._unusable:
                return
            self._unusable.add(name)
            shard = self._shards.pop(name, None)
            for key in shard.keys if shard is not None else ():
                if self._rows.get(key, ("", 0))[0] == name:
                    del self._rows[key]
        path = self.folder / name
        if isinstance(error, UnreadableShard):  # another process removed it, or a disk does not answer
            LOG.warning("%s is passed over (%s): its features are computed anew", path, error)
            return
        LOG.warning("%s is damaged (%s): it is removed, and its features are computed anew", path, error)
        try:
            path.unlink()
        except OSError:  # of a store that may only be read: it is passed over each time
            return
