"""Where the assistant's answers begin in an LLM's ids, and with what token each of several begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from mmllm.messages.tokenize import Prompter
from mmllm.types import IGNORE_INDEX, Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Beginnings:
    """What a chat template and a tokenizer make of the beginning of an answer."""

    header: tuple[int, ...]
    """Ids in front of every answer; empty where nothing fixed is."""
    first: tuple[int, ...]
    """The first id of each of the answers, in their order; two may begin alike."""


def beginnings(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> Beginnings:
    """Read from conversations that the template renders, some to be answered, some answered.

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
    return Beginnings(tuple(column[0] for column in alike)[::-1], tuple(first))
