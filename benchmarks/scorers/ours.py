"""What the package itself scores a case by: its metrics and its benchmarks' rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmllm.evaluation.benchmarks.base import Answered, Benchmark, Question
from mmllm.evaluation.metrics.boxes import box_hit, parse_box
from mmllm.evaluation.metrics.choice import taken
from mmllm.evaluation.metrics.mmmu import open_answer
from mmllm.evaluation.metrics.text import AnlsVariant, anls, relaxed_accuracy
from mmllm.evaluation.metrics.values import said_value
from mmllm.evaluation.metrics.vqa import Variant, vqa_accuracy
from mmllm.evaluation.metrics.yes_no import yes_no
from mmllm.types import Sample


def vqa(variant: Variant) -> Any:
    """VQA accuracy in a variant."""
    return lambda case: vqa_accuracy(case["said"], case["answers"], variant)


def near(variant: AnlsVariant) -> Any:
    """ANLS in a variant."""
    return lambda case: anls(case["said"], case["answers"], variant)


def relaxed(case: Any) -> float:
    """ChartQA's relaxed accuracy."""
    return relaxed_accuracy(case["said"], case["answer"])


def said_yes(variant: str) -> Any:
    """Yes, no or None."""
    return lambda case: yes_no(case["said"], variant)


def option(case: Any) -> str | None:
    """The letter of the option that is taken."""
    number = taken(case["said"], case["options"])
    return None if number is None else "ABCD"[number]


def opened(case: Any) -> float:
    """MMMU's rule of open answers."""
    return open_answer(case["said"], case["answers"])


def value(case: Any) -> str | None:
    """The value that is said, or the text of the option that is taken."""
    if case["type"] != "text":
        return said_value(case["said"], case["type"], case["precision"])
    number = taken(case["said"], case["options"])
    return None if number is None else str(case["options"][number])


def hit(case: Any) -> float:
    """Acc@0.5 of a box in fractions."""
    return box_hit(parse_box(case["said"]), tuple(case["box"]))


def asked(answers: Sequence[tuple[str, float, dict[str, Any], tuple[str, ...]]]) -> list[Answered]:
    """(said, score, facts, references) as answers of a benchmark, for what it makes of all of them."""
    return [
        Answered(Question(Sample(f"x:{number}", (), {}), "", reference, facts=facts), said, score)
        for number, (said, score, facts, reference) in enumerate(answers)
    ]


def rules(kind: type[Benchmark], variant: str) -> Any:
    """A benchmark without its files: what it makes of answers needs none."""
    part = kind.__new__(kind)
    part.variant = variant
    return part
