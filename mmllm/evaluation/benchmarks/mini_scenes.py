"""mini_scenes: questions about pictures of coloured shapes (count, colour, place, relation), by exact match."""

from __future__ import annotations

from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.mini import Mini
from mmllm.evaluation.metrics.text import exact_match


class MiniScenes(Mini):
    """VQA about scenes of shapes, held-out combinations; one right answer, so exact match after VQA normalisation."""

    name: ClassVar[str] = "mini_scenes"
    metric: ClassVar[str] = "exact_match"
    variant = "vqa_normalised"

    def score(self, prediction: str, reference: Any) -> float:
        """1 or 0: equal to an answer after the official VQA normalisation."""
        return exact_match(prediction, reference)
