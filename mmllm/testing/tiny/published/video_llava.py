"""Video-LLaVA."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import CLIPS, LLM, VIT, Case, Published


def _video_llava(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {"vision_config": t.CLIPVisionConfig(**VIT), "text_config": t.LlamaConfig(**LLM)}
    return t.VideoLlavaConfig(**{**words, "image_token_index": token, "video_token_index": token + 1, **changes})


def _processor(tokenizer: Any, template: str, config: Any) -> Any:
    words: dict[str, Any] = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    return t.VideoLlavaProcessor(
        t.VideoLlavaImageProcessor(**words), t.VideoLlavaVideoProcessor(**words), tokenizer, patch_size=7,
        vision_feature_select_strategy=config.vision_feature_select_strategy, chat_template=template,
    )  # fmt: skip


PUBLISHED = {"VideoLlava": Published(_video_llava, _processor, template=CLIPS, tokens=("<video>",))}
CASES = {
    "Video-LLaVA": Case("VideoLlava"),
    "Video-LLaVA, two layers, class tokens of pictures, tanh GELU": Case(
        "VideoLlava",
        {
            "vision_feature_layer": [-2, -1],
            "vision_feature_select_strategy": "full",
            "projector_hidden_act": "gelu_pytorch_tanh",
        },
    ),
}
