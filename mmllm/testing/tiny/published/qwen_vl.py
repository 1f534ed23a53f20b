"""Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, PARTS, Case, Published

TEXT: dict[str, Any] = {
    **LLM,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
}
VISION: dict[str, Any] = {"depth": 2, "patch_size": 7, "num_heads": 2}
TOWERS: dict[str, dict[str, Any]] = {
    "Qwen2VL": {**VISION, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    "Qwen2_5_VL": {
        **VISION, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "window_size": 56,
        "fullatt_block_indexes": [1],
    },
    "Qwen3VL": {
        **VISION, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    },
}  # fmt: skip


def _config(kind: str) -> Any:
    def made(token: int, changes: dict[str, Any]) -> Any:
        # copies: configurations write into what they are given
        given = deepcopy(changes)
        tower, text = {**TOWERS[kind], **given.pop("tower", {})}, {**deepcopy(TEXT), **given.pop("text", {})}
        words: dict[str, Any] = {"text_config": text, "vision_config": tower, "image_token_id": token}
        return getattr(t, f"{kind}Config")(**{**words, "video_token_id": token + 1, **given})

    return made


def _processor(kind: str) -> Any:
    def made(tokenizer: Any, template: str, config: Any) -> Any:
        pictures = t.Qwen2VLImageProcessor(patch_size=7, size={"shortest_edge": 14 * 14 * 4, "longest_edge": 70 * 70})
        videos = VIDEOS[kind](patch_size=7, size={"shortest_edge": 14 * 14 * 4, "longest_edge": 70 * 70})
        return getattr(t, f"{kind}Processor")(pictures, tokenizer, videos, chat_template=template)

    return made


VIDEOS = {"Qwen2VL": t.Qwen2VLVideoProcessor, "Qwen2_5_VL": t.Qwen2VLVideoProcessor, "Qwen3VL": t.Qwen3VLVideoProcessor}
TOKENS = ("<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
VIDEO = "{% elif part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}{% else %}"
TEMPLATE = PARTS.replace("MARK", "<|vision_start|>MARK<|vision_end|>").replace("{% else %}", VIDEO, 1)
PUBLISHED = {kind: Published(_config(kind), _processor(kind), "<|image_pad|>", TEMPLATE, TOKENS) for kind in TOWERS}
ROPE: dict[str, Any] = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
WINDOW: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
CASES = {
    "Qwen2-VL": Case("Qwen2VL"),
    "Qwen2-VL, other sections, tied": Case("Qwen2VL", {"text": {"rope_parameters": ROPE}, "tie_word_embeddings": True}),
    "Qwen2-VL, a sliding window": Case("Qwen2VL", {"text": WINDOW}),
    "Qwen2.5-VL": Case("Qwen2_5_VL"),
    "Qwen2.5-VL, full attention everywhere": Case("Qwen2_5_VL", {"tower": {"fullatt_block_indexes": [0, 1]}}),
    "Qwen2.5-VL, windows everywhere": Case(
        "Qwen2_5_VL", {"tower": {"fullatt_block_indexes": [], "window_size": 28}, "tie_word_embeddings": True}
    ),
    "Qwen3-VL": Case("Qwen3VL"),
    "Qwen3-VL, two stacks, tied": Case(
        "Qwen3VL",
        {
            "tower": {"deepstack_visual_indexes": [0, 1]},
            "text": {"num_hidden_layers": 3},
            "tie_word_embeddings": True,
        },
    ),
    "Qwen3-VL, no stacks": Case("Qwen3VL", {"tower": {"deepstack_visual_indexes": []}}),
}
