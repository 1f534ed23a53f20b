"""DeepSeek-VL with one tower."""

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


PUBLISHED = {
    "DeepseekVL": Published(
        _deepseek,
        _deepseek_processor,
        "<image_placeholder>",
        named={"image_token": "<image_placeholder>"},
    ),
}
CASES = {
    "DeepSeek-VL": Case("DeepseekVL"),
    "DeepSeek-VL, untied": Case("DeepseekVL", {"tie_word_embeddings": False}),
}
