"""Short answers about pictures: VizWiz-VQA, OK-VQA, InfographicVQA, OCRBench, RealWorldQA, GQA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Question
from mmllm.evaluation.benchmarks.multiple_choice import CHOICE
from mmllm.evaluation.benchmarks.published.base import ONE_WORD, Published, from_hub
from mmllm.evaluation.benchmarks.published.files import rows_of
from mmllm.evaluation.benchmarks.published.tables import DocVqaTables, VqaV2Tables

UNANSWERABLE = ONE_WORD.replace(
    "\nAnswer the", "\nWhen the provided information is insufficient, respond with 'Unanswerable'.\nAnswer the"
)


class VizWiz(Published):
    """VizWiz-VQA (Gurari et al. 2018, arXiv 1802.08218), ten annotators, VQA accuracy as MMF normalises."""

    name: ClassVar[str] = "vizwiz"
    metric = "vqa_accuracy"
    fetch: ClassVar[str] = from_hub("lmms-lab/VizWiz-VQA", "data/val-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = VqaV2Tables.columns
    kinds: ClassVar[Sequence[str]] = ("category",)
    asked: ClassVar[str] = UNANSWERABLE
    of_split: ClassVar[str] = "val"
    default_variant: ClassVar[str] = "textvqa_mmf"
    submission: ClassVar[str] = 'Its test split is scored on EvalAI, as [{"image": name, "answer": text}].'


class OkVqa(Published):
    """OK-VQA (Marino et al. 2019, arXiv 1906.00067), ten answers a question, VQA accuracy."""

    name: ClassVar[str] = "okvqa"
    metric = "vqa_accuracy"
    fetch: ClassVar[str] = from_hub("lmms-lab/OK-VQA", "data/val2014-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = VqaV2Tables.columns
    kinds: ClassVar[Sequence[str]] = ("question_type",)
    of_split: ClassVar[str] = "val2014"
    default_variant: ClassVar[str] = "vqa_official_2021"


class InfographicVqa(Published):
    """InfographicVQA (Mathew et al. 2022, arXiv 2104.12756), ANLS; kind is where the answer comes from."""

    name: ClassVar[str] = "infographicvqa"
    metric = "anls"
    fetch: ClassVar[str] = from_hub("lmms-lab/DocVQA", "InfographicVQA/validation-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = DocVqaTables.columns
    kinds: ClassVar[Sequence[str]] = ("answer_type",)
    of_split: ClassVar[str] = "validation"
    of_config: ClassVar[str] = "InfographicVQA"
    default_variant: ClassVar[str] = "strict"
    submission: ClassVar[str] = DocVqaTables.submission


class OcrBench(Published):
    """OCRBench (Liu et al. 2023, arXiv 2305.07895): an answer stands in what is said; kinds are its ten tasks.

    Formulas (HME100k) are compared with case and without blanks, as its own scorer does.
    """

    name: ClassVar[str] = "ocrbench"
    metric = "contains"
    fetch: ClassVar[str] = from_hub("echo840/OCRBench", "data/test-00000-of-00001.parquet")
    columns: ClassVar[Mapping[str, str]] = {"image": "image", "question": "question", "answer": "answer"}
    kinds: ClassVar[Sequence[str]] = ("question_type",)
    facts: ClassVar[Sequence[str]] = ("dataset",)
    asked: ClassVar[str] = "<image>\n{question}"
    tables: ClassVar[Sequence[Sequence[str]]] = (("OCRBench.json",), ("OCRBench/OCRBench.json",))
    clips: ClassVar[str] = "OCRBench_Images"

    def renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Rows of the official file have other names than those of the hub."""
        official = {"dataset_name": "dataset", "image_path": "image", "answers": "answer", "type": "question_type"}
        return super().renamed({official.get(key, key): value for key, value in row.items()})

    def graded(self, prediction: str, question: Question) -> tuple[float, bool]:
        """Whether an answer stands in the prediction."""
        if question.facts.get("dataset") != "HME100k" or not self.parsed(prediction):
            return super().graded(prediction, question)
        said = "".join(prediction.split())
        return float(any("".join(str(one).split()) in said for one in question.reference)), True


class RealWorldQa(Published):
    """RealWorldQA (xAI 2024): options stand in the question; a letter, or else the same word or number."""

    name: ClassVar[str] = "realworldqa"
    metric = CHOICE
    fetch: ClassVar[str] = from_hub("lmms-lab/RealWorldQA", "data/test-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {"image": "image", "question": "question", "answer": "answer"}
    asked: ClassVar[str] = "<image>\n{question}"
    gold: ClassVar[str] = "letter"
    default_variant: ClassVar[str] = "letter_or_text"

    def options(self, item: Mapping[str, Any]) -> tuple[str, ...]:
        """Four without their texts where the answer is a letter, else none."""
        return ("",) * 4 if str(item["answer"]).strip() in tuple("ABCD") else ()


class Gqa(Published):
    """GQA (Hudson and Manning 2019, arXiv 1902.09506), testdev-balanced, exact match; pictures are a second table."""

    name: ClassVar[str] = "gqa"
    metric = "exact_match"
    fetch: ClassVar[str] = from_hub(
        "lmms-lab/GQA",
        "testdev_balanced_instructions/testdev-00000-of-00001.parquet",
        "testdev_balanced_images/testdev-00000-of-00001.parquet",
    )
    columns: ClassVar[Mapping[str, str]] = {"id": "id", "question": "question", "answer": "answer", "of": "imageId"}
    of_split: ClassVar[str] = "testdev"
    of_config: ClassVar[str] = "testdev_balanced_instructions"
    default_variant: ClassVar[str] = "vqa_normalised"
    submission: ClassVar[str] = 'Its test split is scored on EvalAI, as [{"questionId": id, "prediction": text}].'

    def prepare(self) -> None:
        """Find each picture's row by its id."""
        config = self.config.replace("_instructions", "_images")
        self._pictures = rows_of(self._path, None, self.split, config, ())
        self._of = {str(self._pictures[number]["id"]): number for number in range(len(self._pictures))}

    @property
    def files(self) -> Sequence[Path]:
        """Questions, and the pictures by their ids."""
        return (*super().files, *self._pictures.files())

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The question with its picture."""
        item = self.renamed(row)
        number = self._of.get(str(item["of"]))
        if number is None:
            raise MmllmError(f"its picture {item['of']} is not in {self._pictures.files()[0]}")
        return [{**item, "image": self._pictures[number]["image"]}]
