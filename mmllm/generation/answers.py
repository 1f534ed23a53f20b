"""Answers on their way: what was asked, which token comes next, and the pieces of text that are given out.

``engine`` moves a :class:`Request` on; whoever asked reads its deltas.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from mmllm.generation import content
from mmllm.generation.sampling import AnswerText, Sampling

if TYPE_CHECKING:
    from mmllm.batches.sample import Encoded
    from mmllm.generation.learned_set import LearnedSet

FinishReason = Literal["stop", "length"]
"""``stop``: the model ended its turn or a stop text came; ``length``: the token limit or the context was reached."""


@dataclass(frozen=True)
class Delta:
    """One piece of a stream: some more text, and where it stands."""

    text: str
    """Whole characters, possibly none."""
    finish: FinishReason | None
    """Set on the last piece only."""
    prompt_tokens: int
    """Media tokens included."""
    completion_tokens: int
    """Chosen so far, the end-of-turn token included."""
    cached_tokens: int = 0
    """Of the prompt's tokens those that were not read again: an earlier conversation began with them."""


@dataclass(frozen=True)
class Completion:
    """One complete answer."""

    text: str
    n_tokens: int
    """Tokens chosen, the end-of-turn token included."""
    finish: FinishReason
    prompt_tokens: int
    """Media tokens included."""


class Request:
    """One conversation to answer. It is the engine's from ``submit`` on; ``cancel`` may be called by any thread."""

    learned: LearnedSet | None = None
    """The set whose weights answer it; None: the engine's own model."""

    def __init__(
        self,
        encoded: Encoded,
        sampling: Sampling,
        text: AnswerText,
        limit: int,
        end_ids: frozenset[int],
        tell: Callable[[Delta | Exception], None] | None = None,
        tenant: str = "",
    ) -> None:
        """Set up.

        Args:
            encoded: the conversation, its media read.
            sampling: how tokens are chosen.
            text: of the answer, empty.
            limit: most tokens of the answer.
            end_ids: tokens that end it.
            tell: is called with each delta, or with what went wrong; default: they wait in ``events``.
            tenant: whose it is. What was read for one is not used for another: how soon an answer begins would tell
                what others have asked.
        """
        self.encoded, self.sampling, self.limit, self.tenant = encoded, sampling, limit, tenant
        self.events: deque[Delta | Exception] = deque()
        self.tokens: list[int] = []
        """Chosen so far."""
        self.cached_tokens = 0
        self.finish: FinishReason | None = None
        self.error: Exception | None = None
        self.cancelled = False
        self._text, self._end_ids, self._tell = text, end_ids, tell or self.events.append
        self._generator = sampling.generator()

    @cached_property
    def digests(self) -> content.Digests:
        """Of the items' content."""
        return content.digests(self.encoded)

    @property
    def done(self) -> bool:
        """Whether nothing comes any more."""
        return self.finish is not None or self.error is not None or self.cancelled

    def cancel(self) -> None:
        """Give it up: its place is free at the next step."""
        self.cancelled = True

    def choose(self, logits: torch.Tensor) -> int:
        """Draw the next token from logits float[V], with randomness of its own: neighbours change nothing."""
        return int(self.sampling.choose(logits[None], self._generator))

    def take(self, token: int) -> None:
        """Add the next token to the answer, and tell what may be given out of it."""
        self.tokens.append(token)
        ended = token in self._end_ids
        text = "" if ended else self._text.push(token)
        if ended or self._text.stopped:
            self.finish = "stop"
        elif len(self.tokens) == self.limit:
            self.finish = "length"
        if self.finish:
            text += self._text.close()
            # what was held back until now may have completed a stop text
            self.finish = "stop" if self._text.stopped else self.finish
        if text or self.finish:
            size = len(self.encoded.ids)
            self._tell(Delta(text, self.finish, size, len(self.tokens), self.cached_tokens))

    def fail(self, error: Exception) -> None:
        """End it with what went wrong."""
        self.error = error
        self._tell(error)


def next_tokens(requests: list[Request], logits: torch.Tensor) -> list[int]:
    """The next token of each, from logits float[n, V]."""
    likeliest = logits.argmax(dim=-1).tolist()
    pairs = zip(requests, likeliest, strict=True)
    return [token if one.sampling.greedy else one.choose(logits[row]) for row, (one, token) in enumerate(pairs)]
