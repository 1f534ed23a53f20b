"""The base of every dataset reader: a sized sequence of samples; mixtures draw from it and loaders encode its items."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmllm.errors import SampleError
from mmllm.types import Sample


class Dataset(ABC):
    """One dataset. A subclass takes flat keyword arguments from the recipe and raises MmllmError if files are missing.

    Reading an item must be safe from several threads and must not decode media (an item is a path, bytes or a PIL
    image). A sample that cannot be read raises SampleError: the stage counts, names and skips it.
    """

    name: str
    """Origin of the samples, as the user knows it; the first half of every ``Sample.name``."""
    summary: str | None = None
    """What was found, for the start of a stage: ``3,120 rows, LLaVA conversations``. None: the number of samples."""
    blocks: Sequence[int] | None = None
    """Sizes of stretches of samples that are cheap to read together, in order; None: any order is as good."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    def digest(self) -> str:
        """SHA-256 (hex) of its samples' texts and the names of their media, in order: whether it is still the same.

        A dataset of many rows had better hash its files instead.
        """
        total = hashlib.sha256()
        for index in range(len(self)):
            try:
                sample = self[index]
                said = [[message.role, message.text] for message in sample.messages]
                shown = {key: [_named(item) for item in items] for key, items in sample.media.items()}
            except SampleError as error:
                said, shown = [["error", type(error).__name__]], {}
            total.update(json.dumps([said, shown]).encode())
        return total.hexdigest()

    @property
    def files(self) -> Sequence[Path]:
        """Local files whose contents decide the digest; none: it is taken anew at every start."""
        return ()

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample ``index`` of 0 .. len - 1; IndexError beyond, SampleError if it cannot be used."""


def _named(item: Any) -> str:
    """A path by its last name, so that a folder may move; bytes by their digest."""
    if isinstance(item, bytes):
        return hashlib.sha256(item).hexdigest()
    return Path(item).name if isinstance(item, str | Path) else type(item).__name__
