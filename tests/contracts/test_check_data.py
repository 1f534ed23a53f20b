"""A dataset or benchmark that breaks one rule of its contract is told which."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question
from mmllm.testing import check_benchmark, check_dataset
from mmllm.testing.tiny.datasets import PIXEL
from mmllm.types import Message, Sample


class Rows(Dataset):
    """Pairs of question and answer about one picture; what is broken derives from it."""

    name = "rows"

    def __init__(self, path: str) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise MmllmError(f"there is no folder {path}")
        self.rows = json.loads((self.folder / "rows.json").read_text())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        question, answer = self.rows[index]
        messages = (Message("user", f"<image>\n{question}"), Message("assistant", answer))
        return Sample(f"rows:{index}", messages, {"image": (self.folder / "0.png",)})


class SameName(Rows):
    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), name="rows")


class NoAnswer(Rows):
    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return replace(sample, messages=sample.messages[:1])


class TwoPictures(Rows):
    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), media={"image": (self.folder / "0.png",) * 2})


class LostPicture(Rows):
    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), media={"image": (self.folder / "1.png",)})


class Grows(Rows):
    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        self.rows[index][1] += "!"
        return sample


class FromTheEnd(Rows):
    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index % len(self))


class CannotBeSent(Rows):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.file = (self.folder / "rows.json").open()

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class SaysNothing(Rows):
    def __init__(self, path: str) -> None:
        try:
            super().__init__(path)
        except MmllmError as error:
            raise MmllmError("wrong\npath") from error


class Unexplained(Rows):
    """Pairs of question and answer."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)


def opened(kind: Any, folder: Path) -> Any:
    """A small one of this class."""
    (folder / "0.png").write_bytes(PIXEL)
    (folder / "rows.json").write_text(json.dumps([["What is it?", "A pixel."], ["What colour?", "black"]]))
    return kind(str(folder)) if issubclass(kind, Dataset) else kind(path=str(folder))


DATASETS = {
    "names that stand twice": SameName,
    "rows:0 ends with Message(role='user'": NoAnswer,
    "rows:0: 1 times <image> for 2 items": TwoPictures,
    "rows:0: there is no ": LostPicture,
    "read again, samples differ": Grows,
    "index -1: no IndexError": FromTheEnd,
    "Found: TypeError: cannot pickle": CannotBeSent,
    "the MmllmError does not say": SaysNothing,
    "its arguments are ['folder']": Unexplained,
}
"""What the error says -> dataset."""


@pytest.mark.parametrize("text", DATASETS)
def test_a_broken_dataset_is_told_what_is_wrong(text: str) -> None:
    check_dataset(lambda folder: opened(Rows, folder))
    with pytest.raises(AssertionError) as caught:
        check_dataset(lambda folder: opened(DATASETS[text], folder))
    assert text in str(caught.value) and "Mend: " in str(caught.value)


class Asked(Benchmark):
    """The same rows as questions; what is broken derives from it."""

    name: ClassVar[str] = "asked"
    metric: ClassVar[str] = "exact_match"
    fetch: ClassVar[str] = "Write rows.json and 0.png yourself and give their folder as path."

    def __init__(self, *, path: str, prompt: str = "<image>\n{question}") -> None:
        super().__init__(prompt=prompt)
        self.folder = Path(path)
        content = self.read_json(self.folder / "rows.json")
        if not isinstance(content, list) or not content or not all(isinstance(row, list) for row in content):
            raise MmllmError("asked: rows.json holds no rows")
        self.pairs = content

    @property
    def files(self) -> Sequence[Path]:
        return (self.folder / "rows.json",)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Question:
        question, answer = self.pairs[index]
        return self.question(index, question, self.folder / "0.png", (answer,))

    def score(self, prediction: str, reference: Any) -> float:
        return float(prediction.strip() in reference)


class FetchesNothing(Asked):
    fetch: ClassVar[str] = "somewhere"


class AsksTwice(Asked):
    def __getitem__(self, index: int) -> Question:
        question, answer = self.pairs[index]
        return self.question("same", question, self.folder / "0.png", (answer,))


class LikesBlanks(Asked):
    def score(self, prediction: str, reference: Any) -> float:
        return float(prediction in reference)


class LikesSilence(Asked):
    def parsed(self, prediction: str) -> bool:
        return True


class NamesNoFiles(Asked):
    @property
    def files(self) -> Sequence[Path]:
        return ()


class NeedsNoFile(Asked):
    @property
    def files(self) -> Sequence[Path]:
        return (self.folder / "rows.json", self.folder / "0.png")


class LeavesOut(Asked):
    def __getitem__(self, index: int) -> Question:
        question, answer = self.pairs[index]
        sample = Sample(
            f"asked:{index}", (Message("user", f"<image>\n{question}"),), {"image": (self.folder / "0.png",)}
        )
        return Question(sample, question, (answer,))


BENCHMARKS = {
    "fetch is 'somewhere'": FetchesNothing,
    "names that stand twice": AsksTwice,
    "' A pixel.\\n' scores 0.0": LikesBlanks,
    "'' counts as parsed": LikesSilence,
    "of which [] are missing": NamesNoFiles,
    "without 0.png: no MmllmError": NeedsNoFile,
    "asked is '<image>": LeavesOut,
}
"""What the error says -> benchmark."""


@pytest.mark.parametrize("text", BENCHMARKS)
def test_a_broken_benchmark_is_told_what_is_wrong(text: str) -> None:
    check_benchmark(lambda folder: opened(Asked, folder))
    with pytest.raises(AssertionError) as caught:
        check_benchmark(lambda folder: opened(BENCHMARKS[text], folder))
    assert text in str(caught.value) and "Mend: " in str(caught.value)


def test_what_is_none_is_told_so() -> None:
    with pytest.raises(AssertionError, match=r"list does not derive from mmllm\.datasets\.base\.Dataset"):
        check_dataset(lambda folder: [])  # type: ignore[arg-type,return-value]
    with pytest.raises(
        AssertionError, match=r"Rows does not derive from mmllm\.evaluation\.benchmarks\.base\.Benchmark"
    ):
        check_benchmark(lambda folder: opened(Rows, folder))
