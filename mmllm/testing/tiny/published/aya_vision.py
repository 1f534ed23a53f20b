"""Aya Vision."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, PARTS, VIT, Case, Published

PATCH = "<|IMG_PATCH|>"


def _aya(token: int, changes: dict[str, Any]) -> Any:
    # layers with a window shorter than a conversation, and one without, which has no positions
    cohere = {**LLM, "num_hidden_layers": 3, "sliding_window": 8, "logit_scale": 0.25}
    cohere["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    words: dict[str, Any] = {"vision_config": t.SiglipVisionConfig(**VIT), "text_config": t.Cohere2Config(**cohere)}
    return t.AyaVisionConfig(**{**words, **changes}, image_token_index=token)


def _aya_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True)
    return t.AyaVisionProcessor(
        pictures, tokenizer, patch_size=7, img_size=28, downsample_factor=config.downsample_factor,
        chat_template=template,
    )  # fmt: skip


TILES = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "TILE_GLOBAL", *(f"TILE_{n}" for n in range(1, 13)))
PUBLISHED = {
    "AyaVision": Published(_aya, _aya_processor, PATCH, PARTS.replace("MARK", "<image>"), TILES),
}
CASES = {
    "Aya Vision": Case("AyaVision"),
    "Aya Vision, untied, another width inside": Case(
        "AyaVision",
        {"alignment_intermediate_size": 24, "adapter_layer_norm_eps": 1e-3, "tie_word_embeddings": False},
    ),
    "Aya Vision, factor 4, an inner layer, pictures whole": Case(
        "AyaVision", {"downsample_factor": 4, "vision_feature_layer": -2}, tiles=False
    ),
}
