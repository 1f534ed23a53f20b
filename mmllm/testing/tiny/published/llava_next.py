"""LLaVA-NeXT with CLIP and SigLIP, and LLaVA-NeXT-Video."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import CLIPS, LLM, VIT, Case, Published

GRIDS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
"""The resolutions of published checkpoints, in tiles of 28 pixels."""


def _llava_next(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {"vision_config": t.CLIPVisionConfig(**VIT), "text_config": t.LlamaConfig(**LLM)}
    words |= {"image_grid_pinpoints": GRIDS, **changes}
    return t.LlavaNextConfig(**words, image_token_index=token)


def _llava_next_processor(tokenizer: Any, template: str, config: Any) -> Any:
    size = {"height": 28, "width": 28}
    pictures = t.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size=size, image_grid_pinpoints=config.image_grid_pinpoints
    )
    strategy = config.vision_feature_select_strategy
    extra = 1 if strategy == "default" else 0
    words = {"patch_size": 7, "vision_feature_select_strategy": strategy, "num_additional_image_tokens": extra}
    return t.LlavaNextProcessor(pictures, tokenizer, chat_template=template, image_token="<image>", **words)


def _next_video(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {"vision_config": t.CLIPVisionConfig(**VIT), "text_config": t.LlamaConfig(**LLM)}
    words |= {"image_grid_pinpoints": GRIDS, **changes}
    return t.LlavaNextVideoConfig(**words, image_token_index=token, video_token_index=token + 1)


def _next_video_processor(tokenizer: Any, template: str, config: Any) -> Any:
    size = {"height": 28, "width": 28}
    pictures = t.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size=size, image_grid_pinpoints=config.image_grid_pinpoints
    )
    clips = t.LlavaNextVideoVideoProcessor(size={"shortest_edge": 28}, crop_size=size)
    return t.LlavaNextVideoProcessor(
        clips, pictures, tokenizer, chat_template=template, patch_size=7, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


PUBLISHED = {
    "LlavaNext": Published(_llava_next, _llava_next_processor),
    "LlavaNextVideo": Published(_next_video, _next_video_processor, template=CLIPS, tokens=("<video>",)),
}
SIGLIP: dict[str, Any] = {"vision_config": t.SiglipVisionConfig(**VIT), "vision_feature_select_strategy": "full"}
CASES = {
    "LLaVA-NeXT": Case("LlavaNext"),
    "LLaVA-NeXT, SigLIP, two layers, relu": Case(
        "LlavaNext", {**SIGLIP, "vision_feature_layer": [-2, -1], "projector_hidden_act": "relu"}
    ),
    # 333 x 250 on 12 x 16 tokens, of which an odd number is border
    "LLaVA-NeXT, Qwen2, tied, an odd border": Case(
        "LlavaNext",
        {
            "text_config": t.Qwen2Config(**LLM),
            "tie_word_embeddings": True,
            "image_grid_pinpoints": [[84, 112], [112, 56], [140, 84]],
        },
    ),
    "LLaVA-NeXT-Video": Case("LlavaNextVideo"),
    "LLaVA-NeXT-Video, largest of a block, no biases": Case(
        "LlavaNextVideo", {"spatial_pool_mode": "max", "multimodal_projector_bias": False}
    ),
}
