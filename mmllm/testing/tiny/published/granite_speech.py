"""Granite Speech, with and without a LoRA beside its weights; its processor needs the package torchaudio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as t
from peft import LoraConfig

from mmllm.testing.tiny.published.folder import LLM, Case, Published

ENCODER: dict[str, Any] = {
    "input_dim": 160, "hidden_dim": 16, "num_layers": 2, "num_heads": 2, "context_size": 20, "max_pos_emb": 24,
    "conv_kernel_size": 5, "output_dim": 6, "feedforward_mult": 2,
}  # fmt: skip
QFORMER: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
    "encoder_hidden_size": 16, "cross_attention_frequency": 1,
}  # fmt: skip
SCALES = {"embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}


def _config(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {
        "encoder_config": t.GraniteSpeechEncoderConfig(**{**ENCODER, **changes.pop("encoder", {})}),
        "projector_config": t.Blip2QFormerConfig(**{**QFORMER, **changes.pop("qformer", {})}),
        "text_config": t.GraniteConfig(**LLM, **SCALES),
    }
    return t.GraniteSpeechConfig(**{**words, "audio_token_index": token, "has_lora_adapter": False, **changes})


def _processor(tokenizer: Any, template: str, config: Any) -> Any:
    extractor = t.GraniteSpeechFeatureExtractor(
        projector_window_size=config.window_size, projector_downsample_rate=config.downsample_rate
    )  # fmt: skip
    return t.GraniteSpeechProcessor(extractor, tokenizer, chat_template=template)


def _with_lora(model: Any, folder: Path) -> None:
    """Its weights, and beside them a random adapter of its LLM."""
    # not by its own save_pretrained once the adapter is there: transformers 5.23 then writes names of weights
    # (base_layer) that its from_pretrained does not find
    model.save_pretrained(folder)
    model.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.peft_config["default"].base_model_name_or_path = str(folder)
    t.PreTrainedModel.save_pretrained(model, folder)


PUBLISHED = {
    "GraniteSpeech": Published(_config, _processor, "<|audio|>", modality="audio", package="torchaudio"),
    "GraniteSpeechLora": Published(
        _config, _processor, "<|audio|>", modality="audio", package="torchaudio", kind="GraniteSpeech", saved=_with_lora
    ),
}
CASES = {
    "Granite Speech": Case("GraniteSpeech"),
    "Granite Speech, a LoRA for sounds": Case("GraniteSpeechLora", {"has_lora_adapter": True}),
    "Granite Speech, other windows and blocks, untied": Case(
        "GraniteSpeech",
        {
            "window_size": 6,
            "downsample_rate": 3,
            "encoder": {"num_layers": 3, "conv_kernel_size": 4, "dim_head": 5},
            "qformer": {"cross_attention_frequency": 2, "hidden_act": "relu", "layer_norm_eps": 1e-6},
            "tie_word_embeddings": False,
        },
    ),
}
