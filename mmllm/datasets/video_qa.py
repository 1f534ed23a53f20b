"""The form shared by MSVD-QA and MSRVTT-QA for training: ``<split>_qa.json`` beside a folder of clips -> samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from mmllm.datasets.base import Dataset
from mmllm.datasets.clips import clip, mapped
from mmllm.errors import MmllmError, SampleError, shortened
from mmllm.types import Message, Sample


class VideoQa(Dataset):
    """Question and one-word answer about ``<video>``; rows are ``{"id", "video_id", "question", "answer"}``.

    The clip of video 7 is the file that ``mapping`` (a file in ``path``: lines ``<name> vid7``, or a JSON object) has
    for it, else ``<stem>7`` with any usual ending, in ``path``/``videos``.
    """

    title: ClassVar[str]
    """Name in the registry; names of samples start with it."""
    stem: ClassVar[str]
    """Text before a video's number in its name."""

    def __init__(self, *, path: str, split: str, videos: str, mapping: str | None, prompt: str) -> None:
        self.name = f"{self.title}:{split}"
        self._videos, self._prompt = Path(path) / videos, prompt
        if "{question}" not in prompt:
            raise MmllmError(f"the prompt of {self.title} has no {{question}} in it: {prompt!r}")
        file = Path(path) / f"{split}_qa.json"
        for needed in (file, *([] if mapping is None else [Path(path) / mapping])):
            if not needed.is_file():
                raise MmllmError(f"there is no {needed}; give path the folder of {self.title}'s {file.name}")
        try:
            self._rows: list[Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise MmllmError(f"{file} is not JSON ({error})") from error
        if not isinstance(self._rows, list):
            raise MmllmError(f"{file} is not a list of questions")
        self._names = None if mapping is None else mapped(Path(path) / mapping)

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Question ``index`` as a conversation, named ``<data set>:<split>:<id>``; SampleError for a broken row."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        match self._rows[index]:
            case {"id": identity, "video_id": int(video), "question": str(question), "answer": str(answer)}:
                # not format: a question may hold braces
                asked = Message("user", self._prompt.replace("{question}", question))
                name = f"{self.name}:{identity}"
                return Sample(name, (asked, Message("assistant", answer)), {"video": (self._clip(name, video),)})
        raise SampleError(
            f"{self.name}:{index}: the row {shortened(self._rows[index])} lacks id, video_id, question or answer"
        )

    def _clip(self, name: str, video: int) -> Path:
        if self._names is None:
            return clip(self._videos, f"{self.stem}{video}")
        # MSVD's mapping has vid7, others the bare number
        found = self._names.get(f"{self.stem}{video}", self._names.get(str(video)))
        if found is None:
            raise SampleError(f"{name}: the mapping has no {self.stem}{video}")
        return clip(self._videos, found)
