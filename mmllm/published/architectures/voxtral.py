"""Voxtral (Mistral AI 2025, arXiv 2507.13264): whole windows of sound, silence kept, stacked frames through an MLP."""

from __future__ import annotations

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """Whisper's last state over whole windows, and ``pixel_shuffle`` along time.

    Raises:
        MmllmError: the folder has no chat template, as those of Mistral AI have none.
    """
    if source.tokenizer.chat_template is None:
        raise MmllmError(
            f"{source.path} is Voxtral, whose prompts are made by the package mistral_common and by no chat template, "
            "so what they look like is not known here; save a chat_template.jinja beside it that writes "
            f"{source.token(source.config.audio_token_id)} for a part of the type audio"
        )
    return Sections(
        {"audio": {"type": "hf_audio", "model": source.path, "layers": ["final"], "whole_windows": True}},
        {
            "audio": {
                **projector_words(source.path, source.config),
                "from": "audio",
                "token": source.token(source.config.audio_token_id),
            }
        },
    )
