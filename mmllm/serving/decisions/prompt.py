"""How a question is put to the model: behind what the input's last message says, options in an order of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mmllm.messages import placeholders
from mmllm.serving.requests.decisions import ChoiceQuestion, Predicate, Question, ScoreQuestion
from mmllm.types import Sample

YES_NO = "Answer yes or no."
ONE_OF = "Answer with one of these:"


def put(sample: Sample, question: Question, keys: Collection[str]) -> Sample:
    """Return a conversation with a question behind what its last message says; ``keys`` of the media it may show."""
    last = sample.messages[-1]
    text = placeholders.escape(question_text(question), keys)
    joined = f"{last.text}\n{text}" if last.text else text
    return replace(sample, messages=(*sample.messages[:-1], replace(last, text=joined)))


def question_text(question: Question) -> str:
    """Return the question as the model reads it.

    Choices are listed by their text, not in the order in which they were sent, so that this order changes nothing;
    levels from the lowest to the highest, which is what their order means.
    """
    if isinstance(question, Predicate):
        return f"{question.instructions}\n{YES_NO}"
    if isinstance(question, ChoiceQuestion):
        lines = sorted(_line(choice.text, choice.description) for choice in question.choices)
    else:
        assert isinstance(question, ScoreQuestion)
        lines = [_line(level.label, level.description) for level in question.levels]
    return "\n".join([question.instructions, ONE_OF, *lines])


def _line(text: str, description: str | None) -> str:
    return f"- {text}" if description is None else f"- {text}: {description}"
