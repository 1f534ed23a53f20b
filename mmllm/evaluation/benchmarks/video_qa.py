"""The form shared by MSVD-QA and MSRVTT-QA: open questions about clips with one-word answers, by exact match.

In the original papers an answer is one of the 1,000 most frequent of the training set and right where it equals the
reference; a language model writes freely, so both are compared after the official VQA normalisation. Scoring by a GPT
judge, as Video-ChatGPT introduced it for these sets, is not offered: its numbers change with the judge and cannot be
compared with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.datasets.clips import clip, mapped
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question
from mmllm.evaluation.references import texts_of

KINDS = ("what", "who", "how", "when", "where")


class VideoQa(Benchmark):
    """Rows of ``<split>_qa.json`` are ``{"id", "video_id", "question", "answer"}``; clips lie in ``path``/``videos``.

    The clip of video 7 is the file that ``mapping`` (a file in ``path``: lines ``<name> vid7``, or a JSON object) has
    for it, else ``<stem>7`` with any usual ending.
    """

    metric = "exact_match"
    variant = "vqa_normalised"
    stem: ClassVar[str]
    """Text before a video's number in its name."""

    def __init__(self, *, path: str, split: str, videos: str, mapping: str | None, prompt: str) -> None:
        super().__init__(prompt=prompt)
        self._videos = Path(path) / videos
        self._file = Path(path) / f"{split}_qa.json"
        self._mapping = None if mapping is None else Path(path) / mapping
        self._rows = self.rows(
            self.read_json(self._file), self._file, None, ("id", "video_id", "question", "answer"), "answer"
        )
        self._names = self._named()

    @property
    def files(self) -> Sequence[Path]:
        """Questions and answers, and which file each video is, where a mapping says so."""
        return (self._file,) if self._mapping is None else (self._file, self._mapping)

    def _named(self) -> list[str]:
        """Name of the clip of each row."""
        stems = [f"{self.stem}{row['video_id']}" for row in self._rows]
        if self._mapping is None:
            return stems
        names = mapped(self.require(self._mapping))
        found = [names.get(stem, names.get(str(row["video_id"]))) for stem, row in zip(stems, self._rows, strict=True)]
        if None in found:
            raise MmllmError(f"{self.name}: {self._mapping} has no {stems[found.index(None)]}. {self.fetch}")
        return [name for name in found if name is not None]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question at an index of the file; kind is its first word: what, who, how, when, where or other."""
        row = self._rows[index]
        first = row["question"].split(maxsplit=1)[:1]
        kind = next((kind for kind in KINDS if [kind] == [word.lower() for word in first]), "other")
        media = {"video": (clip(self._videos, self._names[index]),)}
        return self.question(row["id"], row["question"], media, texts_of(row["answer"]), kind)
