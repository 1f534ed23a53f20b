"""VQAv2 (Goyal et al. 2017, arXiv 1612.00837): open questions about COCO pictures, ten annotators each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import SHORT_ANSWER, Question
from mmllm.evaluation.benchmarks.published.base import Published
from mmllm.evaluation.benchmarks.published.tables import VqaV2Tables
from mmllm.evaluation.benchmarks.published.two_forms import TwoForms
from mmllm.evaluation.metrics.vqa import VARIANTS
from mmllm.evaluation.references import texts_of


class VqaV2(TwoForms):
    """VQAv2, ten annotators, VQA accuracy: official questions, annotations and COCO pictures, or the hub's Parquet."""

    name: ClassVar[str] = "vqav2"
    metric = "vqa_accuracy"
    hub: ClassVar[type[Published]] = VqaV2Tables
    fetch: ClassVar[str] = (
        "Fetch v2_Questions_Val_mscoco.zip and v2_Annotations_Val_mscoco.zip from visualqa.org/download.html and "
        "val2014.zip from cocodataset.org, and unpack all three into the folder given as path."
    )

    def __init__(
        self,
        *,
        path: str = "data/vqav2",
        split: str = "val2014",
        prompt: str = SHORT_ANSWER,
        variant: str = "vqa_official_2021",
    ) -> None:
        super().__init__(prompt=prompt, variant=variant, variants=VARIANTS)
        self.path, self.split = Path(path), split
        questions, annotations = self.official_files
        if self.open_tables(path, questions, None if split == "val2014" else split):
            return
        fields = ("question_id", "image_id", "question")
        self._rows = self.rows(self.read_json(questions), questions, "questions", fields)
        answered = self.rows(
            self.read_json(annotations),
            annotations,
            "annotations",
            ("question_id", "answers", "answer_type"),
            "answers",
        )
        self._annotations = {row["question_id"]: row for row in answered}
        missing = [row["question_id"] for row in self._rows if row["question_id"] not in self._annotations]
        if missing:
            raise MmllmError(f"{self.name}: {annotations} has no answers to question {missing[0]}. {self.fetch}")
        self.require(self.path / split)

    @property
    def official_files(self) -> Sequence[Path]:
        """Questions and annotations, under their official names."""
        return (
            self.path / f"v2_OpenEnded_mscoco_{self.split}_questions.json",
            self.path / f"v2_mscoco_{self.split}_annotations.json",
        )

    @property
    def official_count(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def official(self, index: int) -> Question:
        """The question at an index of the questions file, with its annotators' answers; kind is the answer type."""
        row = self._rows[index]
        annotation = self._annotations[row["question_id"]]
        picture = self.path / self.split / f"COCO_{self.split}_{row['image_id']:012d}.jpg"
        answers = texts_of(annotation["answers"])
        return self.question(row["question_id"], row["question"], picture, answers, annotation["answer_type"])
