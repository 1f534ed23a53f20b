"""From logits to text, token by token: which token is chosen, and which text may be given out already.

Used by ``generator`` for every answer, streamed or batched, so both give the same characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING

import torch

from mmllm.errors import MmllmError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GREEDY = 1e-5
"""Temperatures below it take the likeliest token, as vLLM has it: only logits that differ by a rounding error could be
drawn from, and far below it float32 knows no such number."""

_HALF = "\ufffd"
"""Character that a decoder writes for bytes that are not (yet) a character."""


@dataclass(frozen=True)
class Sampling:
    """Settings of how tokens are chosen and when to stop; MmllmError for values that mean nothing."""

    max_new_tokens: int
    temperature: float = 0.0
    """0, or below ``GREEDY``, takes the likeliest token."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that holds this much probability (Holtzman et al. 2020, 1904.09751)."""
    seed: int | None = None
    """Same seed, same answer; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    probabilities: bool = False
    """Whether the probability of each chosen token is kept, before temperature and ``top_p``."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, kind in (("max_new_tokens", Integral), ("temperature", Real), ("top_p", Real)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise MmllmError(f"{name} is {value!r}; it is a {'whole ' if kind is Integral else ''}number.")
        if self.seed is not None and not isinstance(self.seed, Integral):
            raise MmllmError(f"seed is {self.seed!r}; it is a whole number or None.")
        if not all(isinstance(text, str) for text in self.stop):
            raise MmllmError(f"stop is {self.stop!r}; it is a text or a list of texts.")
        if self.max_new_tokens < 1:
            raise MmllmError(f"max_new_tokens is {self.max_new_tokens}; an answer has at least 1 token.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise MmllmError(f"temperature is {self.temperature}; it has to be 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise MmllmError(f"top_p is {self.top_p}; it has to be above 0 and at most 1.")
        if any(not text for text in self.stop):
            raise MmllmError("stop holds an empty text; every answer would end before it begins.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self.temperature < GREEDY

    def generator(self) -> torch.Generator:
        """A random generator of its own, so that nothing else drawn in the process changes an answer."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed % 2**63)
        return generator

    def choose(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Next tokens int64[B] for ``logits`` float[B, V]; drawn on the CPU, so a seed means the same everywhere."""
        if self.greedy:
            return logits.argmax(dim=-1)
        scaled = logits.float().cpu()
        # the likeliest token stays at 0: a tiny temperature must not make inf - inf
        probabilities = ((scaled - scaled.amax(dim=-1, keepdim=True)) / self.temperature).softmax(dim=-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True)
            # the probability before a token, not with it: the likeliest one stays, however small top_p is
            outside = ordered.cumsum(dim=-1) - ordered >= self.top_p
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1).to(logits.device)


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
        possible = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        certain = self._held[: len(self._held) - possible]
        self._held = self._held[len(certain) :]
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    # less than the whole of it: a whole one was found before
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
