"""BLIP-2 (Li et al. 2023, arXiv 2301.12597) and InstructBLIP (Dai et al. 2023, arXiv 2305.06500)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] if part['type'] == 'image' %}{{ 'MARK' }}"
    "{% endfor %}{% endfor %}FIRST{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% elif message['role'] == 'system' %}{{ '\n' }}{% endif %}"
    "{% endfor %}"
)
"""What the processors build, as a template: all pictures, the first token of a text, the text; an answer goes on in it
behind a blank. MARK is the token of a picture, FIRST that of a text."""


def sections(source: Source) -> Sections:
    """The tower's normed tokens with the class token, and ``qformer``.

    Raises:
        MmllmError: its LLM is an encoder and a decoder, or the token of a picture is not known.
    """
    config = source.config
    if not config.use_decoder_only_language_model:
        raise MmllmError(
            f"{source.path} ({source.family.name}) has a {config.text_config.model_type} as its LLM, which reads a "
            "question in an encoder of its own; only those whose LLM is a decoder (OPT, Llama) can be imported"
        )
    if config.image_token_id is None:
        raise MmllmError(
            f"{source.path} ({source.family.name}) is of an older format: its configuration names no "
            "image_token_index; download the folder again"
        )
    token = source.token(config.image_token_id)
    first = source.tokenizer("a").input_ids[:1] == [source.tokenizer.bos_token_id]
    image = {"type": "hf_vision", "model": source.path, "layers": ["final"], "keep": "all", "fit": "squash"}
    connector = {**projector_words(source.path, config), "from": "image", "token": token}
    if config.model_type == "instructblip":
        connector |= {"tokenizer": source.path, "subfolder": "qformer_tokenizer"}
    template = TEMPLATE.replace("MARK", token).replace("FIRST", "{{ bos_token }}" if first else "")
    return Sections({"image": image}, {"image": connector}, template, asked)


def asked(source: Source, question: str, items: Sequence[Any]) -> dict[str, Any]:
    """What their processors make of one text: a picture's tokens in front of it."""
    words: dict[str, Any] = {"images": list(items)} if items else {}
    return dict(source.processor(text=[question], return_tensors="pt", **source.special_tokens(question), **words))
