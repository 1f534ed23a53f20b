"""easy-VQA (Zhou 2019, github.com/vzhou842/easy-VQA): questions about 64 x 64 pictures of one shape, official files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError, SampleError, shortened
from mmllm.types import Message, Sample


class EasyVqa(Dataset):
    """Question and one-word answer about ``<image>``, read from ``path``/``split``/{questions.json,images/<id>.png}.

    ``path`` is the repository's data folder (``easy_vqa/data`` in the ``easy-vqa`` package); ``split`` is ``train``
    (38,575 questions) or ``test`` (9,673). A row of ``questions.json`` is ``[question, answer, image id]``.
    """

    def __init__(self, path: str, split: str = "train") -> None:
        self.name = f"easy_vqa:{split}"
        self._folder = Path(path) / split
        questions = self._folder / "questions.json"
        if not questions.is_file():
            raise MmllmError(
                f"there is no {questions}; fetch github.com/vzhou842/easy-VQA and give path the folder that holds "
                "train/ and test/"
            )
        try:
            self._rows: list[Any] = json.loads(questions.read_text(encoding="utf-8"))
        except ValueError as error:
            raise MmllmError(f"{questions} is not JSON ({error})") from error
        if not isinstance(self._rows, list):
            raise MmllmError(f"{questions} is not a list of [question, answer, image id]")

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Question ``index`` as a conversation, named ``easy_vqa:<split>:<index>``; SampleError for a broken row."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = f"{self.name}:{index}"
        match self._rows[index]:
            case [str(question), str(answer), int(image)]:
                messages = (Message("user", f"<image>\n{question}"), Message("assistant", answer))
                return Sample(name, messages, {"image": (self._folder / "images" / f"{image}.png",)})
        raise SampleError(f"{name}: the row {shortened(self._rows[index])} is not [question, answer, image id]")
