"""Idefics2."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, PARTS, VIT, Case, Published

PERCEIVER: dict[str, Any] = {
    "resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 6,
    "num_key_value_heads": 2, "hidden_size": 32,
}  # fmt: skip


def _idefics2(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {
        "vision_config": dict(VIT),
        "perceiver_config": {**PERCEIVER, **changes.pop("perceiver", {})},
        "text_config": t.MistralConfig(**LLM, head_dim=8),
    }
    return t.Idefics2Config(**{**words, "image_token_id": token, **changes})


def _processor(tokenizer: Any, template: str, config: Any) -> Any:
    # 33 pixels of a side are four patches and a rest
    pictures = t.Idefics2ImageProcessor(size={"longest_edge": 56, "shortest_edge": 21}, do_image_splitting=False)
    latents = config.perceiver_config.resampler_n_latents
    return t.Idefics2Processor(pictures, tokenizer, image_seq_len=latents, chat_template=template)


def _splitting(tokenizer: Any, template: str, config: Any) -> Any:
    made = _processor(tokenizer, template, config)
    made.image_processor.do_image_splitting = True
    return made


TOKENS = ("<fake_token_around_image>", "<end_of_utterance>")
PUBLISHED = {
    "Idefics2": Published(_idefics2, _processor, tokens=TOKENS),
    "Idefics2Splitting": Published(_idefics2, _splitting, tokens=TOKENS, kind="Idefics2"),
}
CASES = {
    "Idefics2": Case("Idefics2"),
    "Idefics2, one head of keys, gelu, text on a new line": Case(
        "Idefics2",
        {
            "perceiver": {"num_key_value_heads": 1, "hidden_act": "gelu", "rms_norm_eps": 1e-5},
            "template": PARTS.replace("{{ 'MARK' }}", "{{ 'MARK\n' }}"),
        },
    ),
    "Idefics2, quarters": Case("Idefics2Splitting"),
    "Idefics2, pictures whole": Case("Idefics2Splitting", tiles=False),
}
