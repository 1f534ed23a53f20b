"""mini_graph: the topic of a node of a generated graph, by exact match."""

from __future__ import annotations

from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.mini import Mini
from mmllm.evaluation.metrics.text import exact_match


class MiniGraph(Mini):
    """Nodes of graphs that no training question shows; their own words tell the topic seldom, their neighbours' do."""

    name: ClassVar[str] = "mini_graph"
    metric: ClassVar[str] = "exact_match"
    variant = "vqa_normalised"
    modality: ClassVar[str] = "graph"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense graph` writes it from a seed; or give a folder that holds it as path."
    )

    def __init__(self, *, path: str = "data/mini/graph", split: str = "test", prompt: str | None = None) -> None:
        super().__init__(path=path, split=split, prompt=prompt)

    def score(self, prediction: str, reference: Any) -> float:
        """1 or 0: equal to the topic after the official VQA normalisation."""
        return exact_match(prediction, reference)
