"""DeepSeek-VL with one tower and with two."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, VIT, Case, Published


def _deepseek(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {"vision_config": t.SiglipVisionConfig(**VIT), "text_config": t.LlamaConfig(**LLM)}
    return t.DeepseekVLConfig(**{**words, "image_token_id": token, **changes})


def _deepseek_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.DeepseekVLImageProcessor(size={"height": 28, "width": 28}, min_size=4)
    return t.DeepseekVLProcessor(pictures, tokenizer, chat_template=template, num_image_tokens=16)


def _hybrid(token: int, changes: dict[str, Any]) -> Any:
    high = t.SamVisionConfig(
        hidden_size=16, output_channels=8, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=8,
        mlp_dim=32, window_size=4, global_attn_indexes=[1, 2], num_pos_feats=4,
    )  # fmt: skip
    words: dict[str, Any] = {"vision_config": t.SiglipVisionConfig(**VIT), "text_config": t.LlamaConfig(**LLM)}
    words["high_res_vision_config"] = high
    return t.DeepseekVLHybridConfig(**{**words, "image_token_id": token, **changes})


def _hybrid_processor(tokenizer: Any, template: str, config: Any) -> Any:
    low, high = ({"height": side, "width": side} for side in (28, config.high_res_vision_config.image_size))
    pictures = t.DeepseekVLHybridImageProcessor(size=low, high_res_size=high, min_size=4)
    return t.DeepseekVLHybridProcessor(pictures, tokenizer, chat_template=template, num_image_tokens=16)


PUBLISHED = {
    "DeepseekVL": Published(
        _deepseek,
        _deepseek_processor,
        "<image_placeholder>",
        named={"image_token": "<image_placeholder>"},
    ),
    "DeepseekVLHybrid": Published(
        _hybrid,
        _hybrid_processor,
        "<image_placeholder>",
        named={"image_token": "<image_placeholder>"},
    ),
}
CASES = {
    "DeepSeek-VL": Case("DeepseekVL"),
    "DeepSeek-VL, untied": Case("DeepseekVL", {"tie_word_embeddings": False}),
    "DeepSeek-VL, two towers": Case("DeepseekVLHybrid"),
}
