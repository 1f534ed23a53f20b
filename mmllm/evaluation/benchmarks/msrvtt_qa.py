"""MSRVTT-QA (Xu et al. 2017, ACM MM): open questions about longer clips of MSR-VTT, by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.datasets.clips import SHORT_ANSWER
from mmllm.evaluation.benchmarks.video_qa import VideoQa


class MsrvttQa(VideoQa):
    """MSRVTT-QA, exact match: ``<split>_qa.json`` and the clips in ``path``/``videos``."""

    name: ClassVar[str] = "msrvtt_qa"
    stem: ClassVar[str] = "video"
    fetch: ClassVar[str] = (
        "Fetch the questions from github.com/xudejing/video-question-answering and put "
        "test_qa.json and MSR-VTT's folder TestVideo of .mp4 files "
        "into the folder given as path."
    )

    def __init__(
        self,
        *,
        path: str = "data/msrvtt_qa",
        split: str = "test",
        videos: str = "TestVideo",
        mapping: str | None = None,
        prompt: str = SHORT_ANSWER,
    ) -> None:
        super().__init__(path=path, split=split, videos=videos, mapping=mapping, prompt=prompt)
