"""The claims' tasks as benchmarks of mmllm: the questions of ``data`` asked and scored by ``mmllm.evaluation``."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks.claims.data import DATA
from benchmarks.claims.lessons_clips import CLIPS
from benchmarks.claims.lessons_graphs import GRAPHS
from benchmarks.claims.lessons_grounded import GROUNDED
from mmllm.evaluation.benchmarks.base import Question
from mmllm.evaluation.benchmarks.mini_grounding import MiniGrounding
from mmllm.evaluation.benchmarks.mini_scenes import MiniScenes
from mmllm.types import Message, Sample


class PictureTask(MiniScenes):
    """Questions about pictures, by exact match; reported under the task's name."""

    def __init__(self, *, task: str, split: str = "test", path: str = str(DATA)) -> None:
        self.name = task  # type: ignore[misc]
        super().__init__(path=f"{path}/{task}", split=split)


class ReadTask(PictureTask):
    """Questions about pictures whose answers may hold a box behind the word, which does not count."""

    def score(self, prediction: str, reference: Any) -> float:
        """Exact match of what stands in front of a box."""
        return super().score(prediction.partition("[")[0], reference)


class BoxTask(MiniGrounding):
    """Boxes in pictures, by IoU >= 0.5."""

    def __init__(self, *, task: str, split: str = "test", path: str = str(DATA)) -> None:
        self.name = task  # type: ignore[misc]
        super().__init__(path=f"{path}/{task}", split=split)


class TextTask(MiniScenes):
    """Questions without a picture, by exact match."""

    def __init__(self, *, task: str, split: str = "test", path: str = str(DATA)) -> None:
        self.name = task  # type: ignore[misc]
        super().__init__(path=f"{path}/{task}", split=split, prompt="{question}")

    def __getitem__(self, index: int) -> Question:
        """The question on one line of the file."""
        row = self._rows[index]
        sample = Sample(f"{self.name}:{row['id']}", (Message("user", row["question"]),), {})
        return Question(sample, row["question"], self.reference(row), row["kind"])


class PointsTask(PictureTask):
    """Questions about clouds of points."""

    modality: ClassVar[str] = "points"


class DocumentTask(PictureTask):
    """Questions about texts that are read as a modality."""

    modality: ClassVar[str] = "document"


class ClipTask(PictureTask):
    """Questions about clips."""

    modality: ClassVar[str] = "video"


class GraphTask(PictureTask):
    """Questions about graphs."""

    modality: ClassVar[str] = "graph"


class SoundTask(PictureTask):
    """Questions about sounds."""

    modality: ClassVar[str] = "audio"


SENSES = {
    "solids": "PointsTask",
    "facts": "DocumentTask",
    **dict.fromkeys(CLIPS, "ClipTask"),
    **dict.fromkeys(GRAPHS, "GraphTask"),
    "ways": "ClipTask",
    "heard": "SoundTask",
    "tones": "SoundTask",
}
"""Tasks that show something else than pictures -> how they are asked."""


def benchmark_of(task: str) -> str:
    """What the registry loads for a task: text tasks start with ``text``."""
    if task in SENSES:
        return f"benchmarks.claims.tasks:{SENSES[task]}"
    if task in GROUNDED:
        return f"benchmarks.claims.tasks:{'BoxTask' if task == 'read_boxes' else 'ReadTask'}"
    kind = "BoxTask" if task == "grounding" else "TextTask" if task.startswith("text") else "PictureTask"
    return f"benchmarks.claims.tasks:{kind}"
