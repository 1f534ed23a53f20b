"""mini_recall: one value of a document of four facts, asked by its key, by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.mini import Mini


class MiniRecall(Mini):
    """Items with a colour each, in texts that training does not have; kinds say which fact is asked for: ``fact_1``."""

    name: ClassVar[str] = "mini_recall"
    metric = "exact_match"
    variant = "vqa_normalised"
    modality: ClassVar[str] = "document"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense document` writes it from a seed; or give a folder that holds it as path."
    )

    def __init__(self, *, path: str = "data/mini/document", split: str = "test", prompt: str | None = None) -> None:
        super().__init__(path=path, split=split, prompt=prompt)
