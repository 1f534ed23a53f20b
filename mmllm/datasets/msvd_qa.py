"""MSVD-QA (Xu et al. 2017, ACM MM): open questions about short clips from YouTube, original files, for training."""

from __future__ import annotations

from typing import ClassVar

from mmllm.datasets.clips import SHORT_ANSWER
from mmllm.datasets.video_qa import VideoQa


class MsvdQa(VideoQa):
    """Questions about ``<video>`` with one-word answers from ``path``/``split``_qa.json (30,933 questions in train).

    Clips lie in ``path``/``videos``; ``mapping`` is a file of lines ``<name> vid7`` or a JSON object, null: they are
    named vid7.
    """

    title: ClassVar[str] = "msvd_qa"
    stem: ClassVar[str] = "vid"

    def __init__(
        self,
        path: str,
        split: str = "train",
        videos: str = "YouTubeClips",
        mapping: str | None = "youtube_mapping.txt",
        prompt: str = SHORT_ANSWER,
    ) -> None:
        super().__init__(path=path, split=split, videos=videos, mapping=mapping, prompt=prompt)
