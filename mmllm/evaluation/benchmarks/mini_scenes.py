"""mini_scenes: questions about pictures of coloured shapes (count, colour, place, relation), by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.mini import Mini


class MiniScenes(Mini):
    """VQA about scenes of shapes, held-out combinations; one right answer, so exact match after VQA normalisation."""

    name: ClassVar[str] = "mini_scenes"
    metric = "exact_match"
    variant = "vqa_normalised"
