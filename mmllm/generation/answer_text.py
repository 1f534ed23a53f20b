"""From tokens to text: which characters of an answer may be given out already.

Used by ``generator`` for every answer, streamed or batched, so both give the same characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF = "\ufffd"
"""Character that a decoder writes for bytes that are not (yet) a character."""


class AnswerText:
    """Tokens in, text out: never half a character, never the beginning of a stop text, never the stop text itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self._window, self._read = 0, 0
        self._held = ""
        self.stopped = False
        """True once a stop text has come; later tokens are ignored."""

    def push(self, token: int) -> str:
        """Take the next token; returns the text that is certain now (often empty)."""
        if self.stopped:
            return ""
        self._ids.append(token)
        before, text = self._texts()
        # half a character, or nothing new: a special token, or one that only joins what stands before it
        if text.endswith(_HALF) or len(text) <= len(before):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return self._release(text[len(before) :])

    def close(self) -> str:
        """The text still held back, now that no token follows; bytes that never became a character are left out."""
        if self.stopped:
            return ""
        before, text = self._texts()
        last = self._release(text[len(before) :].rstrip(_HALF))
        held, self._held = self._held, ""
        return last if self.stopped else last + held

    def _texts(self) -> tuple[str, str]:
        # Decoding a short window twice, not the new token alone: some tokenizers join or space tokens by what precedes.
        before = self._decode(self._ids[self._window : self._read])
        return before, self._decode(self._ids[self._window :])

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _release(self, text: str) -> str:
        self._held += text
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        possible = max((overlap(self._held, stop) for stop in self._stop), default=0)
        certain = self._held[: len(self._held) - possible]
        self._held = self._held[len(certain) :]
        return certain


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    # less than the whole of it: a whole one was found before
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
