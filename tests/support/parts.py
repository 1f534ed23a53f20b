"""Tiny random parts that tests share: those of ``mmllm.testing``, and vision encoders of many kinds as folders.

- ``tiny_llm(family)`` -> ``mmllm.llms.causal_lm.CausalLM``; ``FAMILIES`` lists the names (``llama``, ``gemma2``, ...)
- ``tiny_model(family)`` -> the plain transformers model with the same weights as ``tiny_llm(family)``
- ``tiny_llm_folder(tmp, family)`` -> folder that ``llm: {path: ...}`` accepts (model + tokenizer)
- ``tiny_tokenizer()`` -> fast tokenizer with a ChatML template that has ``{% generation %}`` marks
- ``tiny_clip_folder(tmp)`` / ``tiny_vision_folder(tmp, kind)`` -> folder for ``hf_vision`` (28 px, 16 patches)
- ``randomise(module)`` gives every weight a value
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from mmllm.testing.tiny.llms import FAMILIES, tiny_llm, tiny_llm_folder, tiny_model, tiny_tokenizer
from mmllm.testing.tiny.weights import randomise

__all__ = [
    "FAMILIES",
    "randomise",
    "tiny_clip_folder",
    "tiny_llm",
    "tiny_llm_folder",
    "tiny_model",
    "tiny_tokenizer",
    "tiny_vision_folder",
]


def tiny_vision_folder(tmp: Path, kind: str = "clip", seed: int = 0) -> Path:
    """Folder of a random ``clip``, ``siglip``, ``dinov2`` or ``vit`` model (width 32, 4 layers, 28 px, patch 7)."""
    names = {
        "clip": ("CLIPVisionConfig", "CLIPVisionModel", "CLIPImageProcessor"),
        "siglip": ("SiglipVisionConfig", "SiglipVisionModel", "SiglipImageProcessor"),
        "dinov2": ("Dinov2Config", "Dinov2Model", "BitImageProcessor"),
        "vit": ("ViTConfig", "ViTModel", "ViTImageProcessor"),
    }
    config_name, model_name, processor_name = names[kind]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = getattr(transformers, config_name)(**sizes, image_size=28, patch_size=7)
    torch.manual_seed(seed)
    folder = Path(tmp) / f"tiny-{kind}-{seed}"
    getattr(transformers, model_name)(config).save_pretrained(folder)
    crop = {"crop_size": {"height": 28, "width": 28}} if kind in ("clip", "dinov2") else {}
    size = {"shortest_edge": 28} if crop else {"height": 28, "width": 28}
    getattr(transformers, processor_name)(size=size, **crop).save_pretrained(folder)
    return folder


def tiny_clip_folder(tmp: Path, seed: int = 0) -> Path:
    """``tiny_vision_folder`` of a CLIP: 16 patches of width 32 and a class token."""
    return tiny_vision_folder(tmp, "clip", seed)
