"""Answers on their way: what was asked, which token comes next, and the pieces of text that are given out.

``engine`` moves a :class:`Request` on; whoever asked reads its deltas.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from mmllm.generation import content
from mmllm.generation.answer_text import AnswerText
from mmllm.generation.constraints import Constraint, masked
from mmllm.generation.sampling import Sampling, TokenLogprob

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
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens since the last piece, where they were asked for."""


@dataclass(frozen=True)
class Completion:
    """One complete answer."""

    text: str
    n_tokens: int
    """Tokens chosen, the end-of-turn token included."""
    finish: FinishReason
    prompt_tokens: int
    """Media tokens included."""
    confidence: float | None = field(default=None, compare=False)
    """Mean probability of the tokens chosen; None: not asked for. Its last bits depend on the batch."""


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
        constraint: Constraint | None = None,
        forced: Sequence[int] = (),
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
            constraint: which tokens may come next; its own, since it moves on with the answer.
            forced: the answer itself, which is not chosen but measured (``sampling.logprobs``).
        """
        self.encoded, self.sampling, self.limit, self.tenant = encoded, sampling, limit, tenant
        self.events: deque[Delta | Exception] = deque()
        self.tokens: list[int] = []
        """Chosen so far."""
        self.probabilities: list[float] = []
        """That the model gave each of them, where ``sampling`` asks for it."""
        self.cached_tokens = 0
        self.finish: FinishReason | None = None
        self.error: Exception | None = None
        self.cancelled = False
        self._text, self._end_ids, self._tell = text, end_ids, tell or self.events.append
        self._generator = sampling.generator()
        self.constraint, self._forced = constraint, forced
        self._logprobs: list[TokenLogprob] = []

    @cached_property
    def digests(self) -> content.Digests:
        """Of the items' content."""
        return content.digests(self.encoded)

    @cached_property
    def _prompt(self) -> torch.Tensor:
        """Token ids int64[P] of its prompt's text."""
        places = {spot for span in self.encoded.spans for spot in range(span.start, span.start + span.length)}
        return torch.tensor([token for spot, token in enumerate(self.encoded.ids) if spot not in places])

    @property
    def plain(self) -> bool:
        """Whether its next token is the likeliest of all, and nothing else is asked."""
        return self.sampling.plain and self.constraint is None and not self._forced

    @property
    def done(self) -> bool:
        """Whether nothing comes any more."""
        return self.finish is not None or self.error is not None or self.cancelled

    def cancel(self) -> None:
        """Give it up: its place is free at the next step."""
        self.cancelled = True

    def choose(self, logits: torch.Tensor, likeliest: int) -> int:
        """Choose the next token by logits float[V], with randomness of its own: neighbours change nothing.

        ``likeliest``: of these logits.
        """
        token = likeliest
        if self._forced:
            token = self._forced[len(self.tokens)]
        elif not (self.sampling.greedy and self.sampling.unchanged):
            adjusted = self.sampling.adjusted(logits, self._prompt, self.tokens)
            token = int(self.sampling.choose(adjusted[None], self._generator))
        if self.sampling.logprobs is not None:
            self._logprobs.append(TokenLogprob.of(token, logits, self.sampling.logprobs))
        if self.constraint is not None:
            self.constraint.take(token)
        return token

    def take(self, token: int) -> None:
        """Add the next token to the answer, and tell what may be given out of it."""
        self.tokens.append(token)
        ended = token in self._end_ids
        text = "" if ended else self._text.push(token)
        if ended or self._text.stopped or (self.constraint is not None and self.constraint.over):
            self.finish = "stop"
        elif len(self.tokens) == self.limit:
            self.finish = "length"
        if self.finish:
            text += self._text.close()
            # what was held back until now may have completed a stop text
            self.finish = "stop" if self._text.stopped else self.finish
        if text or self.finish:
            size = len(self.encoded.ids)
            logprobs, self._logprobs = tuple(self._logprobs), []
            self._tell(Delta(text, self.finish, size, len(self.tokens), self.cached_tokens, logprobs))

    def fail(self, error: Exception) -> None:
        """End it with what went wrong."""
        self.error = error
        self._tell(error)


def next_tokens(requests: list[Request], logits: torch.Tensor) -> list[int]:
    """The next token of each, from logits float[n, V]; one whose choice fails ends with that, and no other does."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    bound = _constrained(requests, logits)
    for row, request in enumerate(requests):
        if request.plain or request.done:
            continue
        try:
            tokens[row] = request.choose(*bound.get(row, (logits[row], tokens[row])))
        except Exception as error:
            request.fail(error)
    return tokens


def _constrained(requests: list[Request], logits: torch.Tensor) -> dict[int, tuple[torch.Tensor, int]]:
    """Row -> its logits float[V] without the tokens that may not come next, and the likeliest of them."""
    rows, allowed = [], []
    for row, request in enumerate(requests):
        if request.constraint is None or request.done:
            continue
        try:
            allowed.append(request.constraint.allowed())
            rows.append(row)
        except Exception as error:
            request.fail(error)
    if not rows:
        return {}
    found = masked(logits[rows], allowed)
    return dict(zip(rows, zip(found, found.argmax(dim=-1).tolist(), strict=True), strict=True))


def keep_probabilities(requests: list[Request], tokens: list[int], logits: torch.Tensor) -> None:
    """Note the probability of each request's next token, from logits float[n, V], where it was asked for."""
    rows = [row for row, request in enumerate(requests) if request.sampling.probabilities]
    if not rows:
        return
    asked = logits[rows].float()
    chosen = asked.gather(-1, torch.tensor([[tokens[row]] for row in rows], device=logits.device)).squeeze(-1)
    for row, value in zip(rows, (chosen - asked.logsumexp(dim=-1)).exp().tolist(), strict=True):
        requests[row].probabilities.append(value)
