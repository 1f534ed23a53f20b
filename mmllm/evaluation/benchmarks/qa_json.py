"""Your own questions: a JSON file, a metric by its name, no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question
from mmllm.evaluation.metrics.table import METRIC_VARIANTS, METRICS
from mmllm.messages.placeholders import escape
from mmllm.modalities import MODALITIES

FIELDS = ("question", "answer", "answers", "id", "kind")
"""Fields of a row that are no media."""


class QaJson(Benchmark):
    """Questions of a JSON file (a list, or one object a line) and a metric by name.

    A row is ``{"question": "...", "answer": "..." or ["...", ...], "image": "a.png" or [...]}``; ``answers`` means the
    same as ``answer``. The media's field is their modality or a placeholder of the prompt, paths are relative to the
    file; ``id`` and ``kind`` may be there. Any other field is refused: a misspelt one would leave its picture out.
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
        if variant and variant not in METRIC_VARIANTS.get(metric, ()):
            known = ", ".join(METRIC_VARIANTS.get(metric, ())) or "none"
            raise MmllmError(f"{self.name}: {metric} has no variant {variant!r}; its variants: {known}.")
        self.metric = metric
        super().__init__(prompt="{question}" if prompt is None else prompt, variant=variant)
        self._bare = prompt is None
        self.path = Path(path) / "questions.json" if Path(path).is_dir() else Path(path)
        self._rows = self.rows(self._content(), self.path, None, ("question",))
        # all of them here: an evaluation must not end hours later at a row that nobody can score
        for number, row in enumerate(self._rows, 1):
            self._check(row, f"{self.name}: row {number} of {self.path}")

    def _content(self) -> Any:
        if not self.path.is_file():
            raise MmllmError(f"{self.name} needs the file {self.path}, which is missing. {self.fetch}")
        text = self.path.read_text(encoding="utf-8")
        try:
            if text.lstrip().startswith("["):
                return json.loads(text)
            # not splitlines: JSON strings may hold other line separators as they are
            return [json.loads(line) for line in text.split("\n") if line.strip()]
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
        """The question of a row; MmllmError where a file of its media is missing."""
        row = self._rows[index]
        media = {
            key: tuple(self.path.parent / one for one in _listed(value))
            for key, value in row.items()
            if self._holds_media(key)
        }
        answers = tuple(map(str, _listed(row.get("answers", row.get("answer")))))
        return self.question(row.get("id", index + 1), row["question"], media, answers, str(row.get("kind", "")))

    def _check(self, row: Mapping[str, Any], where: str) -> None:
        unknown = [key for key in row if key not in FIELDS and not self._holds_media(key)]
        if unknown:
            known = ", ".join((*FIELDS, *MODALITIES))
            raise MmllmError(
                f"{where} has the unknown field {unknown[0]!r}; known: {known}, and the placeholders of the prompt."
            )
        if "answer" in row and "answers" in row:
            raise MmllmError(f"{where} has both answer and answers; keep one.")
        found = row.get("answers", row.get("answer"))
        answers = _listed(found)
        if not answers or not all(isinstance(one, str | int | float) for one in answers):
            raise MmllmError(f"{where} has the answer {found!r}; it is a text, a number or a list of them.")
        # the metric leaves each annotator out in turn and asks for three others who agree: with fewer it is never 1
        if self.metric == "vqa_accuracy" and len(answers) < 4:
            raise MmllmError(
                f"{where} has {len(answers)} answers; vqa_accuracy compares annotators and needs 4 or more (VQA has "
                "10): exact_match is the metric for fewer."
            )
        for key, value in row.items():
            if self._holds_media(key) and not all(isinstance(one, str) for one in _listed(value)):
                raise MmllmError(f"{where} has {value!r} as {key}; it is a path or a list of paths.")

    def _holds_media(self, key: str) -> bool:
        return key not in FIELDS and (key in MODALITIES or f"<{key}>" in self.prompt)

    def turn(self, text: str, media: Mapping[str, Sequence[Any]]) -> str:
        """The prompt with the question; without a prompt of its own, the placeholders in front of it."""
        if not self._bare:
            return super().turn(text, media)
        return "\n".join([*(f"<{key}>" for key, items in media.items() for _ in items), escape(text, media)])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
