"""InternVL in the form of transformers."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import CLIPS, LLM, VIT, Case, Published


def _internvl(token: int, changes: dict[str, Any]) -> Any:
    tower = t.InternVLVisionConfig(**{**VIT, "image_size": (28, 28), "patch_size": (7, 7)})
    words: dict[str, Any] = {"vision_config": tower, "text_config": t.Qwen2Config(**LLM)}
    return t.InternVLConfig(**{**words, "image_token_id": token, **changes})


def _internvl_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True)
    return t.InternVLProcessor(
        pictures, tokenizer, t.InternVLVideoProcessor(size={"height": 28, "width": 28}), image_seq_length=4,
        chat_template=template,
    )  # fmt: skip


PUBLISHED = {
    "InternVL": Published(
        _internvl,
        _internvl_processor,
        "<IMG_CONTEXT>",
        CLIPS,
        named={
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
    ),
}
NORMED: dict[str, Any] = {**VIT, "image_size": (28, 28), "patch_size": (7, 7)}
CASES = {
    "InternVL": Case("InternVL"),
    "InternVL, the tower's norm": Case(
        "InternVL",
        {"vision_config": t.InternVLVisionConfig(**NORMED, use_mean_pooling=False, use_qk_norm=True)},
    ),
    "InternVL, an inner layer, relu": Case("InternVL", {"vision_feature_layer": -2, "projector_hidden_act": "relu"}),
    "InternVL, pictures whole": Case("InternVL", tiles=False),
}
