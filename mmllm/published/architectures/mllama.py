"""Llama 3.2 Vision (Grattafiori et al. 2024, arXiv 2407.21783): tiles in one tower, cross-attention inside the LLM."""

from __future__ import annotations

import re
from functools import partial

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

_BEGUN = (
    "{% set talk %}\nTEMPLATE{% endset %}{% if bos_token in talk %}{{ talk }}{% else %}"
    "{% set seen = namespace(n=0, only=true) %}{% for text in talk.split('TOKEN')[:-1] %}"
    "{% if text %}{% set seen.only = false %}{% elif seen.only %}{% set seen.n = seen.n + 1 %}{% endif %}{% endfor %}"
    "{{ 'TOKEN' * seen.n + bos_token + talk[('TOKEN' | length) * seen.n:] }}{% endif %}"
)
"""What its processor does to a conversation without the first token: it puts it behind the pictures in front."""
_MARKS = re.compile(r"(\{%-?\s*)(end)?generation(\s*-?%\})")


def sections(source: Source) -> Sections:
    """Its own tower, and ``cross_attention_layers``; a picture is one token of text, from which on it is read.

    Raises:
        MmllmError: its pictures are to be taken whole.
    """
    if not source.tiles:
        raise MmllmError(
            f"{source.path} is {source.family.name}, whose tower reads pictures in tiles alone; leave --no-tiles out"
        )
    token = source.token(source.config.image_token_id)
    connector = {**projector_words(source.path, source.config), "from": "image", "token": token}
    # the token that the template writes is text with an embedding of its own, and stays
    connector |= {"around": ["", token]}
    encoders = {"image": {"type": "mllama_vision", "model": source.path}}
    return Sections(encoders, {"image": connector}, rewrites=None if _begins(source) else partial(begun, token))


def _begins(source: Source) -> bool:
    """Whether its template writes the first token itself."""
    talk = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    return source.tokenizer.bos_token in source.processor.apply_chat_template(talk, tokenize=False)


def begun(token: str, template: str) -> str:
    """A template that writes the first token where the processor would put it."""
    # marks of what the assistant says are counted from where a block begins, so none may stand in one
    template = _MARKS.sub(lambda found: f"{found[1]}{'endif' if found[2] else 'if true'}{found[3]}", template)
    # a template's last line break is not rendered
    return _BEGUN.replace("TOKEN", token).replace("TEMPLATE", template.removesuffix("\n"))
