"""Folders of random encoders with the architecture, picture size and windows of real ones, and small widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from safetensors.torch import save_file

VISION = {"image_size": 28, "patch_size": 7, "width": 32, "head_width": 8, "layers": 4}
TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}


def open_clip_folder(
    tmp: Path, vision: dict[str, Any] | None = None, preprocess: dict[str, Any] | None = None, **extra: Any
) -> Any:
    """A random CLIP in open_clip's local folder format; returns the whole model."""
    config = {"embed_dim": 16, "vision_cfg": VISION | (vision or {}), "text_cfg": TEXT, **extra}
    torch.manual_seed(0)
    custom = config.pop("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file(model.state_dict(), tmp / "open_clip_model.safetensors")
    saved = {"model_cfg": config | {"custom_text": custom}, "preprocess_cfg": preprocess or {}}
    (tmp / "open_clip_config.json").write_text(json.dumps(saved))
    return model


VISION_WIDTH = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "patch_size": 14,
}


def vision_folder(tmp: Path, kind: str, side: int, blocks: int = 24) -> Path:
    """A random encoder with the picture and patch size of the real one."""
    if kind == "open_clip":
        open_clip_folder(tmp, {"image_size": side, "patch_size": 14})
        return tmp
    trained = 518 if kind == "dinov2" else side  # DINOv2 was trained at 518 px; its processor gives 224
    made: dict[str, tuple[Any, Any, Any]] = {
        "clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel, transformers.CLIPImageProcessor),
        "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel, transformers.SiglipImageProcessor),
        "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model, transformers.BitImageProcessor),
    }
    config, model, processor = made[kind]
    torch.manual_seed(0)
    model(config(**VISION_WIDTH, num_hidden_layers=blocks, image_size=trained)).save_pretrained(tmp)
    square = {"height": side, "width": side}
    words = {"size": square} if kind == "siglip" else {"size": {"shortest_edge": side}, "crop_size": square}
    processor(**words).save_pretrained(tmp)
    return tmp


AUDIO_WIDTH = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}


def audio_folder(tmp: Path, kind: str) -> Path:
    """A random AST (``ast``) or Whisper with the windows and mel bands of the real ones."""
    torch.manual_seed(0)
    if kind == "ast":
        transformers.ASTModel(transformers.ASTConfig(**AUDIO_WIDTH)).save_pretrained(tmp)
        transformers.ASTFeatureExtractor().save_pretrained(tmp)
        return tmp
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=4, encoder_attention_heads=4, encoder_ffn_dim=48, decoder_layers=0,
        decoder_attention_heads=4, decoder_ffn_dim=4, vocab_size=2, max_target_positions=1, pad_token_id=0,
        bos_token_id=0, eos_token_id=1, decoder_start_token_id=0, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    transformers.WhisperModel(config).save_pretrained(tmp)
    transformers.WhisperFeatureExtractor().save_pretrained(tmp)
    return tmp
