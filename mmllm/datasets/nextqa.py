"""NExT-QA (Xiao et al. 2021, arXiv 2105.08276): why, when and what in longer clips, five options, for training."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from mmllm.datasets.base import Dataset
from mmllm.datasets.clips import LETTER_ANSWER, clip, lettered, mapped
from mmllm.errors import MmllmError, SampleError
from mmllm.types import Message, Sample

FIELDS = ("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")
MAP = "map_vid_vidorID.json"
_LETTERS = "ABCDE"


class NextQa(Dataset):
    """Questions about ``<video>`` with lettered options from ``path``/``split``.csv; the answer is the letter.

    ``path``/map_vid_vidorID.json says which file each video is (``1164/3238737531``) in ``path``/``videos``.
    """

    def __init__(self, path: str, split: str = "train", videos: str = "NExTVideo", prompt: str = LETTER_ANSWER) -> None:
        self.name = f"nextqa:{split}"
        self._videos, self._prompt = Path(path) / videos, prompt
        if "{question}" not in prompt:
            raise MmllmError(f"the prompt of nextqa has no {{question}} in it: {prompt!r}")
        for needed in (Path(path) / f"{split}.csv", Path(path) / MAP):
            if not needed.is_file():
                raise MmllmError(f"there is no {needed}; give path the folder of NExT-QA's {split}.csv and {MAP}")
        self._rows = read(Path(path) / f"{split}.csv")
        self._names = mapped(Path(path) / MAP)

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Question ``index`` as a conversation, named ``nextqa:<split>:<video>_<qid>``; SampleError if broken."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self._rows[index]
        name = f"{self.name}:{row['video']}_{row['qid']}"
        right = number(row)
        if right is None or row["video"] not in self._names:
            what = "an answer of 0 to 4" if right is None else f"an entry in {MAP}"
            raise SampleError(f"{name}: the row lacks {what}")
        # not format: a question may hold braces
        asked = self._prompt.replace("{question}", lettered(row["question"], options(row)))
        messages = (Message("user", asked), Message("assistant", _LETTERS[right]))
        return Sample(name, messages, {"video": (clip(self._videos, self._names[row["video"]]),)})


def read(path: Path) -> list[dict[str, str]]:
    """Rows of one of the official csv files (which must exist); MmllmError where columns are missing or none follow."""
    with path.open(encoding="utf-8", newline="") as file:
        # a row that is too short has empty columns, not None
        reader = csv.DictReader(file, restval="")
        missing = [field for field in FIELDS if field not in (reader.fieldnames or ())]
        rows = [] if missing else list(reader)
    if missing or not rows:
        found = f"no {', '.join(missing)}" if missing else "no question"
        raise MmllmError(f"{path} has {found}; its columns are {', '.join(FIELDS)}")
    return rows


def options(row: Mapping[str, str]) -> list[str]:
    """The five options of a row."""
    return [row[f"a{n}"] for n in range(len(_LETTERS))]


def number(row: Mapping[str, str]) -> int | None:
    """Number of the right option of a row, from 0; None where it has none."""
    return int(row["answer"]) if row["answer"] in ("0", "1", "2", "3", "4") else None
