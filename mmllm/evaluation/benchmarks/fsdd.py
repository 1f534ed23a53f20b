"""Free Spoken Digits (github.com/Jakobovski/free-spoken-digit-dataset): which digit is spoken, by exact match."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.datasets.fsdd import QUESTION, TEST_TAKES, chosen, recordings
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question

PROMPT = "<audio>\n{question}"


class Fsdd(Benchmark):
    """Free Spoken Digit, exact match: reads ``path``/recordings/{digit}_{speaker}_{take}.wav.

    ``takes`` are the official test part 0..4 unless given, ``speakers`` all unless given. Also reported by speaker.
    """

    name: ClassVar[str] = "fsdd"
    metric = "exact_match"
    variant = "vqa_normalised"
    fetch: ClassVar[str] = (
        "Fetch github.com/Jakobovski/free-spoken-digit-dataset and give its folder as path: recordings/*.wav belong "
        "in it."
    )

    def __init__(
        self,
        *,
        path: str = "data/fsdd",
        takes: Sequence[int] | None = None,
        speakers: Sequence[str] | None = None,
        question: str = QUESTION,
        prompt: str = PROMPT,
    ) -> None:
        super().__init__(prompt=prompt)
        self._asked = question
        try:
            found = recordings(Path(path))
            test = [take for take in TEST_TAKES if take in {one.take for one in found}]
            self._rows = chosen(found, test if takes is None else takes, speakers)
        except MmllmError as error:
            raise MmllmError(f"{self.name}: {error}. {self.fetch}") from error

    @property
    def files(self) -> Sequence[Path]:
        """Every recording: their names hold the reference."""
        return tuple(row.file for row in self._rows)

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question about one recording."""
        row = self._rows[index]
        return self.question(row.file.stem, self._asked, {"audio": (row.file,)}, (str(row.digit),), row.speaker)
