"""Gemma 3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, VIT, Case, Published

# a window shorter than a picture, of a layer that has one
TEXT: dict[str, Any] = {
    **LLM, "head_dim": 8, "query_pre_attn_scalar": 24, "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip


def _gemma3(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {
        "vision_config": t.SiglipVisionConfig(**VIT, vision_use_head=False),
        "text_config": t.Gemma3TextConfig(**TEXT),
        "mm_tokens_per_image": 4,
    }
    return t.Gemma3Config(**{**words, "image_token_index": token, **changes})


def _gemma3_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.Gemma3ImageProcessor(size={"height": 28, "width": 28})
    # the template writes the token of a picture's beginning
    template = template.replace("<image_soft_token>", "<start_of_image>")
    return t.Gemma3Processor(pictures, tokenizer, chat_template=template, image_seq_length=config.mm_tokens_per_image)


def _cropping(tokenizer: Any, template: str, config: Any) -> Any:
    made = _gemma3_processor(tokenizer, template, config)
    made.image_processor.do_pan_and_scan = True
    made.image_processor.pan_and_scan_min_crop_size = 28  # how many crops, and of what shape, as its class says
    return made


_PLAIN = Published(
    _gemma3,
    _gemma3_processor,
    "<image_soft_token>",
    named={
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
    # Gemma's tokenizers have runs of line breaks as tokens: those around a picture become one with the text's
    plain=("\n\n", "\n\n\n"),
)
PUBLISHED = {"Gemma3": _PLAIN, "Gemma3Cropping": replace(_PLAIN, processor=_cropping, kind="Gemma3")}
SCALED = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
CASES = {
    "Gemma 3": Case("Gemma3"),
    "Gemma 3, pan and scan": Case("Gemma3Cropping"),
    "Gemma 3, pictures whole": Case("Gemma3Cropping", tiles=False),
    "Gemma 3, 16 tokens of a picture": Case("Gemma3", {"mm_tokens_per_image": 16}),
    "Gemma 3, scaled positions": Case("Gemma3", {"text_config": t.Gemma3TextConfig(**TEXT, rope_parameters=SCALED)}),
    "Gemma 3, a first token, untied": Case("Gemma3", {"bos": True, "tie_word_embeddings": False}),
    "Gemma 3, a cap on its logits that is not applied": Case(
        "Gemma3", {"text_config": t.Gemma3TextConfig(**TEXT, final_logit_softcapping=0.5)}
    ),
}
