"""Fields of scanned documents, answered as JSON: SROIE's receipts and FUNSD's forms, by the F1 of all fields."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmllm.datasets.scanned import SROIE_FIELDS, linked, read_form
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import QUESTION_ONLY, Answered, Benchmark, Question
from mmllm.evaluation.metrics.fields import Counts, counts_of_set, record_of
from mmllm.evaluation.metrics.table import FIELD_F1

OF_TEXTS = ("exact", "folded", "edit")
"""Variants of the metric for cells that are texts."""


class Documents(Benchmark):
    """A document a file of annotations, its picture of the same name in another folder."""

    metric = FIELD_F1
    asked: ClassVar[str]
    """The question, the same for every document."""
    ending: ClassVar[str]
    """Of the pictures' names."""

    def __init__(self, annotations: Path, pictures: Path, *, prompt: str, variant: str) -> None:
        super().__init__(prompt=prompt, variant=variant, variants=OF_TEXTS)
        self._pictures = pictures
        self._files = sorted(self.require(annotations).glob("*.json"))
        known = {path.stem for path in self._files}
        shown = {path.stem for path in pictures.glob(f"*{self.ending}")}
        if missing := sorted(shown - known):
            self.require(annotations / f"{missing[0]}.json")
        if not self._files:
            raise MmllmError(f"{self.name}: {annotations} holds no annotations. {self.fetch}")
        self._answers = [self._answer(path) for path in self._files]

    @property
    def files(self) -> Sequence[Path]:
        """The annotations."""
        return self._files

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._files)

    def __getitem__(self, index: int) -> Question:
        """The question about a document."""
        name = self._files[index].stem
        return self.question(name, self.asked, self._pictures / f"{name}{self.ending}", (self._answers[index],))

    @abstractmethod
    def record(self, content: Any, path: Path) -> Mapping[str, Any]:
        """The fields of a file of annotations; MmllmError, KeyError or TypeError where it has another form."""

    def parsed(self, prediction: str) -> bool:
        """Whether the answer holds an object."""
        return record_of(prediction) is not None

    def whole(self, answered: Sequence[Answered]) -> float | None:
        """F1 of the fields of all documents."""
        return self._counts(answered).f1

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """Precision and recall of all fields, and the mean F1 of a document."""
        counts = self._counts(answered)
        mean = sum(one.score for one in answered) / len(answered)
        return {"precision": counts.precision, "recall": counts.recall, "f1_of_a_document": mean}

    def _counts(self, answered: Sequence[Answered]) -> Counts:
        return counts_of_set(((one.prediction, str(one.question.reference[0])) for one in answered), self.variant)

    def _answer(self, path: Path) -> str:
        try:
            return json.dumps(self.record(self.read_json(path), path), ensure_ascii=False)
        except (KeyError, TypeError, AttributeError) as error:
            raise MmllmError(f"{self.name}: {path} has another form ({error}). {self.fetch}") from error


class Sroie(Documents):
    """SROIE, task 3 (Huang et al. 2019, arXiv 2103.10213): company, date, address and total of a receipt."""

    name: ClassVar[str] = "sroie"
    fetch: ClassVar[str] = (
        "Fetch the receipts of rrc.cvc.uab.es/?ch=13 and put the fields as key/<name>.json and the pictures as "
        "img/<name>.jpg into the folder given as path."
    )
    asked: ClassVar[str] = (
        'Write company, date, address and total of the receipt as JSON: {"company": "", "date": "", "address": "", '
        '"total": ""}'
    )
    ending: ClassVar[str] = ".jpg"

    def __init__(
        self, *, path: str = "data/sroie", prompt: str = QUESTION_ONLY, variant: str = "exact", annotations: str = "key"
    ) -> None:
        """Open the receipts.

        Args:
            path: folder with ``key`` and ``img``.
            prompt: the user's turn, with ``{question}`` and the placeholder.
            variant: of the metric: exact (the task's), folded, edit.
            annotations: folder of the fields.
        """
        super().__init__(Path(path) / annotations, Path(path) / "img", prompt=prompt, variant=variant)

    def record(self, content: Any, path: Path) -> Mapping[str, Any]:
        """The four fields, those that a receipt has."""
        found = {key: content[key] for key in SROIE_FIELDS if content.get(key)}
        if not found:
            raise KeyError("company")
        return found


class Funsd(Documents):
    """FUNSD (Jaume et al. 2019, arXiv 1905.13538): the questions of a form with the answers linked to them.

    A question that has several answers, or that stands on a form more than once, has a list of them.
    """

    name: ClassVar[str] = "funsd"
    fetch: ClassVar[str] = (
        "Fetch guillaumejaume.github.io/FUNSD and give the folder with training_data and testing_data as path."
    )
    asked: ClassVar[str] = 'Write each question of the form with its answer as JSON: {"question": "answer"}'
    ending: ClassVar[str] = ".png"

    def __init__(
        self, *, path: str = "data/funsd", split: str = "test", prompt: str = QUESTION_ONLY, variant: str = "exact"
    ) -> None:
        """Open the forms.

        Args:
            path: folder with ``testing_data`` and ``training_data``.
            split: test or train.
            prompt: the user's turn, with ``{question}`` and the placeholder.
            variant: of the metric: exact, folded, edit.
        """
        folder = Path(path) / f"{split}ing_data"
        super().__init__(folder / "annotations", folder / "images", prompt=prompt, variant=variant)

    def record(self, content: Any, path: Path) -> Mapping[str, Any]:
        """Text of a question -> text of its answer, or a list of them."""
        found: dict[str, list[str]] = {}
        for question, answer in linked(read_form(content, path)):
            found.setdefault(question, []).append(answer["text"].strip())
        return {text: answers if len(answers) > 1 else answers[0] for text, answers in found.items()}
