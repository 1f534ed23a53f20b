"""Tiny random published VLMs in the folders that their own classes save: weights, processor, tokenizer, template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t
from safetensors.torch import save_file
from transformers import PreTrainedModel

from mmllm.testing.tiny.llms import tiny_tokenizer
from mmllm.testing.tiny.published import folder as published
from mmllm.testing.tiny.published.folder import VIT

LLM: dict[str, Any] = {**published.LLM, "max_position_embeddings": 128}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
EAR = {"num_mel_bins": 16, "max_source_positions": 1500}


def _clip() -> Any:
    return t.CLIPVisionConfig(**VIT)


def _siglip() -> Any:
    return t.SiglipVisionConfig(**VIT)


def _qwen(kind: Any, **vision: Any) -> Any:
    return kind(text_config={**LLM, "rope_parameters": ROPE}, vision_config={"depth": 2, "patch_size": 7, **vision})


CONFIGS: dict[str, Callable[[], Any]] = {
    "Llava": lambda: t.LlavaConfig(vision_config=_clip(), text_config=t.LlamaConfig(**LLM), image_token_index=383),
    "LlavaNext": lambda: t.LlavaNextConfig(
        vision_config=_clip(), text_config=t.LlamaConfig(**LLM), image_token_index=383
    ),
    "LlavaOnevision": lambda: t.LlavaOnevisionConfig(
        vision_config=_siglip(), text_config=t.Qwen2Config(**LLM, tie_word_embeddings=True), image_token_index=383,
        vision_feature_select_strategy="full",
    ),
    "PaliGemma": lambda: t.PaliGemmaConfig(
        vision_config=_siglip(), text_config=t.GemmaConfig(**LLM, head_dim=8), image_token_index=383, projection_dim=32
    ),
    "Gemma3": lambda: t.Gemma3Config(
        vision_config=_siglip(), mm_tokens_per_image=4,
        text_config=t.Gemma3TextConfig(**LLM, head_dim=8, final_logit_softcapping=0.5, sliding_window=6),
    ),
    "Qwen2VL": lambda: _qwen(t.Qwen2VLConfig, embed_dim=16, num_heads=2, hidden_size=32),
    "Qwen2_5_VL": lambda: _qwen(
        t.Qwen2_5_VLConfig, hidden_size=16, num_heads=2, out_hidden_size=32, intermediate_size=32
    ),
    "InternVL": lambda: t.InternVLConfig(
        vision_config=t.InternVLVisionConfig(**{**VIT, "image_size": (28, 28), "patch_size": (7, 7)}),
        text_config=t.Qwen2Config(**LLM), image_token_id=383,
    ),
    "Idefics3": lambda: t.Idefics3Config(
        vision_config=dict(VIT), text_config=t.LlamaConfig(**LLM), image_token_id=383, scale_factor=2
    ),
    "SmolVLM": lambda: t.SmolVLMConfig(
        vision_config=dict(VIT), text_config=t.LlamaConfig(**LLM), image_token_id=383, scale_factor=2
    ),
    "Mllama": lambda: t.MllamaConfig(
        vision_config=dict(
            **_WORDS, attention_heads=2, num_global_layers=1, intermediate_size=32, vision_output_dim=32,
            intermediate_layers_indices=[0], max_num_tiles=2, supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
        ),
        text_config=dict(**{**LLM, "num_hidden_layers": 3}, cross_attention_layers=[1]), image_token_index=383,
    ),
    "AyaVision": lambda: t.AyaVisionConfig(
        vision_config=_siglip(), text_config=t.Cohere2Config(**LLM, logit_scale=0.25)
    ),
    "Qwen2Audio": lambda: t.Qwen2AudioConfig(
        audio_token_index=383,
        audio_config=dict(d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, **EAR),
        text_config=t.Qwen2Config(**LLM),
    ),
    "Voxtral": lambda: t.VoxtralConfig(
        audio_config=dict(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **EAR
        ),
        text_config={"model_type": "llama", **LLM, "head_dim": 8},
    ),
}  # fmt: skip
"""Beginning of the class's name -> its tiny config."""

_WORDS = {"hidden_size": 16, "num_hidden_layers": 2, "image_size": 28, "patch_size": 7}
FOREIGN: dict[str, Callable[[], Any]] = {
    "VipLlavaForConditionalGeneration": lambda: t.VipLlavaConfig(
        vision_config=_clip(), text_config=t.LlamaConfig(**LLM), image_token_index=383
    ),
    "GotOcr2ForConditionalGeneration": lambda: t.GotOcr2Config(
        vision_config=dict(
            hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=64,
            patch_size=16, mlp_dim=32, global_attn_indexes=[1], window_size=2,
        ),
        text_config=t.Qwen2Config(**LLM), image_token_id=383,
    ),
    "Glm4vForConditionalGeneration": lambda: _qwen(
        t.Glm4vConfig, hidden_size=16, num_heads=2, image_size=28, out_hidden_size=32, intermediate_size=32
    ),
    "VideoMAEModel": lambda: t.VideoMAEConfig(**VIT, num_frames=2),
}  # fmt: skip
"""Class -> tiny config of a model whose vision tower no encoder computes."""


def foreign_folder(name: str, folder: Path) -> Path:
    """Folder of a tiny random model of a class of ``FOREIGN``."""
    getattr(t, name)(FOREIGN[name]()).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    t.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder)
    return folder


def tiny_vlm(name: str) -> PreTrainedModel:
    """A random ``<name>ForConditionalGeneration`` in float32, in eval mode, with weights large enough to show."""
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(t, f"{name}ForConditionalGeneration")(CONFIGS[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def vlm_folder(name: str, folder: Path, names: str = "old", **options: Any) -> tuple[Path, PreTrainedModel]:
    """Folder of a tiny VLM and the VLM itself.

    ``names``: ``old``: tensors as files on the hub have them, ``new``: as the model in memory calls them. ``options``
    go to ``save_pretrained`` (``max_shard_size``).
    """
    model = tiny_vlm(name)
    model.save_pretrained(folder, **options)
    if names == "new":
        tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        if model.lm_head.weight is model.get_input_embeddings().weight:
            tensors.pop("lm_head.weight")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_tokenizer().save_pretrained(folder)
    if hasattr(model.config, "audio_config"):
        t.WhisperFeatureExtractor(feature_size=EAR["num_mel_bins"]).save_pretrained(folder)
    else:
        t.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder)
    return folder, model
