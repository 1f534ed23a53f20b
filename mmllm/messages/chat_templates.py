"""``llm: {template: chatml | llama3 | FILE}``: a chat template for a model that has none, or another than its own.

``llms/load.py`` puts it on the tokenizer; ``template.py`` then renders it like any other.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mmllm.errors import MmllmError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOG = logging.getLogger(__name__)
CHATML = (
    "{BOS}{% for message in messages %}"
    "{{ '{START}' + message['role'] + '\\n' + message['content'] + '{END}' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '{START}assistant\\n' }}{% endif %}"
)
"""ChatML (OpenAI 2023), as Qwen and SmolLM2 write it; {BOS}, {START} and {END} are filled in for the tokenizer."""
LLAMA3 = (
    "{BOS}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim"
    " + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
"""Llama 3's, without a system message of its own (Dubey et al. 2024, arXiv 2407.21783)."""
NAMES = ("chatml", "llama3")
_CONTROL = re.compile(r"<\|\w+\|>|<(?:start|end)_of_turn>")


def set_template(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Give ``tokenizer`` the chat template ``template``: a name of :data:`NAMES` or the path of a jinja file.

    Logs a warning where chatml has to do without its control tokens.

    Raises:
        MmllmError: no such file, control tokens that the tokenizer lacks, or a template from which the assistant's
            text cannot be told.
    """
    from mmllm.messages.tokenize import Prompter

    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if template == "chatml":
        text = _chatml(tokenizer, added)
    elif template == "llama3":
        text = LLAMA3.replace("{BOS}", _begin(tokenizer))
    else:
        text = _read(template)
    missing = sorted(set(_CONTROL.findall(text)) - added) if template != "chatml" else []
    if missing:
        raise MmllmError(
            f"llm.template: {template!r} writes {', '.join(missing)}, which the tokenizer of "
            f"{tokenizer.name_or_path!r} has not as control tokens; a frozen LLM cannot learn them. Use "
            "template: chatml, which does without, or a jinja file with tokens that it has"
        )
    tokenizer.chat_template = text
    try:
        Prompter(tokenizer, [])
    except MmllmError as error:
        raise MmllmError(f"llm.template: {template!r} cannot be used: {error}") from error


def _chatml(tokenizer: PreTrainedTokenizerBase, added: set[str]) -> str:
    """ChatML; a turn ends with the tokenizer's own end where it has no ``<|im_end|>``."""
    start, end = "<|im_start|>", "<|im_end|>"
    if end not in added:
        if tokenizer.eos_token is None:
            raise MmllmError(
                f"llm.template: chatml needs a token that ends a turn, and the tokenizer of "
                f"{tokenizer.name_or_path!r} has neither {end} nor an eos_token"
            )
        end = str(tokenizer.eos_token)
    if not {start, end} <= added or end != "<|im_end|>":
        LOG.warning(
            "llm.template: chatml on a tokenizer without its control tokens: %s ends a turn, and %s is %s",
            end,
            start,
            "one token" if start in added else "written in several ordinary tokens",
        )
    filled = CHATML.replace("{BOS}", _begin(tokenizer)).replace("{START}", start)
    return filled.replace("{END}", end)


def _begin(tokenizer: PreTrainedTokenizerBase) -> str:
    """Expression for the token that this tokenizer itself puts before every text; models lean on it."""
    begins = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return "{{ bos_token }}" if begins else ""


def _read(template: str) -> str:
    """A jinja file's text."""
    try:
        text = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MmllmError(
            f"llm.template: {template!r} is neither {' nor '.join(NAMES)} nor a text file that can be read from the "
            f"current folder, {Path.cwd()}"
        ) from error
    if not text.strip():
        raise MmllmError(f"llm.template: {template!r} is empty")
    return text
