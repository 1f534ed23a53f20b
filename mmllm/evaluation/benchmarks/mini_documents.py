"""mini_documents: questions about rendered receipts, forms, tables and charts, by ANLS."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.mini import Mini


class MiniDocuments(Mini):
    """Document VQA in small: values are looked up by their key; scored as DocVQA is."""

    name: ClassVar[str] = "mini_documents"
    metric = "anls"
    variant = "strict"
