"""The Parquet forms of sets whose official files have readers of their own: VQAv2, TextVQA, DocVQA, ChartQA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.published.base import Published, from_hub


class VqaV2Tables(Published):
    """VQAv2 of the hub: an object an annotator."""

    name: ClassVar[str] = "vqav2"
    metric = "vqa_accuracy"
    fetch: ClassVar[str] = from_hub("lmms-lab/VQAv2", "data/validation-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "question_id", "image": "image", "question": "question", "answer": "answers"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("answer_type",)
    of_split: ClassVar[str] = "validation"
    submission: ClassVar[str] = 'Its test splits are scored on EvalAI, as [{"question_id": number, "answer": text}].'


class TextVqaTables(Published):
    """TextVQA of the hub: a list of ten answers."""

    name: ClassVar[str] = "textvqa"
    metric = "vqa_accuracy"
    fetch: ClassVar[str] = from_hub("lmms-lab/textvqa", "data/validation-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = VqaV2Tables.columns
    of_split: ClassVar[str] = "validation"
    submission: ClassVar[str] = "Its test split is scored on EvalAI."


class DocVqaTables(Published):
    """DocVQA of the hub; kind is the first of a question's types, as in the official form."""

    name: ClassVar[str] = "docvqa"
    metric = "anls"
    fetch: ClassVar[str] = from_hub("lmms-lab/DocVQA", "DocVQA/validation-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "questionId", "image": "image", "question": "question", "answer": "answers"
    }  # fmt: skip
    of_split: ClassVar[str] = "validation"
    of_config: ClassVar[str] = "DocVQA"
    submission: ClassVar[str] = (
        'Its test split is scored on rrc.cvc.uab.es, as [{"questionId": number, "answer": text}].'
    )

    def kind(self, item: Mapping[str, Any]) -> str:
        """The first of its types."""
        return str((item.get("question_types") or [""])[0])


class ChartQaTables(Published):
    """ChartQA of the hub; kinds are human and augmented, as the official files are called."""

    name: ClassVar[str] = "chartqa"
    metric = "relaxed_accuracy"
    fetch: ClassVar[str] = from_hub("lmms-lab/ChartQA", "data/test-00000-of-00001.parquet")
    columns: ClassVar[Mapping[str, str]] = {"image": "image", "question": "question", "answer": "answer"}

    def kind(self, item: Mapping[str, Any]) -> str:
        """Human or augmented."""
        return str(item.get("type") or "").partition("_")[0]
