"""Rows of LibriSpeech as it is published: ``<speaker>/<chapter>/<speaker>-<chapter>.trans.txt`` beside FLAC files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmllm.datasets.containers.base import Row, Rows
from mmllm.errors import MmllmError


class Transcripts(Rows):
    """A row is a line ``ID TEXT`` of a transcript; its sound lies beside the file as ``ID.flac``."""

    kind = "transcripts of LibriSpeech"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = sorted(folder.glob("*/*/*.trans.txt"))
        if not self._files:
            raise MmllmError(f"{folder} has no <speaker>/<chapter>/*.trans.txt")
        self._lines: list[tuple[Path, int, str, str]] = []
        for file in self._files:
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                name, _, text = line.strip().partition(" ")
                if name and not text:
                    raise MmllmError(f"{file}, line {number}: it is no id and text: {line!r}")
                if name:
                    self._lines.append((file, number, name, text))

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self._lines)

    def __getitem__(self, index: int) -> Row:
        """Return an utterance in the columns of the hub's form."""
        file, _, name, text = self._lines[index]
        return {"id": name, "text": text, "audio": str(file.parent / f"{name}.flac")}

    def label(self, index: int) -> str:
        """Return the file and the number of the line."""
        return f"{self._lines[index][0]}:{self._lines[index][1]}"

    def files(self) -> Sequence[Path]:
        """Return the transcripts."""
        return self._files
