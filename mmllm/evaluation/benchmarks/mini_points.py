"""mini_points: what solid a cloud of 256 noisy points is, in one word, by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.mini import Mini


class MiniPoints(Mini):
    """Eight kinds of solids, turned anyhow, each with a word of the miniature LM; exact match after normalisation."""

    name: ClassVar[str] = "mini_points"
    metric = "exact_match"
    variant = "vqa_normalised"
    modality: ClassVar[str] = "points"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense points` draws it from a seed; or give a folder that holds it as path."
    )

    def __init__(self, *, path: str = "data/mini/points", split: str = "test", prompt: str | None = None) -> None:
        super().__init__(path=path, split=split, prompt=prompt)
