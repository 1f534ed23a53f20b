"""Where the assistant's answers begin in an LLM's ids, and with what token each of several begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from mmllm.messages.tokenize import Prompter
from mmllm.types import IGNORE_INDEX, Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def beginnings(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids in front of every answer (none where nothing fixed is), and the first id of each of these answers, in order.

    Read from conversations that the template renders, some to be answered, some answered. Two may begin alike.

    Raises:
        MmllmError: the tokenizer has no chat template, or one whose answers cannot be found.
    """
    prompter = Prompter(tokenizer, [])
    asked = [Sample("an answer", (Message("user", text),), {}) for text in ("1", "what is it?")]
    before, first = [prompter.tokenize_prompt(one).ids for one in asked], []
    for answer in answers:
        told = Message("assistant", answer)
        said = [prompter.tokenize_for_training(replace(one, messages=(*one.messages, told))) for one in asked]
        starts = [next(place for place, label in enumerate(one.labels) if label != IGNORE_INDEX) for one in said]
        before += [one.ids[:start] for one, start in zip(said, starts, strict=True)]
        first.append(said[0].labels[starts[0]])
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*map(reversed, before), strict=False))
    return tuple(column[0] for column in alike)[::-1], tuple(first)
