"""mini_graph: the topic of a node of a generated graph, by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.mini import Mini


class MiniGraph(Mini):
    """Nodes of graphs that no training question shows; their own words tell the topic seldom, their neighbours' do."""

    name: ClassVar[str] = "mini_graph"
    metric = "exact_match"
    variant = "vqa_normalised"
    modality: ClassVar[str] = "graph"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense graph` writes it from a seed; or give a folder that holds it as path."
    )

    def __init__(self, *, path: str = "data/mini/graph", split: str = "test", prompt: str | None = None) -> None:
        super().__init__(path=path, split=split, prompt=prompt)
