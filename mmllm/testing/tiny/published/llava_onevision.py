"""LLaVA-OneVision."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import CLIPS, LLM, VIT, Case, Published

GRIDS = [[28 * rows, 28 * cols] for rows in range(1, 7) for cols in range(1, 7)]
"""The resolutions of published checkpoints, in tiles of 28 pixels."""
WIDE: dict[str, Any] = {**LLM, "max_position_embeddings": 2048}


def _onevision(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {"vision_config": t.SiglipVisionConfig(**VIT), "text_config": t.Qwen2Config(**WIDE)}
    words |= {"image_grid_pinpoints": GRIDS, **changes}
    return t.LlavaOnevisionConfig(**words, image_token_index=token, video_token_index=token + 1)


def _onevision_processor(tokenizer: Any, template: str, config: Any) -> Any:
    size = {"height": 28, "width": 28}
    pictures = t.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=config.image_grid_pinpoints)
    return t.LlavaOnevisionProcessor(
        pictures, tokenizer, t.LlavaOnevisionVideoProcessor(size=size), num_image_tokens=16,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_aspect_ratio=config.vision_aspect_ratio, chat_template=template,
    )  # fmt: skip


PUBLISHED = {"LlavaOnevision": Published(_onevision, _onevision_processor, template=CLIPS, tokens=("<video>",))}
CASES = {
    "LLaVA-OneVision, one picture and two": Case("LlavaOnevision"),
    "LLaVA-OneVision, maps shrunk, tied": Case(
        "LlavaOnevision",
        {"vision_aspect_ratio": "anyres_max_4", "text_config": t.Qwen2Config(**WIDE, tie_word_embeddings=True)},
    ),
    "LLaVA-OneVision, a layer inside, no biases, tanh GELU": Case(
        "LlavaOnevision",
        {
            "vision_feature_layer": -2,
            "multimodal_projector_bias": False,
            "projector_hidden_act": "gelu_pytorch_tanh",
            "image_grid_pinpoints": GRIDS[:9],
        },
    ),
}
