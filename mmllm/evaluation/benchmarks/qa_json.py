"""Your own questions: a JSON file, a metric by its name, no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question
from mmllm.evaluation.metrics.table import METRICS
from mmllm.modalities import MODALITIES


class QaJson(Benchmark):
    """Questions of a JSON file (a list, or one object a line) and a metric by name.

    A row is ``{"question": "...", "answer": "..." or ["...", ...], "image": "a.png" or [...]}``; the media's field is
    their placeholder (``image``, ``video``, ...), paths are relative to the file; ``id`` and ``kind`` may be there.
    """

    name: ClassVar[str] = "qa_json"
    fetch: ClassVar[str] = 'A row is {"question": "...", "answer": "...", "image": "a.png"}, paths beside the file.'

    def __init__(self, *, path: str, metric: str = "exact_match", prompt: str | None = None, variant: str = "") -> None:
        """Read the file.

        Args:
            path: of the JSON or JSON-lines file, or of a folder that holds it as questions.json.
            metric: exact_match, anls, relaxed_accuracy or vqa_accuracy.
            prompt: the user's turn, with ``{question}`` and the placeholders; without one, a placeholder for each item
                of a row stands in front of the question.
            variant: of the metric, where it has several.
        """
        if metric not in METRICS:
            raise MmllmError(f"{self.name}: the metric {metric!r} is unknown; known: {', '.join(METRICS)}.")
        self.metric = metric
        super().__init__(prompt="{question}" if prompt is None else prompt, variant=variant)
        self._bare = prompt is None
        self.path = Path(path) / "questions.json" if Path(path).is_dir() else Path(path)
        self._rows = self.rows(self._content(), self.path, None, ("question",))

    def _content(self) -> Any:
        if not self.path.is_file():
            raise MmllmError(f"{self.name} needs the file {self.path}, which is missing. {self.fetch}")
        text = self.path.read_text(encoding="utf-8")
        try:
            if text.lstrip().startswith("["):
                return json.loads(text)
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise MmllmError(f"{self.name}: {self.path} is not JSON ({error}). {self.fetch}") from error

    @property
    def files(self) -> Sequence[Path]:
        """The one file."""
        return (self.path,)

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question of a row; MmllmError where it has no answer, or a file of its media is missing."""
        row = self._rows[index]
        found = row["answers"] if "answers" in row else row.get("answer")
        answers = found if isinstance(found, list) else [found]
        if not answers or not all(isinstance(one, str | int | float) for one in answers):
            what = f"row {index + 1} of {self.path} has the answer {found!r}"
            raise MmllmError(f"{self.name}: {what}; it is a text, a number or a list of them.")
        media = {key: self._items(row[key]) for key in row if key in MODALITIES or f"<{key}>" in self.prompt}
        identity = row.get("id", index + 1)
        return self.question(identity, row["question"], media, tuple(map(str, answers)), str(row.get("kind", "")))

    def _items(self, value: Any) -> tuple[Path, ...]:
        return tuple(self.path.parent / one for one in (value if isinstance(value, list) else [value]))

    def turn(self, text: str, media: Mapping[str, Sequence[Any]]) -> str:
        """The prompt with the question; without a prompt of its own, the placeholders in front of it."""
        front = [f"<{key}>" for key, items in media.items() for _ in items] if self._bare else []
        return "\n".join([*front, super().turn(text, media)])
