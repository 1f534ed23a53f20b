"""Mathematics in pictures: MathVista without its judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Question
from mmllm.evaluation.benchmarks.multiple_choice import CHOICE, graded
from mmllm.evaluation.benchmarks.published.base import Published, from_hub
from mmllm.evaluation.metrics.values import TYPES, said_value


class MathVista(Published):
    """MathVista (Lu et al. 2023, arXiv 2310.02255): a letter, or a value of the type that is asked for, read by rules.

    The authors have a judge read whatever is not the bare answer, and take the option nearest in spelling, which gives
    an empty answer a third of the choices. Here nothing is guessed: :func:`~mmllm.evaluation.metrics.values.said_value`
    and the letter rule of all sets read the answer, and what they do not read is wrong; values are then compared as
    the authors compare theirs. Scores stand beside theirs, not in their place.
    """

    name: ClassVar[str] = "mathvista"
    metric = CHOICE
    fetch: ClassVar[str] = from_hub("AI4Math/MathVista", "data/testmini-00000-of-00001.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "pid", "image": "decoded_image", "question": "query", "options": "choices", "answer": "answer",
        "type": "answer_type", "bare": "question",
    }  # fmt: skip
    facts: ClassVar[Sequence[str]] = ("type", "precision")
    asked: ClassVar[str] = "<image>\n{question}"
    gold: ClassVar[str] = "text"
    options_inside: ClassVar[bool] = True
    of_split: ClassVar[str] = "testmini"
    default_variant: ClassVar[str] = "letter_or_value"

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The published query; where options' texts are ranked, the question without them."""
        item = self.renamed(row)
        return [item if self.lists_options else {**item, "question": item["bare"]}]

    def options(self, item: Mapping[str, Any]) -> tuple[str, ...]:
        """None where a value is asked for."""
        return super().options(item) if item["type"] == "text" else ()

    def graded(self, prediction: str, question: Question) -> tuple[float, bool]:
        """Whether the option or the value is the right one, and whether one was read."""
        if question.options:
            return graded(prediction, question)
        said = said_value(prediction, str(question.facts["type"]), question.facts["precision"])
        return float(said is not None and said in question.reference), said is not None

    def reference(self, item: Mapping[str, Any], options: Sequence[str]) -> Any:
        """The right option, or the value as it is compared; MmllmError where the type is none of the set."""
        if not options and item["type"] not in TYPES:
            raise MmllmError(f"it asks for a value of the type {item['type']!r}; known: text, {', '.join(TYPES)}")
        return super().reference(item, options)

    def kind(self, item: Mapping[str, Any]) -> str:
        """What is done: figure question answering, geometry problem solving, ..."""
        return str(item["metadata"]["task"])
