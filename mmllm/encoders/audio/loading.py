"""Loads an audio model of transformers with every weight that its hidden states need; called by ``hf_audio.py``."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    ASTModel,
    AudioFlamingo3Encoder,
    AutoFeatureExtractor,
    GraniteSpeechCTCEncoder,
    HubertModel,
    PreTrainedModel,
    Qwen2AudioEncoder,
    Wav2Vec2Model,
    WhisperModel,
)

from mmllm.encoders.audio.models import (
    AstModel,
    AudioModel,
    ConformerModel,
    FramedWhisperModel,
    MaskedWhisperModel,
    VoxtralModel,
    WaveModel,
    WhisperEncoderModel,
)
from mmllm.encoders.pretrained import load_model, load_processor, load_published
from mmllm.errors import MmllmError

KNOWN = (
    "Whisper, AST (audio spectrogram transformer), wav2vec 2.0, HuBERT and towers of Qwen2-Audio, Audio Flamingo 3, "
    "Voxtral and Granite Speech"
)


def load_audio(model: str) -> AudioModel:
    """The encoder in float32 with every weight that its hidden states need (safetensors only), and its extractor.

    Raises:
        MmllmError: it cannot be loaded, is of a kind that is not known here, or weights are missing.
    """
    published = load_published(model, "audio", "an audio model")
    if published is not None:
        with torch.device("cpu"):  # also in a plan: some extractors hold tensors of their own
            extractor = load_processor(AutoFeatureExtractor, model, "sound")
        return tower_of(published)(published, extractor)
    _, loaded, info = load_model(model, "an audio model")
    net, kind, front = kind_of(loaded, model)
    extractor = load_processor(AutoFeatureExtractor, model, "sound")
    missing = {key.removeprefix(front) for key in info["missing_keys"] if key.startswith(front)}
    masked = missing & {"masked_spec_embed"}
    wrong = sorted(missing - masked) or sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise MmllmError(f'the weights of "{model}" do not fill the model: {", ".join(wrong[:5])}.')
    if masked:
        net.masked_spec_embed = None  # used in training alone, and random weights would change the digest
    return kind(net, extractor)


def tower_of(published: PreTrainedModel) -> type[AudioModel]:
    """The class here of a published model's tower."""
    if isinstance(published, GraniteSpeechCTCEncoder):
        return ConformerModel
    if isinstance(published, AudioFlamingo3Encoder):
        return FramedWhisperModel
    return MaskedWhisperModel if isinstance(published, Qwen2AudioEncoder) else VoxtralModel


def kind_of(loaded: Any, model: str) -> tuple[PreTrainedModel, type[AudioModel], str]:
    """The encoder, its class here, and what its weights' names begin with."""
    if isinstance(loaded, WhisperModel):
        return loaded.encoder, WhisperEncoderModel, "encoder."
    if isinstance(loaded, ASTModel):
        return loaded, AstModel, ""
    if isinstance(loaded, Wav2Vec2Model | HubertModel):
        return loaded, WaveModel, ""
    raise MmllmError(f'"{model}" holds a {type(loaded).__name__}; hf_audio knows {KNOWN}.')
