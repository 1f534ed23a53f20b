"""ModelNet10/40: the class of an object from its mesh or points, answered in words, by exact match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.datasets.modelnet import files_of, words_of
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question

PROMPT = "<points>\n{question}"


class ModelNet(Benchmark):
    """Overall accuracy: share of objects whose class is named; ``kind`` is the class, so each is reported too.

    Reads ``path``/<class>/``split``/*.off, .ply, .xyz, .txt, .npy or .npz; ``words`` (class -> word) names answers
    other than the folders'.
    """

    name: ClassVar[str] = "modelnet"
    metric = "exact_match"
    variant = "vqa_normalised"
    fetch: ClassVar[str] = (
        "Fetch ModelNet10 or ModelNet40 from modelnet.cs.princeton.edu and give the folder of the classes as path: "
        "<class>/test/*.off belong in it."
    )

    def __init__(
        self,
        *,
        path: str = "data/modelnet40",
        split: str = "test",
        question: str = "What object is it?",
        words: Mapping[str, str] | None = None,
        prompt: str = PROMPT,
    ) -> None:
        super().__init__(prompt=prompt)
        self._asked = question
        try:
            self._rows = files_of(Path(path), split)
        except MmllmError as error:
            raise MmllmError(f"{self.name}: {error}. {self.fetch}") from error
        self._words = words_of({kind for kind, _ in self._rows}, words)

    @property
    def files(self) -> Sequence[Path]:
        """Every object's file: their names hold the reference."""
        return tuple(file for _, file in self._rows)

    def __len__(self) -> int:
        """Number of objects."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question about one object."""
        kind, file = self._rows[index]
        return self.question(f"{kind}/{file.name}", self._asked, {"points": (file,)}, (self._words[kind],), kind)
