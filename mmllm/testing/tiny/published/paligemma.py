"""PaliGemma with Gemma, and PaliGemma 2 with Gemma 2."""

from __future__ import annotations

from typing import Any

import transformers as t
from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS

from mmllm.testing.tiny.published.folder import LLM, VIT, Case, Published

# a window shorter than a prefix, and both caps
GEMMA2: dict[str, Any] = {
    **LLM, "head_dim": 8, "query_pre_attn_scalar": 24, "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"], "attn_logit_softcapping": 1.0,
    "final_logit_softcapping": 3.0,
}  # fmt: skip


def _paligemma(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {
        "vision_config": t.SiglipVisionConfig(**VIT, vision_use_head=False),
        "text_config": t.GemmaConfig(**LLM, head_dim=8),
        "projection_dim": 32,
    }
    return t.PaliGemmaConfig(**{**words, "image_token_index": token, **changes})


def _paligemma_processor(tokenizer: Any, template: str, config: Any) -> Any:
    tokenizer.chat_template = None  # as those that were published
    pictures = t.SiglipImageProcessor(size={"height": 28, "width": 28})
    pictures.image_seq_length = 16
    return t.PaliGemmaProcessor(pictures, tokenizer)


PUBLISHED = {
    "PaliGemma": Published(_paligemma, _paligemma_processor, plain=tuple(EXTRA_TOKENS), bos=True),
}
CASES = {
    "PaliGemma": Case("PaliGemma"),
    "PaliGemma, untied": Case("PaliGemma", {"tie_word_embeddings": False}),
    "PaliGemma 2": Case("PaliGemma", {"text_config": t.Gemma2Config(**GEMMA2)}),
}
