"""MSRVTT-QA (Xu et al. 2017, ACM MM): open questions about longer clips of MSR-VTT, original files, for training."""

from __future__ import annotations

from typing import ClassVar

from mmllm.datasets.clips import SHORT_ANSWER
from mmllm.datasets.video_qa import VideoQa


class MsrvttQa(VideoQa):
    """Questions about ``<video>`` with one-word answers from ``path``/``split``_qa.json (158,581 questions in train).

    Clips lie in ``path``/``videos``; video 7 is video7.mp4 there, or what a JSON object ``mapping`` has for it.
    """

    title: ClassVar[str] = "msrvtt_qa"
    stem: ClassVar[str] = "video"

    def __init__(
        self,
        path: str,
        split: str = "train",
        videos: str = "TrainValVideo",
        mapping: str | None = None,
        prompt: str = SHORT_ANSWER,
    ) -> None:
        super().__init__(path=path, split=split, videos=videos, mapping=mapping, prompt=prompt)
