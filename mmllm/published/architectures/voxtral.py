"""Voxtral (Mistral AI 2025, arXiv 2507.13264): whole windows of sound, silence kept, stacked frames through an MLP."""

from __future__ import annotations

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

TEMPLATE = (
    "{%- set heard = namespace(any=false) -%}"
    "{%- for message in messages if message['content'] is not string -%}"
    "{%- for part in message['content'] if part['type'] == 'audio' -%}{%- set heard.any = true -%}{%- endfor -%}"
    "{%- endfor -%}"
    "{{- '<s>' -}}"
    "{%- for message in messages -%}"
    "{%- set parts = message['content'] -%}"
    "{%- if parts is string -%}{%- set parts = [{'type': 'text', 'text': parts}] -%}{%- endif -%}"
    "{%- if message['role'] == 'system' and heard.any -%}"
    "{{- raise_exception('Voxtral takes no system message beside sound') -}}"
    "{%- elif message['role'] == 'system' -%}{{- '[SYSTEM_PROMPT]' -}}"
    "{%- elif message['role'] == 'user' -%}{{- '[INST]' -}}{%- endif -%}"
    "{%- for part in parts -%}"
    "{%- if part['type'] == 'audio' -%}{{- '[BEGIN_AUDIO][AUDIO]' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if message['role'] == 'system' -%}{{- '[/SYSTEM_PROMPT]' -}}"
    "{%- elif message['role'] == 'user' -%}{{- '[/INST]' -}}{%- else -%}{{- '</s>' -}}{%- endif -%}"
    "{%- endfor -%}"
)
"""What mistral_common 1.13.1 makes of a conversation with the vocabulary's version v7, which Voxtral has."""
_CONTROL = ("<s>", "</s>", "[INST]", "[/INST]", "[BEGIN_AUDIO]", "[AUDIO]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")


def sections(source: Source) -> Sections:
    """Whisper's last state over whole windows, and ``pixel_shuffle`` along time.

    Mistral AI's folders have no chat template (the package mistral_common makes their prompts): they get ``TEMPLATE``.

    Raises:
        MmllmError: no template, and a tokenizer without the control tokens of that one.
    """
    if source.template is None:
        lacks = [one for one in _CONTROL if one not in source.tokenizer.get_vocab()]
        if lacks:
            raise MmllmError(
                f"{source.path} is Voxtral without a chat template, and its tokenizer lacks {', '.join(lacks)} of the "
                "prompts that the package mistral_common makes; save a chat_template.jinja beside it that writes "
                f"{source.token(source.config.audio_token_id)} for a part of the type audio"
            )
        source.processor.chat_template = TEMPLATE
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
