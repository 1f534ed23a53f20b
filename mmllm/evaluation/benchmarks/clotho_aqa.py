"""Clotho-AQA (Lipping et al. 2022, arXiv 2204.09634): questions about everyday sound, yes/no or one word."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question

PROMPT = "<audio>\n{question}\nAnswer the question using a single word or phrase."
VARIANTS = ("majority", "unanimous", "every_answer")
COLUMNS = ("file_name", "QuestionText", "answer")


@dataclass(frozen=True)
class Row:
    """One question about one sound with the answers to be met."""

    number: int
    file: str
    question: str
    answers: tuple[str, ...]


class ClothoAqa(Benchmark):
    """Clotho-AQA: reads ``path``/clotho_aqa_{split}.csv and ``path``/audio_files/*.wav, as published.

    Each question was answered by three people. ``variant`` says what counts, as in the paper: ``majority`` (default),
    an answer that most of them gave; ``unanimous``, only questions on which all agree are asked;
    ``every_answer``, each person's answer is a question of its own, contradictory or not.
    Yes/no questions and others are also reported by themselves.
    """

    name: ClassVar[str] = "clotho_aqa"
    metric = "exact_match"
    fetch: ClassVar[str] = (
        "Fetch clotho_aqa_test.csv and audio_files.zip from zenodo.org/records/6473207 and give their folder as path: "
        "the csv and audio_files/ belong in it."
    )

    def __init__(
        self,
        *,
        path: str = "data/clotho_aqa",
        split: str = "test",
        variant: str = "majority",
        prompt: str = PROMPT,
    ) -> None:
        super().__init__(prompt=prompt, variant=variant, variants=VARIANTS)
        self._folder, self._split = Path(path), split
        self._rows = self._varied(self._read())

    @property
    def files(self) -> Sequence[Path]:
        """The one file of questions."""
        return (self._folder / f"clotho_aqa_{self._split}.csv",)

    def _read(self) -> list[Row]:
        """Each person's answer to each question."""
        path = self.require(self.files[0])
        # a byte-order mark would become a part of the first column's name
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
        found = []
        for number, line in enumerate(lines, 1):
            values = [(line.get(column) or "").strip() for column in COLUMNS]
            if not all(values):
                missing = ", ".join(c for c, v in zip(COLUMNS, values, strict=True) if not v)
                raise MmllmError(f"{self.name}: row {number} of {path} has no {missing}. {self.fetch}")
            found.append(Row(number, values[0], values[1], (values[2].lower(),)))
        if not found:
            raise MmllmError(f"{self.name}: {path} holds no questions. {self.fetch}")
        return found

    def _varied(self, rows: Sequence[Row]) -> list[Row]:
        """Answers of one question together, as the variant wants them."""
        if self.variant == "every_answer":
            return list(rows)
        asked: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            asked.setdefault((row.file, row.question), []).append(row)
        together = []
        for (file, question), people in asked.items():
            counts = Counter(person.answers[0] for person in people)
            if self.variant == "unanimous" and len(counts) > 1:
                continue
            most = max(counts.values())
            answers = tuple(answer for answer, count in counts.items() if count == most)
            together.append(Row(people[0].number, file, question, answers))
        return together

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question at an index, named after its row in the file."""
        row = self._rows[index]
        kind = "yes/no" if set(row.answers) <= {"yes", "no"} else "word"
        sound = self._folder / "audio_files" / row.file
        return self.question(row.number, row.question, {"audio": (sound,)}, row.answers, kind)
