"""DocVQA (Mathew et al. 2021, arXiv 2007.00398): questions about scanned industry documents, by ANLS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.evaluation.benchmarks.base import SHORT_ANSWER, Question
from mmllm.evaluation.benchmarks.published.base import Published
from mmllm.evaluation.benchmarks.published.tables import DocVqaTables
from mmllm.evaluation.benchmarks.published.two_forms import TwoForms
from mmllm.evaluation.metrics.text import ANLS_VARIANTS
from mmllm.evaluation.references import texts_of


class DocVqa(TwoForms):
    """DocVQA, one page, ANLS: ``val_v1.0_withQT.json`` (or ``val_v1.0.json``), ``documents/``; or the hub's Parquet."""

    name: ClassVar[str] = "docvqa"
    metric = "anls"
    hub: ClassVar[type[Published]] = DocVqaTables
    fetch: ClassVar[str] = (
        "Fetch the annotations and the images of Task 1 (Single Page Document VQA) from rrc.cvc.uab.es/?ch=17 and put "
        "val_v1.0_withQT.json and the folder documents into the folder given as path."
    )

    def __init__(
        self, *, path: str = "data/docvqa", split: str = "val", prompt: str = SHORT_ANSWER, variant: str = "strict"
    ) -> None:
        super().__init__(prompt=prompt, variant=variant, variants=ANLS_VARIANTS)
        self.path = Path(path)
        newer, older = self.path / f"{split}_v1.0_withQT.json", self.path / f"{split}_v1.0.json"
        self._file = older if older.is_file() and not newer.is_file() else newer
        if self.open_tables(path, self._file, None if split == "val" else split):
            return
        fields = ("questionId", "question", "image", "answers")
        self._rows = self.rows(self.read_json(self._file), self._file, "data", fields, "answers")
        self.require(self.path / "documents")

    @property
    def official_files(self) -> Sequence[Path]:
        """Questions and answers, under the official name that was found."""
        return (self._file,)

    @property
    def official_count(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def official(self, index: int) -> Question:
        """The question at an index of the file; kind is the first of its question types, where the file has them."""
        row = self._rows[index]
        answers = texts_of(row["answers"])
        kind = (row.get("question_types") or [""])[0]
        return self.question(row["questionId"], row["question"], self.path / row["image"], answers, kind)
