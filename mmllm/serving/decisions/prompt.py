"""How a question is put to the model: behind what the input's last message says, options in an order of their own."""

from __future__ import annotations

from mmllm.serving.requests.decisions import ChoiceQuestion, Predicate, Question, ScoreQuestion

YES_NO = "Answer yes or no."
ONE_OF = "Answer with one of these:"


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
