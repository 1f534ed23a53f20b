"""ChartQA (Masry et al. 2022, arXiv 2203.10244): questions about charts, human and augmented, by relaxed accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.evaluation.benchmarks.base import SHORT_ANSWER, Question
from mmllm.evaluation.benchmarks.published.base import Published
from mmllm.evaluation.benchmarks.published.tables import ChartQaTables
from mmllm.evaluation.benchmarks.published.two_forms import TwoForms
from mmllm.evaluation.references import texts_of

PARTS = ("human", "augmented")


class ChartQa(TwoForms):
    """ChartQA, relaxed accuracy: ``test_human.json``, ``test_augmented.json`` and ``png/`` in ``<path>/test/``.

    ``parts`` names which of the two files to ask.

    Rows are ``imgname, query, label`` as published, or ``image, question, label`` as in a common repackaging. The
    Parquet files of the hub are read too, both parts of them.
    """

    name: ClassVar[str] = "chartqa"
    metric = "relaxed_accuracy"
    hub: ClassVar[type[Published]] = ChartQaTables
    fetch: ClassVar[str] = (
        "Fetch ChartQA Dataset from github.com/vis-nlp/ChartQA and give that folder as path: test/test_human.json, "
        "test/test_augmented.json and test/png/ belong in it (parts: [augmented] asks only one of the two)."
    )

    def __init__(
        self,
        *,
        path: str = "data/chartqa",
        split: str = "test",
        parts: Sequence[str] = PARTS,
        prompt: str = SHORT_ANSWER,
    ) -> None:
        super().__init__(prompt=prompt)
        self._folder, self.split, self.parts = Path(path) / split, split, tuple(parts)
        if tuple(parts) == PARTS and self.open_tables(path, self._folder, None if split == "test" else split):
            return
        found = zip(self.parts, self.official_files, strict=True)
        self._rows = [row for part, file in found for row in self._read(part, file)]
        self.require(self._folder / "png")

    def _read(self, part: str, file: Path) -> list[tuple[str, str, str, tuple[str, ...], str]]:
        content = self.read_json(file)
        official = isinstance(content, list) and bool(content) and "imgname" in content[0]
        image, question = ("imgname", "query") if official else ("image", "question")
        rows = self.rows(content, file, None, (image, question, "label"), "label")
        return [(f"{part}/{n}", row[question], row[image], texts_of(row["label"]), part) for n, row in enumerate(rows)]

    @property
    def official_files(self) -> Sequence[Path]:
        """The questions of each part, under their official names."""
        return tuple(self._folder / f"{self.split}_{part}.json" for part in self.parts)

    @property
    def official_count(self) -> int:
        """Number of questions in all parts."""
        return len(self._rows)

    def official(self, index: int) -> Question:
        """The question at an index, the parts one after another; kind is the part."""
        identity, text, image, labels, part = self._rows[index]
        return self.question(identity, text, self._folder / "png" / image, labels, part)
