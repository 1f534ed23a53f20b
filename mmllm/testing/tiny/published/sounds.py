"""Qwen2-Audio, Audio Flamingo 3 and Voxtral."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, PARTS, Case, Published

EAR: dict[str, Any] = {"num_mel_bins": 16, "max_source_positions": 50}
"""Of an encoder that hears windows of one second."""
TOWER: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def _qwen(token: int, changes: dict[str, Any]) -> Any:
    tower = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, **EAR}
    audio = tower | changes.pop("audio_config", {})
    words: dict[str, Any] = {"audio_config": audio, "text_config": t.Qwen2Config(**LLM), "audio_token_index": token}
    return t.Qwen2AudioConfig(**{**words, **changes})


def _flamingo(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {
        "audio_config": TOWER | EAR, "text_config": t.Qwen2Config(**LLM), "audio_token_id": token
    }  # fmt: skip
    return t.AudioFlamingo3Config(**{**words, **changes})


def _voxtral(token: int, changes: dict[str, Any]) -> Any:
    # its processor pads to 30 seconds, whatever the extractor says
    audio = TOWER | EAR | {"intermediate_size": 64, "max_source_positions": 1500}
    text = t.LlamaConfig(**{**LLM, "max_position_embeddings": 2048, "head_dim": 8})
    words: dict[str, Any] = {"audio_config": audio, "text_config": text, "audio_token_id": token}
    return t.VoxtralConfig(**{**words, **changes})


def _extractor(seconds: int = 1) -> Any:
    return t.WhisperFeatureExtractor(feature_size=16, chunk_length=seconds)


def _qwen_processor(tokenizer: Any, template: str, config: Any) -> Any:
    return t.Qwen2AudioProcessor(_extractor(), tokenizer, chat_template=template)


def _flamingo_processor(tokenizer: Any, template: str, config: Any) -> Any:
    return t.AudioFlamingo3Processor(_extractor(), tokenizer, chat_template=template, max_audio_len=3)


def _voxtral_processor(tokenizer: Any, template: str, config: Any) -> Any:
    tokenizer.chat_template = template
    made = t.VoxtralProcessor(_extractor(30), tokenizer)
    made.audio_token_id, made.audio_token = config.audio_token_id, "[AUDIO]"
    return made


NUMBERED = (
    "{% set sounds = namespace(n=0) %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}{% set sounds.n = sounds.n + 1 %}"
    "{{ 'Audio ' ~ sounds.n ~ ': <|audio_bos|>MARK<|audio_eos|>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that counts sounds, as Qwen2-Audio's."""
BEGUN = PARTS.replace("MARK", "[BEGIN_AUDIO]MARK")
AROUND = ("<|audio_bos|>", "<|audio_eos|>")
PUBLISHED = {
    "Qwen2Audio": Published(_qwen, _qwen_processor, "<|AUDIO|>", NUMBERED, AROUND, modality="audio"),
    "AudioFlamingo3": Published(_flamingo, _flamingo_processor, "<sound>", modality="audio"),
    # as transformers reads its folders, with a chat template, which those of Mistral AI do not have
    "Voxtral": Published(_voxtral, _voxtral_processor, "[AUDIO]", BEGUN, ("[BEGIN_AUDIO]",), modality="audio"),
}
CASES = {
    "Qwen2-Audio": Case("Qwen2Audio"),
    "Qwen2-Audio, layer drop, a text model that ties": Case(
        "Qwen2Audio",
        {
            "audio_config": {"encoder_layerdrop": 0.5, "scale_embedding": True},
            "text_config": t.Qwen2Config(**LLM, tie_word_embeddings=True),
        },
    ),
    "Audio Flamingo 3": Case("AudioFlamingo3"),
    "Audio Flamingo 3, no biases, tanh GELU": Case(
        "AudioFlamingo3", {"projector_bias": False, "projector_hidden_act": "gelu_pytorch_tanh"}
    ),
    "Voxtral": Case("Voxtral"),
}
