"""Llama 4: experts, blocks that attend in chunks, others without positions whose temperature falls."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, PARTS, VIT, Case, Published

TEXT: dict[str, Any] = {
    **LLM, "head_dim": 8, "num_hidden_layers": 3, "intermediate_size_mlp": 40, "num_local_experts": 3,
    "interleave_moe_layer_step": 2, "no_rope_layer_interval": 2, "attention_chunk_size": 400, "floor_scale": 16,
    "attn_scale": 0.5,
}  # fmt: skip
TOWER: dict[str, Any] = {
    **VIT, "intermediate_size": 64, "projector_input_dim": 24, "projector_output_dim": 24, "vision_output_dim": 24,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip


def _config(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {
        "vision_config": t.Llama4VisionConfig(**{**TOWER, **changes.pop("tower", {})}),
        "text_config": t.Llama4TextConfig(**{**TEXT, **changes.pop("text", {})}),
    }
    return t.Llama4Config(**{**words, "image_token_index": token, **changes})


def _processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.Llama4ImageProcessor(size={"height": 28, "width": 28}, max_patches=4)
    ratio = config.vision_config.pixel_shuffle_ratio
    return t.Llama4Processor(pictures, tokenizer, patch_size=7, pixel_shuffle_ratio=ratio, chat_template=template)


TOKENS = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>")
PUBLISHED = {"Llama4": Published(_config, _processor, "<|patch|>", PARTS.replace("MARK", "<|image|>"), TOKENS)}
CASES = {
    "Llama 4": Case("Llama4"),
    "Llama 4, experts everywhere, two a token, no norm of queries, tied": Case(
        "Llama4",
        {
            "text": {
                "interleave_moe_layer_step": 1,
                "num_experts_per_tok": 2,
                "use_qk_norm": False,
                "attention_bias": True,
                "tie_word_embeddings": True,
            }
        },
    ),
    "Llama 4, positions everywhere, no experts, pictures whole": Case(
        "Llama4",
        {"text": {"no_rope_layers": [1, 1, 1], "attn_temperature_tuning": False, "moe_layers": []}},
        tiles=False,
    ),
}
