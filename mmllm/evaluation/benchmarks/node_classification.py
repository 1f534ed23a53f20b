"""node_classification: the class of a node of a graph, answered in words, by exact match (accuracy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from mmllm.datasets.labelled_nodes import QUESTION, LabelledNodes
from mmllm.datasets.planetoid import Planetoid
from mmllm.datasets.text_attributed_graph import TextAttributedGraph
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark, Question

PROMPT = "<graph>\n{question}"


class NodeClassification(Benchmark):
    """Accuracy over the nodes of a split of ``planetoid`` or ``text_attributed_graph``; ``kind`` is the class.

    The other arguments are the dataset's; give both the same ``seed`` and ``shares``, or their splits overlap.
    """

    name: ClassVar[str] = "node_classification"
    metric = "exact_match"
    variant = "vqa_normalised"
    fetch: ClassVar[str] = (
        "Fetch github.com/kimiyoung/planetoid (source: planetoid) or a text-attributed graph as CSV tables "
        "(source: text_attributed_graph) and give its folder as path."
    )

    def __init__(
        self,
        *,
        path: str = "data/arxiv_2023",
        source: Literal["planetoid", "text_attributed_graph"] = "text_attributed_graph",
        name: str = "cora",
        graph: str | None = None,
        split: str = "test",
        seed: int | None = None,
        shares: Sequence[float] = (0.6, 0.2, 0.2),
        question: str = QUESTION,
        words: Mapping[str, str] | None = None,
        prompt: str = PROMPT,
    ) -> None:
        super().__init__(prompt=prompt)
        rest: dict[str, Any] = {"graph": graph, "split": split, "seed": seed, "shares": shares}
        rest |= {"question": question, "words": words}
        try:
            self._nodes: LabelledNodes
            if source == "planetoid":
                self._nodes = Planetoid(path, name, **rest)
            elif source == "text_attributed_graph":
                self._nodes = TextAttributedGraph(path, **rest)
            else:
                raise MmllmError(f"source {source!r} is unknown; known: planetoid, text_attributed_graph")
        except MmllmError as error:
            raise MmllmError(f"{self.name}: {error} {self.fetch}") from error

    @property
    def files(self) -> Sequence[Path]:
        """The data set's own."""
        return tuple(self._nodes.files)

    def __len__(self) -> int:
        """Nodes of the split."""
        return len(self._nodes)

    def __getitem__(self, index: int) -> Question:
        """The question about one node."""
        node, answer = int(self._nodes.nodes[index]), self._nodes.answer(index)
        media = {"graph": (self._nodes.item(index),)}
        return self.question(node, self._nodes.question, media, (answer,), answer)
