"""LLaVA 1.5 with CLIP and SigLIP."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, VIT, Case, Published


def _llava(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {"vision_config": t.CLIPVisionConfig(**VIT), "text_config": t.LlamaConfig(**LLM)}
    return t.LlavaConfig(**{**words, "image_token_index": token, **changes})


def _llava_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)
    strategy = config.vision_feature_select_strategy
    # tokens that the processor counts besides patches: the class token, where the tower has one
    extra = 1 if isinstance(config.vision_config, t.CLIPVisionConfig) else 0
    words = {"patch_size": 7, "vision_feature_select_strategy": strategy, "num_additional_image_tokens": extra}
    return t.LlavaProcessor(pictures, tokenizer, chat_template=template, image_token="<image>", **words)


PUBLISHED = {"Llava": Published(_llava, _llava_processor)}
SIGLIP: dict[str, Any] = {"vision_config": t.SiglipVisionConfig(**VIT), "vision_feature_select_strategy": "full"}
CASES = {
    "LLaVA 1.5": Case("Llava"),
    "LLaVA, two layers": Case("Llava", {"vision_feature_layer": [-2, -1]}),
    "LLaVA, no biases, tanh GELU": Case(
        "Llava", {"multimodal_projector_bias": False, "projector_hidden_act": "gelu_pytorch_tanh"}
    ),
    "LLaVA, all patches of SigLIP": Case("Llava", SIGLIP),
    "LLaVA, class token and patches": Case("Llava", {"vision_feature_select_strategy": "full"}),
    "LLaVA, class tokens of two layers": Case(
        "Llava", {"vision_feature_select_strategy": "full", "vision_feature_layer": [-2, -1]}
    ),
    "LLaVA, a first token in front": Case("Llava", {"bos": True}),
    "LLaVA, Qwen2, tied": Case(
        "Llava",
        {"text_config": t.Qwen2Config(**LLM, tie_word_embeddings=True), "tie_word_embeddings": True},
    ),
    "LLaVA, Qwen2, untied": Case("Llava", {"text_config": t.Qwen2Config(**LLM)}),
}
