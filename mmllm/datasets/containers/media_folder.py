"""Rows of folders in the hub's layout: media files and beside them ``metadata.jsonl``, ``.csv`` or ``.parquet``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmllm.datasets.containers.base import Row, Rows
from mmllm.datasets.containers.json_rows import unpacked
from mmllm.errors import SampleError
from mmllm.modalities import MODALITY_OF, modality_of

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Names of the file that says what the media show; a folder has one of them."""


class MediaFolder(Rows):
    """Media named by ``file_name`` (or ``KEY_file_name``, ``KEY_file_names``) of the metadata's rows."""

    kind = "a folder of media with metadata"

    def __init__(self, metadata: Path, open_rows: Callable[[Path], Rows]) -> None:
        self._rows = open_rows(metadata)
        self.folder = metadata.parent
        self.blocks = self._rows.blocks

    def __len__(self) -> int:
        """Return the number of the metadata's rows."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        """Return a row with its media under their modality or key."""
        row: dict[str, Any] = {}
        media: dict[str, Any] = {}
        for name, value in self._rows[index].items():
            key = name.removesuffix("s").removesuffix("file_name").removesuffix("_")
            if not name.removesuffix("s").endswith("file_name"):
                row[name] = value
            elif value:
                media[key or _modality(value)] = value
        twice = next((key for key in media if row.get(key) or row.get(f"{key}s")), None)
        if twice is not None:
            raise SampleError(f"a file name and a field of its own both hold {twice}; keep one")
        return {**row, **media}

    def label(self, index: int) -> str:
        """Return the metadata's name for the row."""
        return self._rows.label(index)

    def files(self) -> Sequence[Path]:
        """Return the metadata's files."""
        return self._rows.files()


def _modality(value: Any) -> str:
    value = unpacked(value)
    first = value[0] if isinstance(value, list) and value else value
    modality = modality_of(str(first))
    if modality is None:
        raise SampleError(f"file_name is {str(first)[:80]!r}, of no known ending; known: {', '.join(MODALITY_OF)}")
    return modality
