"""Digests of what media items are made of, so that a changed picture is another item whatever it is called.

A file whose inode, size and times of change are those of a file that was hashed before is not read again. Neither
``touch`` nor a copy can set the time of change (ctime), and a file that changed just before it was hashed is never
remembered: it could change again within the same tick of the clock.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch
from safetensors import SafetensorError, safe_open

from mmllm.errors import MediaError
from mmllm.features import files
from mmllm.processors.content import Content

TICK = 2_000_000_000
"""Nanoseconds that a file must have been left alone before its times say that it is the same."""
STAT = 16
"""Bytes of a digest of a file's path, inode, size and times."""


@dataclass(frozen=True)
class Seen:
    """The digest of a content, and the files as they were when it was taken."""

    key: bytes
    """32 bytes."""
    stats: tuple[bytes, ...]


class ContentDigests:
    """Digests of contents; those of files are remembered in a folder that several processes may fill at once."""

    def __init__(self, folder: Path | None, *, verify: bool = False) -> None:
        """``folder``: None for no memory; ``verify``: hash every file anew in this process."""
        self._folder = folder
        self._lock = Lock()
        self._known: dict[bytes, bytes] = {}
        self._new: dict[bytes, bytes] = {}
        if folder is not None:
            files.remove_left_over(folder)
        if folder is not None and not verify:
            for name in files.names(folder):
                self._known.update(_read(folder / name))

    def known(self, content: Content) -> bytes | None:
        """Its key where that needs no file to be read; None where it does."""
        found = []
        for file in content.files:
            stat = _stat(file)
            if stat is None or (digest := self._known.get(stat[0])) is None:
                return None
            found.append(digest)
        return _key(content, found)

    def of(self, content: Content) -> Seen:
        """Its key; MediaError where a file cannot be read or changes meanwhile."""
        found, stats = [], []
        for file in content.files:
            digest, stat = self._of_file(file)
            found.append(digest)
            stats.append(stat)
        return Seen(_key(content, found), tuple(stats))

    def unchanged(self, content: Content, seen: Seen) -> bool:
        """Whether its files still are what they were; those that changed just before are hashed again."""
        for file, before in zip(content.files, seen.stats, strict=True):
            stat = _stat(file)
            if stat is None or stat[0] != before:
                return False
            if stat[1]:  # its times may hide another change
                return self.of(content).key == seen.key
        return True

    def commit(self) -> None:
        """Write down what was hashed since the last time; MmllmError where the disk is full."""
        with self._lock:
            new, self._new = self._new, {}
        if self._folder is None or not new:
            return
        rows = torch.frombuffer(bytearray(b"".join(stat + digest for stat, digest in new.items())), dtype=torch.uint8)
        table = rows.view(len(new), -1)
        files.write(self._folder, {"files": table}, {"digest": _table_digest(table)})

    def _of_file(self, file: Path) -> tuple[bytes, bytes]:
        """(sha256, digest of its times and size) of a file."""
        for _ in range(3):
            before = _stat(file)
            if before is None:
                raise MediaError(f"{file} cannot be read")
            known = self._known.get(before[0])
            if known is not None:
                return known, before[0]
            digest = _hashed(file)
            after = _stat(file)
            if after is not None and after[0] == before[0]:
                if not after[1]:
                    with self._lock:
                        self._known[after[0]] = self._new[after[0]] = digest
                return digest, after[0]
        raise MediaError(f"{file} changes while it is read")


def _key(content: Content, digests: list[bytes]) -> bytes:
    """32 bytes of words, files and data; a file and its bytes give the same."""
    total = hashlib.sha256(content.words.encode("utf-8", "surrogatepass"))
    parts = digests if content.files else [hashlib.sha256(content.data).digest()]
    for part in parts:
        total.update(part)
    return total.digest()


def _stat(file: Path) -> tuple[bytes, bool] | None:
    """(digest of path, inode, size and times, whether it changed just now); None where there is no file."""
    try:
        stat = file.stat()
    except OSError:
        return None
    changed = max(stat.st_mtime_ns, stat.st_ctime_ns)
    words = (os.path.abspath(file), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    digest = hashlib.sha256(repr(words).encode("utf-8", "surrogateescape")).digest()[:STAT]
    return digest, time.time_ns() - changed < TICK


def _hashed(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
        raise MediaError(f"{file} cannot be read ({error.strerror})") from error


def _read(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """What a file remembers; nothing where it is damaged: then files are hashed again."""
    try:
        with safe_open(path, "pt") as opened:
            table = opened.get_tensor("files")
            if (opened.metadata() or {}).get("digest") != _table_digest(table):
                return
    except (SafetensorError, OSError):
        return
    for row in table.numpy():
        yield bytes(row[:STAT]), bytes(row[STAT:])


def _table_digest(table: torch.Tensor) -> str:
    return hashlib.sha256(table.numpy().tobytes()).hexdigest()
