"""Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), Qwen2.5-VL (Bai et al. 2025, arXiv 2502.13923) and Qwen3-VL."""

from __future__ import annotations

from typing import Any

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower up to its merger, for pictures and clips at their own size, and ``pixel_shuffle``, which is the merger.

    In Qwen3-VL ``deepstack``: inner layers have mergers too, whose tokens are added behind the LLM's first blocks.
    Positions on three axes are the LLM's own.
    """
    config = source.config
    inner = config.vision_config.deepstack_visual_indexes if config.model_type == "qwen3_vl" else ()
    tower = {"model": source.path, "layers": [*(block + 1 for block in inner), -1]}
    merger = projector_words(source.path, config)
    picture = {**merger, "from": "image", "token": source.token(config.image_token_id)}
    clip = {
        **merger,
        "shares": "image",
        "from": "video",
        "token": source.token(config.video_token_id),
        **_times(source),
    }
    return Sections(
        {"image": {"type": "hf_native", **tower}, "video": {"type": "hf_video", **tower, **source.sampling()}},
        {"image": picture, "video": clip},
    )


def _times(source: Source) -> dict[str, Any]:
    """What Qwen3-VL's processor writes at each step of a clip; the others' LLMs are told times by positions."""
    if source.config.model_type != "qwen3_vl":
        return {}
    begin, end = source.processor.vision_start_token, source.processor.vision_end_token
    return {"steps": {"step": f"<{{s:.1f}} seconds>{begin}", "between": end}, "around": ["", end]}
