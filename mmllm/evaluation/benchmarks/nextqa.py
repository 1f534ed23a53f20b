"""NExT-QA (Xiao et al. 2021, arXiv 2105.08276): why, when and what in longer clips, five options, by accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.datasets.clips import LETTER_ANSWER, clip, mapped
from mmllm.datasets.nextqa import MAP, number, options, read
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Question
from mmllm.evaluation.benchmarks.multiple_choice import MultipleChoice

KINDS = {
    "CW": "causal: why",
    "CH": "causal: how",
    "TN": "temporal: before and after",
    "TP": "temporal: before and after",
    "TC": "temporal: when",
    "DC": "descriptive: count",
    "DL": "descriptive: location",
    "DO": "descriptive: other",
}
"""Official types; TP is reported with TN, as the official script does."""


class NextQa(MultipleChoice):
    """NExT-QA multiple choice, accuracy: ``<split>.csv``, map_vid_vidorID.json and clips in ``path``/``videos``."""

    name: ClassVar[str] = "nextqa"
    fetch: ClassVar[str] = (
        "Fetch val.csv, test.csv and map_vid_vidorID.json of the multiple-choice task from github.com/doc-doc/NExT-QA "
        "and put them and the unpacked folder NExTVideo into the folder given as path."
    )

    def __init__(
        self,
        *,
        path: str = "data/nextqa",
        split: str = "val",
        videos: str = "NExTVideo",
        prompt: str = LETTER_ANSWER,
    ) -> None:
        super().__init__(prompt=prompt)
        self._file, self._map, self._videos = Path(path) / f"{split}.csv", Path(path) / MAP, Path(path) / videos
        self._rows = read(self.require(self._file))
        self._names = mapped(self.require(self._map))
        for row in self._rows:
            wrong = "a type" if row["type"] not in KINDS else "an answer" if number(row) is None else None
            wrong = wrong or (None if row["video"] in self._names else f"a video in {MAP}")
            if wrong:
                raise MmllmError(
                    f"{self.name}: question {row['video']}_{row['qid']} of {self._file} has not {wrong} that is known. "
                    f"{self.fetch}"
                )

    @property
    def files(self) -> Sequence[Path]:
        """Questions with their answers, and which file each video is."""
        return (self._file, self._map)

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question at an index; kind is "causal: why" and the like, so also reported under "causal"."""
        row = self._rows[index]
        right = number(row)
        assert right is not None
        media = {"video": (clip(self._videos, self._names[row["video"]]),)}
        identity = f"{row['video']}_{row['qid']}"
        return self.of_options(identity, row["question"], options(row), right, media, KINDS[row["type"]])
