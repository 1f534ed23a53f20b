"""Grammars by llguidance: compiled once for a request, followed token by token.

llguidance is an extra of the package (``serve``), imported when the first constrained answer is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmllm.errors import ConstraintError, MmllmError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerBase

LONGEST = 300
"""Most characters of llguidance's message that an error repeats: it may quote the whole schema."""


class Guidance:
    """Compiles grammars for one tokenizer, whose vocabulary is read when the first is asked for (about a second)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int, end_ids: Iterable[int]) -> None:
        """``width``: of the logits, V; ``end_ids``: tokens that end an answer."""
        self._source, self._width, self._end_ids = tokenizer, width, sorted(end_ids)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def compile(self, grammar: str) -> Grammar:
        """Return a grammar, given in llguidance's form, to be followed by any number of answers.

        Raises:
            ConstraintError: what is wrong with it.
            MmllmError: llguidance is not installed, or the tokenizer is none that it reads.
        """
        vocabulary = self._vocabulary()
        from llguidance import LLMatcher, LLParserLimits

        # what went wrong, without the state of the parser
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # a grammar of no text at all is found out by the first step only
        if matcher.is_error():
            raise ConstraintError(_short(matcher.get_error()))
        return Grammar(matcher)

    def _vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                try:
                    from llguidance.hf import from_tokenizer
                except ImportError as error:
                    raise MmllmError("JSON and tool calls need llguidance: pip install 'mmllm[serve]'") from error
                self._tokenizer = from_tokenizer(self._source, n_vocab=self._width, eos_token=self._end_ids)
            return self._tokenizer


class Grammar:
    """A compiled grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def begin(self) -> GuidedAnswer:
        """Return the constraint of one answer."""
        return GuidedAnswer(self._matcher.deep_copy())

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether these are a whole answer."""
        matcher = self._matcher.deep_copy()
        return bool(matcher.try_consume_tokens(list(tokens)) == len(tokens) and matcher.is_accepting())


class GuidedAnswer:
    """An answer that follows a grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.over = False

    def allowed(self) -> np.ndarray:
        """Return which tokens may come next, see ``Constraint``.

        Raises:
            ConstraintError: the grammar turned out to be too complex.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return bits

    def take(self, token: int) -> None:
        """Note the token that was chosen."""
        self._matcher.consume_token(token)
        self._check()
        self.over = self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(_short(self._matcher.get_error()))


def _short(message: str) -> str:
    first = " ".join(message.split())
    return first if len(first) <= LONGEST else f"{first[:LONGEST]}..."
