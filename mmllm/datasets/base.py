"""The base of every dataset reader: a sized sequence of samples; mixtures draw from it and loaders encode its items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

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

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample ``index`` of 0 .. len - 1; IndexError beyond, SampleError if it cannot be used."""
