"""The form shared by benchmarks with lettered options: options below the question, the letter read and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from mmllm.datasets.clips import lettered
from mmllm.evaluation.benchmarks.base import Benchmark, Question
from mmllm.evaluation.metrics.choice import plain, taken

CHOICE = "accuracy"
"""Name of the metric."""
LETTER_OR_TEXT = "letter_or_text"
"""Name of its definition: a written answer takes an option by its letter or by its text."""


def graded(prediction: str, question: Question) -> tuple[float, bool]:
    """1 where the option taken is the right one or has its text; and whether one was taken."""
    number = taken(prediction, question.options)
    if number is None:
        return 0.0, False
    letter, text = map(str, question.reference[:2])
    # options may have one text: then each of them is right
    right = ascii_uppercase[number] == letter or plain(question.options[number]) == plain(text) != ""
    return float(right), True


class MultipleChoice(Benchmark):
    """An answer takes an option by its letter or by its text, as :mod:`mmllm.evaluation.metrics.choice` reads it.

    References are the right letter and the right text. An answer that takes no option is unparsed and wrong.
    """

    metric = CHOICE
    variant = LETTER_OR_TEXT

    def of_options(
        self,
        identity: Any,
        text: str,
        options: Sequence[str],
        right: int,
        media: Mapping[str, tuple[Any, ...]],
        kind: str,
    ) -> Question:
        """A question with its options below; ``right`` is the number of the right one, from 0."""
        reference = (ascii_uppercase[right], options[right])
        return self.question(identity, lettered(text, options), media, reference, kind, options)

    def graded(self, prediction: str, question: Question) -> tuple[float, bool]:
        """Whether the right option was taken, and whether one was."""
        return graded(prediction, question)
