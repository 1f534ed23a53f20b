"""Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), Qwen2.5-VL (Bai et al. 2025, arXiv 2502.13923) and Qwen3-VL."""

from __future__ import annotations

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower up to its merger, for pictures at their own size, and ``pixel_shuffle``, which is the merger.

    In Qwen3-VL ``deepstack``: inner layers have mergers too, whose tokens are added behind the LLM's first blocks.
    Positions on three axes are the LLM's own.
    """
    tower = source.config.vision_config
    inner = tower.deepstack_visual_indexes if source.config.model_type == "qwen3_vl" else ()
    encoder = {"type": "hf_native", "model": source.path, "layers": [*(block + 1 for block in inner), -1]}
    token = source.token(source.config.image_token_id)
    return Sections(
        {"image": encoder}, {"image": {**projector_words(source.path, source.config), "from": "image", "token": token}}
    )
