"""mini_digits: questions about real handwritten digits (scikit-learn's ``load_digits``), by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.mini import Mini


class MiniDigits(Mini):
    """VQA about handwritten digits; one right answer, so exact match after VQA normalisation."""

    name: ClassVar[str] = "mini_digits"
    metric = "exact_match"
    variant = "vqa_normalised"
