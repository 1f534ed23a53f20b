"""The form shared by benchmarks with lettered options: options below the question, the letter read and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from mmllm.datasets.clips import lettered
from mmllm.evaluation.benchmarks.base import Benchmark, Question
from mmllm.evaluation.metrics.choice import letter, plain


class MultipleChoice(Benchmark):
    """An answer takes an option by its letter (``metrics.choice.letter``) or by saying exactly its text.

    References are the right letter and the right text. An answer that takes no option is unparsed and wrong.
    """

    metric = "accuracy"
    variant = "letter_or_text"

    def __init__(self, *, prompt: str) -> None:
        super().__init__(prompt=prompt)
        self._letters: frozenset[str] = frozenset()
        self._texts: frozenset[str] = frozenset()

    def offer(self, options: Sequence[Sequence[str]]) -> None:
        """Say what can be answered: the options of each question; called once, when the files are read."""
        self._letters = frozenset(ascii_uppercase[: max(map(len, options))])
        self._texts = frozenset(plain(text) for some in options for text in some)

    def choice(
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
        return self.question(identity, lettered(text, options), media, reference, kind)

    def parsed(self, prediction: str) -> bool:
        """Whether the answer takes an option."""
        return letter(prediction) in self._letters or plain(prediction) in self._texts

    def score(self, prediction: str, reference: Any) -> float:
        """1 where the letter taken is the right one; without a letter, where the text is the right option's."""
        taken = letter(prediction)
        if taken in self._letters:
            return float(taken == reference[0])
        # nothing never equals nothing: an option may be of punctuation alone
        return float(plain(prediction) == plain(reference[1]) != "")
