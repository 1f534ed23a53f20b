"""easy-VQA (github.com/vzhou842/easy-VQA): questions about one large shape, 13 answers, by exact match."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import CATEGORY_SEPARATOR, QUESTION_ONLY, Benchmark, Question
from mmllm.evaluation.references import texts_of

SHAPES = frozenset({"circle", "rectangle", "triangle"})


class EasyVqa(Benchmark):
    """easy-VQA, 13 answers, exact match: reads ``<path>/test/questions.json`` and ``<path>/test/images/<id>.png``.

    Also reported by kind: colour, shape, yes/no, and of yes/no the plain and the negated questions.
    """

    name: ClassVar[str] = "easy_vqa"
    metric = "exact_match"
    variant = "vqa_normalised"
    fetch: ClassVar[str] = (
        "Fetch the folder data/ of github.com/vzhou842/easy-VQA and give it as path: "
        "test/questions.json and test/images/ belong in it."
    )

    def __init__(self, *, path: str = "data/easy_vqa", split: str = "test", prompt: str = QUESTION_ONLY) -> None:
        super().__init__(prompt=prompt)
        self._folder = Path(path) / split
        self._rows = self._checked(self.read_json(self._file))

    def _checked(self, content: Any) -> list[Any]:
        rows = content if isinstance(content, list) else []
        if not rows or not all(isinstance(row, list) and len(row) == 3 for row in rows):
            raise MmllmError(f"{self.name}: {self._file} is not a list of [question, answer, image id]. {self.fetch}")
        for number, row in enumerate(rows):
            self.answers(row[1], f"entry {number} of {self._file}")
        return rows

    @property
    def _file(self) -> Path:
        return self._folder / "questions.json"

    @property
    def files(self) -> Sequence[Path]:
        """The one file of questions."""
        return (self._file,)

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question at an index of the file."""
        text, answer, image = self._rows[index]
        answers = texts_of(answer)
        return self.question(index, text, self._folder / "images" / f"{image}.png", answers, kind_of(text, answers))


def kind_of(text: str, answers: Sequence[str]) -> str:
    """What is asked for; of yes and no also whether the question is negated, as its words alone then give most away."""
    if set(answers) <= {"yes", "no"}:
        negated = bool({"no", "not"} & set(text.split()))
        return f"yes/no{CATEGORY_SEPARATOR}{'negated' if negated else 'plain'}"
    return "shape" if set(answers) <= SHAPES else "colour"
