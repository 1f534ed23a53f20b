"""MSVD-QA (Xu et al. 2017, ACM MM): open questions about short clips from YouTube, by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.datasets.clips import SHORT_ANSWER
from mmllm.evaluation.benchmarks.video_qa import VideoQa


class MsvdQa(VideoQa):
    """MSVD-QA, exact match: ``<split>_qa.json`` and the clips in ``path``/``videos``."""

    name: ClassVar[str] = "msvd_qa"
    stem: ClassVar[str] = "vid"
    fetch: ClassVar[str] = (
        "Fetch the questions from github.com/xudejing/video-question-answering and put "
        "test_qa.json, the folder YouTubeClips of MSVD's .avi files and its youtube_mapping.txt into the folder given "
        "as path."
    )

    def __init__(
        self,
        *,
        path: str = "data/msvd_qa",
        split: str = "test",
        videos: str = "YouTubeClips",
        mapping: str | None = "youtube_mapping.txt",
        prompt: str = SHORT_ANSWER,
    ) -> None:
        super().__init__(path=path, split=split, videos=videos, mapping=mapping, prompt=prompt)
