"""mini_documents: questions about rendered receipts, forms, tables and charts, by ANLS."""

from __future__ import annotations

from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.mini import Mini
from mmllm.evaluation.metrics.text import anls


class MiniDocuments(Mini):
    """Document VQA in small: values are looked up by their key; scored as DocVQA is."""

    name: ClassVar[str] = "mini_documents"
    metric: ClassVar[str] = "anls"
    variant = "strict"

    def score(self, prediction: str, reference: Any) -> float:
        """ANLS to the nearest answer, a similarity of 0.5 or less counting 0."""
        return anls(prediction, reference, "strict") if self.parsed(prediction) else 0.0
