"""LFM2-VL."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, PARTS, VIT, Case, Published

NAFLEX: dict[str, Any] = {
    **{word: value for word, value in VIT.items() if word != "image_size"}, "num_patches": 16, "num_channels": 3
}  # fmt: skip
MIXED = ["conv", "full_attention"]


def _config(token: int, changes: dict[str, Any]) -> Any:
    text = {**LLM, "layer_types": MIXED, **changes.pop("text", {})}
    words: dict[str, Any] = {"vision_config": t.Siglip2VisionConfig(**NAFLEX), "text_config": t.Lfm2Config(**text)}
    return t.Lfm2VlConfig(**{**words, "image_token_id": token, "projector_hidden_size": 24, **changes})


def _processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.Lfm2VlImageProcessor(
        encoder_patch_size=7, downsample_factor=config.downsample_factor, tile_size=56, min_image_tokens=4,
        max_image_tokens=256 // config.downsample_factor**2, max_tiles=6,
    )  # fmt: skip
    return t.Lfm2VlProcessor(pictures, tokenizer, chat_template=template)


_ROWS = tuple(f"<|img_row_{row}_col_{col}|>" for row in range(1, 7) for col in range(1, 7) if row * col <= 6)
TOKENS = ("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *_ROWS)
PUBLISHED = {"Lfm2Vl": Published(_config, _processor, template=PARTS, tokens=TOKENS)}
CASES = {
    "LFM2-VL": Case("Lfm2Vl"),
    "LFM2-VL, no norm, no biases, tanh GELU, untied": Case(
        "Lfm2Vl",
        {
            "projector_use_layernorm": False,
            "projector_bias": False,
            "projector_hidden_act": "gelu_pytorch_tanh",
            "tie_word_embeddings": False,
            "text": {"layer_types": ["full_attention", "conv"], "conv_L_cache": 4},
        },
    ),
    "LFM2-VL, factor 4, pictures whole": Case("Lfm2Vl", {"downsample_factor": 4}, tiles=False),
}
