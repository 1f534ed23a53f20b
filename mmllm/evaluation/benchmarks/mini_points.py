"""mini_points: what solid a cloud of 256 noisy points is, in one word, by exact match."""

from __future__ import annotations

from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.mini import Mini
from mmllm.evaluation.metrics.text import exact_match


class MiniPoints(Mini):
    """Eight kinds of solids, turned anyhow, each with a word of the miniature LM; exact match after normalisation."""

    name: ClassVar[str] = "mini_points"
    metric: ClassVar[str] = "exact_match"
    variant = "vqa_normalised"
    modality: ClassVar[str] = "points"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense points` draws it from a seed; or give a folder that holds it as path."
    )

    def __init__(self, *, path: str = "data/mini/points", split: str = "test", prompt: str | None = None) -> None:
        super().__init__(path=path, split=split, prompt=prompt)

    def score(self, prediction: str, reference: Any) -> float:
        """1 or 0: equal to the word after the official VQA normalisation."""
        return exact_match(prediction, reference)
