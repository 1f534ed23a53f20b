"""TextVQA (Singh et al. 2019, arXiv 1904.08920): questions about text in Open Images pictures, ten annotators each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.evaluation.benchmarks.base import SHORT_ANSWER, Question
from mmllm.evaluation.benchmarks.published.base import Published
from mmllm.evaluation.benchmarks.published.tables import TextVqaTables
from mmllm.evaluation.benchmarks.published.two_forms import TwoForms
from mmllm.evaluation.metrics.vqa import VARIANTS
from mmllm.evaluation.references import texts_of


class TextVqa(TwoForms):
    """TextVQA, ten annotators, VQA accuracy: ``TextVQA_0.5.1_val.json`` and ``train_images/``, or the hub's Parquet."""

    name: ClassVar[str] = "textvqa"
    metric = "vqa_accuracy"
    hub: ClassVar[type[Published]] = TextVqaTables
    fetch: ClassVar[str] = (
        "Fetch TextVQA_0.5.1_val.json and train_val_images.zip from textvqa.org/dataset and put the file and the "
        "unpacked folder train_images into the folder given as path."
    )

    def __init__(
        self,
        *,
        path: str = "data/textvqa",
        split: str = "val",
        prompt: str = SHORT_ANSWER,
        variant: str = "textvqa_mmf",
    ) -> None:
        super().__init__(prompt=prompt, variant=variant, variants=VARIANTS)
        self.path, self.split = Path(path), split
        (file,) = self.official_files
        if self.open_tables(path, file, None if split == "val" else split):
            return
        fields = ("question_id", "image_id", "question", "answers")
        self._rows = self.rows(self.read_json(file), file, "data", fields, "answers")
        self.require(self.path / "train_images")

    @property
    def official_files(self) -> Sequence[Path]:
        """Questions and answers, under their official name."""
        return (self.path / f"TextVQA_0.5.1_{self.split}.json",)

    @property
    def official_count(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def official(self, index: int) -> Question:
        """The question at an index of the file, with its annotators' answers."""
        row = self._rows[index]
        picture = self.path / "train_images" / f"{row['image_id']}.jpg"
        answers = texts_of(row["answers"])
        return self.question(row["question_id"], row["question"], picture, answers)
