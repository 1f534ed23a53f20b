"""PaliGemma (Beyer et al. 2024, arXiv 2407.07726) and PaliGemma 2: SigLIP, one layer, and a prompt that sees itself."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

TEMPLATE = (
    "{%- if messages[0]['role'] != 'user' or messages | length > 2 -%}"
    "{{ raise_exception('PaliGemma is asked one question: a message of the user, then one of the assistant') }}"
    "{%- endif -%}"
    "{%- for part in messages[0]['content'] -%}{%- if part['type'] == 'image' -%}{{ 'IMAGE' }}{%- endif -%}"
    "{%- endfor -%}{{- bos_token -}}"
    "{%- for part in messages[0]['content'] -%}{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{{- '\\n' -}}"
    "{%- for message in messages[1:] -%}{% generation %}{%- for part in message['content'] -%}{{ part['text'] }}"
    "{%- endfor -%}{{ eos_token }}{% endgeneration %}{%- endfor -%}"
)
"""What its processor writes for a question, as a chat template: pictures, the first token, the question, a line break;
behind the answer the last token. IMAGE is the picture's token."""


def sections(source: Source) -> Sections:
    """The tower's own output and ``mlp``; an LLM that reads prompts in both directions.

    Raises:
        MmllmError: the folder has a chat template, which its processor would write over.
    """
    if source.processor.chat_template or source.tokenizer.chat_template:
        raise MmllmError(
            f"{source.path} ({source.family.name}) has a chat template, and its processor writes a first token and a "
            "line break into what a template gives, so what its prompts look like is unknown; remove the template: the "
            "form that its processor gives a question is then taken"
        )
    token = source.token(source.config.image_token_id)
    encoder = {"type": "hf_vision", "model": source.path, "layers": ["final"], "fit": "own"}
    words = projector_words(source.path, source.config)
    return Sections(
        {"image": encoder},
        {"image": {**words, "from": "image", "token": token}},
        llm={"attention": "prefix"},
        template=TEMPLATE.replace("IMAGE", token),
        asked=_asked,
    )


def _asked(source: Source, question: str, images: Sequence[Any]) -> dict[str, Any]:
    """What its processor makes of a question; without a picture, which it refuses, what is left of that."""
    if images:
        text = source.token(source.config.image_token_id) * len(images) + question
        with warnings.catch_warnings():
            # transformers 5.23 makes labels of tensors through numpy, of which numpy 2 warns
            warnings.simplefilter("ignore", DeprecationWarning)
            return {**source.processor(text=[text], images=[list(images)], return_tensors="pt")}
    text = f"{source.tokenizer.bos_token}{question}\n"
    given = {**source.tokenizer([text], add_special_tokens=False, return_tensors="pt")}
    return {**given, "token_type_ids": torch.zeros_like(given["input_ids"])}
