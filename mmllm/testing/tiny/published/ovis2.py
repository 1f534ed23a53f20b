"""Ovis 2."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.published.architectures.ovis2 import MARKS
from mmllm.testing.tiny.published.folder import LLM, PARTS, VIT, Case, Published

TOKENS = ("<image>", *MARKS)


def _config(token: int, changes: dict[str, Any]) -> Any:
    tower = {**VIT, "vocab_size": 25, "hidden_stride": 2, **changes.pop("tower", {})}
    own = tuple(range(token + 2, token + 2 + len(MARKS)))
    vocabulary = max(LLM["vocab_size"], own[-1] + 1)
    words: dict[str, Any] = {
        "vision_config": t.Ovis2Config.sub_configs["vision_config"](**tower),
        "text_config": t.Qwen2Config(**{**LLM, "vocab_size": vocabulary}),
        "hidden_size": LLM["hidden_size"],
        "vocab_size": vocabulary,
        "visual_indicator_token_ids": own,
    }
    return t.Ovis2Config(**{**words, "image_token_id": token, **changes})


def _processor(tokenizer: Any, template: str, config: Any) -> Any:
    tower = config.vision_config
    pictures = t.Ovis2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4)
    return t.Ovis2Processor(
        pictures, tokenizer, chat_template=template,
        image_seq_length=(tower.image_size // tower.patch_size // tower.hidden_stride) ** 2,
    )  # fmt: skip


PUBLISHED = {"Ovis2": Published(_config, _processor, "<IMG_ATOM>", PARTS.replace("MARK", "<image>"), TOKENS)}
CASES = {
    "Ovis 2": Case("Ovis2"),
    "Ovis 2, stride 1, the likeliest word, biases, untied": Case(
        "Ovis2",
        {
            "tower": {"hidden_stride": 1, "tokenize_function": "st_argmax", "qkv_bias": True, "mlp_bias": True},
            "tie_word_embeddings": False,
        },
    ),
    "Ovis 2, pictures whole": Case("Ovis2", tiles=False),
}
