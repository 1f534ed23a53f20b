"""The base of every container: a sized sequence of rows with random access; ``chat.py`` makes samples of its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""Field -> value as the container holds it: text, number, list, mapping, bytes or a :class:`~mmllm.types.Stored`."""


class Rows(ABC):
    """Rows of one data file or folder. Reading is safe from several threads; a damaged row raises SampleError.

    A container is opened without reading its rows; MmllmError where it is missing, empty or of another kind.
    """

    kind: str
    """What it is, for its users: ``JSON lines``."""
    folder: Path
    """Folder that relative paths of media start from, unless the recipe names one."""
    blocks: Sequence[int] | None = None
    """Sizes of stretches of rows that are cheap to read together, in order; None: every row costs the same."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def __getitem__(self, index: int) -> Row:
        """Row ``index`` of 0 .. len - 1; SampleError, without the row's name, where it cannot be read."""

    @abstractmethod
    def label(self, index: int) -> str:
        """What a user calls row ``index``: its line, file or key, ``train.jsonl:17``."""

    def digest(self) -> str:
        """SHA-256 (hex) of all that the rows are read from, media outside of it left out."""
        from mmllm.datasets.containers.digests import of_files

        return of_files(self.files())

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """Local files that hold the rows, in order."""
