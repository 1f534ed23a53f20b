"""mini_video: questions about clips of moving shapes (order, time, way, place at the end), by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.mini import Mini


class MiniVideo(Mini):
    """Shapes that appear, move and vanish, in held-out combinations; exact match after VQA normalisation."""

    name: ClassVar[str] = "mini_video"
    modality: ClassVar[str] = "video"
    metric = "exact_match"
    variant = "vqa_normalised"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense video` draws the clips from their seed; or give a folder "
        "that holds them as path."
    )

    def __init__(self, *, path: str = "data/mini/video", split: str = "test", prompt: str | None = None) -> None:
        """Without a prompt, the clip and below it the question."""
        super().__init__(path=path, split=split, prompt=prompt)
