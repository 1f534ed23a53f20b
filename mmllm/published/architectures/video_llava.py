"""Video-LLaVA (Lin et al. 2023, arXiv 2311.10122): a tower for pictures, another for frames, one projector behind."""

from __future__ import annotations

from mmllm.published.architectures.llava import frames, patches, projector
from mmllm.published.source import Sections, Source


def sections(source: Source) -> Sections:
    """LLaVA's layers of both towers and ``mlp``; of frames the class token as well, whatever is taken of pictures."""
    mlp = projector(source)
    clip = frames(source, class_token=True)
    clip["image"] |= {"tower": "video", "keep": "all"}
    token = source.token(source.config.video_token_id)
    return Sections(
        {"image": {**patches(source, class_token=True), "fit": "own"}, "video": clip},
        {"image": mlp, "video": {**mlp, "shares": "image", "from": "video", "token": token}},
    )
