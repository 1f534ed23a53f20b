"""The form shared by the miniature benchmarks: ``<path>/<split>/<name>.jsonl``, one question a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question
from mmllm.evaluation.references import texts_of


class Mini(Benchmark):
    """Questions about the miniature world; lines are ``{"id", "image", "question", "answers", "kind"}``.

    ``image`` is relative to the file, and is the name of the subclass's ``modality``; a graph's may end in ``#17``, the
    node it is about. The miniature world is drawn from a seed by ``mmllm demo``.
    """

    modality: ClassVar[str] = "image"
    """The field of a line that holds its media, their placeholder and the encoder's name in a recipe."""

    fetch: ClassVar[str] = (
        "`mmllm demo` draws the miniature world from its seed; or give a folder that holds one as path."
    )

    def __init__(self, *, path: str = "data/mini/world", split: str = "test", prompt: str | None = None) -> None:
        """Without a prompt, the media and below them the question."""
        super().__init__(prompt=f"<{self.modality}>\n{{question}}" if prompt is None else prompt)
        self.path, self.split = Path(path), split
        self._rows = self._read(self._file)

    @property
    def _file(self) -> Path:
        return self.path / self.split / f"{self.name}.jsonl"

    @property
    def files(self) -> Sequence[Path]:
        """The one file of questions."""
        return (self._file,)

    def _read(self, file: Path) -> list[Mapping[str, Any]]:
        lines = self.require(file).read_text(encoding="utf-8").splitlines()
        try:
            content = [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            raise MmllmError(f"{self.name}: {file} has a line that is not JSON ({error}). {self.fetch}") from error
        return self.rows(content, file, None, ("id", self.modality, "question", "answers"), "answers")

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question on one line of the file."""
        row = self._rows[index]
        media = {self.modality: (self._file.parent / row[self.modality],)}
        return self.question(row["id"], row["question"], media, self.reference(row), row.get("kind", ""))

    def reference(self, row: Mapping[str, Any]) -> Any:
        """The accepted answers of one line."""
        return texts_of(row["answers"])
