"""Loads an audio model of transformers with every weight that its hidden states need; called by ``hf_audio.py``."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    ASTModel,
    AutoFeatureExtractor,
    AutoModel,
    HubertModel,
    PreTrainedModel,
    Qwen2AudioEncoder,
    Wav2Vec2Model,
    WhisperModel,
)

from mmllm.encoders.audio.models import AstModel, AudioModel, MaskedWhisperModel, WaveModel, WhisperEncoderModel
from mmllm.errors import MmllmError
from mmllm.vlms.tower import load_tower

KNOWN = "Whisper, AST (audio spectrogram transformer), wav2vec 2.0 and HuBERT"


def load_audio(model: str) -> AudioModel:
    """The encoder in float32 with every weight that its hidden states need (safetensors only), and its extractor.

    Raises:
        MmllmError: it cannot be loaded, is of a kind that is not known here, or weights are missing.
    """
    try:
        published = load_tower(model, "audio")
        extractor = AutoFeatureExtractor.from_pretrained(model)
        if published is not None:
            own = MaskedWhisperModel if isinstance(published, Qwen2AudioEncoder) else WhisperEncoderModel
            return own(published, extractor)
        loaded, info = AutoModel.from_pretrained(
            model, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MmllmError(f'"{model}" cannot be loaded as an audio model of transformers: {reason}') from error
    net, kind, front = kind_of(loaded, model)
    missing = {key.removeprefix(front) for key in info["missing_keys"] if key.startswith(front)}
    masked = missing & {"masked_spec_embed"}
    wrong = sorted(missing - masked) or sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise MmllmError(f'the weights of "{model}" do not fill the model: {", ".join(wrong[:5])}.')
    if masked:
        net.masked_spec_embed = None  # used in training alone, and random weights would change the digest
    return kind(net, extractor)


def kind_of(loaded: Any, model: str) -> tuple[PreTrainedModel, type[AudioModel], str]:
    """The encoder, its class here, and what its weights' names begin with."""
    if isinstance(loaded, WhisperModel):
        return loaded.encoder, WhisperEncoderModel, "encoder."
    if isinstance(loaded, ASTModel):
        return loaded, AstModel, ""
    if isinstance(loaded, Wav2Vec2Model | HubertModel):
        return loaded, WaveModel, ""
    raise MmllmError(f'"{model}" holds a {type(loaded).__name__}; hf_audio knows {KNOWN}.')
