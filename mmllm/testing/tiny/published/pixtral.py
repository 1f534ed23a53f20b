"""Pixtral, which is of LLaVA's class, and Mistral 3."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, Case, Published

TOWER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 8,
}  # fmt: skip
TOKENS = ("[IMG_BREAK]", "[IMG_END]")
TEXT: dict[str, Any] = {**LLM, "head_dim": 8}


def _pixtral(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {
        "vision_config": t.PixtralVisionConfig(**TOWER),
        "text_config": t.MistralConfig(**TEXT),
        "vision_feature_select_strategy": "full",
        "vision_feature_layer": -1,
    }
    return t.LlavaConfig(**{**words, "image_token_index": token, **changes})


def _mistral3(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {
        "vision_config": t.PixtralVisionConfig(**TOWER),
        # the eps of its projector is the text's
        "text_config": t.MistralConfig(**TEXT, rms_norm_eps=1e-2),
        "tie_word_embeddings": False,
    }
    return t.Mistral3Config(**{**words, "image_token_index": token, **changes})


def _processor(tokenizer: Any, template: str, config: Any) -> Any:
    merge = config.spatial_merge_size if isinstance(config, t.Mistral3Config) else 1
    # its own patch is no tower's: the processor says it anew for each picture
    pictures = t.PixtralImageProcessor(size={"longest_edge": 64}, patch_size=16)
    return t.PixtralProcessor(pictures, tokenizer, patch_size=8, spatial_merge_size=merge, chat_template=template)


def _ministral() -> Any:
    """The LLM of Ministral 3, whose queries grow with their position behind the first 16."""
    rope = {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 32.0, "original_max_position_embeddings": 16,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
    }  # fmt: skip
    return t.Ministral3Config(**TEXT, rope_parameters=rope)


PUBLISHED = {
    "Pixtral": Published(_pixtral, _processor, "[IMG]", tokens=TOKENS, kind="Llava"),
    "Mistral3": Published(_mistral3, _processor, "[IMG]", tokens=TOKENS),
}
CASES = {
    "Pixtral": Case("Pixtral"),
    "Pixtral, two layers, no biases": Case(
        "Pixtral", {"vision_feature_layer": [-2, 1], "multimodal_projector_bias": False, "projector_hidden_act": "silu"}
    ),
    "Mistral 3": Case("Mistral3"),
    "Mistral 3, patches not merged, tied": Case("Mistral3", {"spatial_merge_size": 1, "tie_word_embeddings": True}),
    "Mistral 3, the LLM of Ministral 3": Case("Mistral3", {"text_config": _ministral()}),
    "Mistral 3, blocks of 3 x 3, biases, an inner layer": Case(
        "Mistral3",
        {"spatial_merge_size": 3, "multimodal_projector_bias": True, "vision_feature_layer": -2},
    ),
}
