"""mini_digits: questions about real handwritten digits (scikit-learn's ``load_digits``), by exact match."""

from __future__ import annotations

from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.mini import Mini
from mmllm.evaluation.metrics.text import exact_match


class MiniDigits(Mini):
    """VQA about handwritten digits; one right answer, so exact match after VQA normalisation."""

    name: ClassVar[str] = "mini_digits"
    metric: ClassVar[str] = "exact_match"
    variant = "vqa_normalised"

    def score(self, prediction: str, reference: Any) -> float:
        """1 or 0: equal to an answer after the official VQA normalisation."""
        return exact_match(prediction, reference)
