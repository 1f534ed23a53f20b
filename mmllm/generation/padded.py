"""Conversations answered in left-padded batches: the way of models whose parts need a whole prompt in one pass.

Requests that wait together make a group; several groups take turns, so a new one begins at once. Nothing is reused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.generation.answers import Request
from mmllm.types import IGNORE_INDEX

if TYPE_CHECKING:
    from mmllm.batches.sample import Encoded
    from mmllm.model.decoding_state import DecodingState
    from mmllm.model.model import MultimodalLM


class _Group:
    """Requests in the rows of one decoding."""

    def __init__(self, requests: list[Request]) -> None:
        self.requests = requests
        self.state: DecodingState | None = None


class Padded:
    """Groups of requests that take turns."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model
        self._groups: list[_Group] = []

    @property
    def requests(self) -> list[Request]:
        """Those being answered."""
        return [request for group in self._groups for request in group.requests if not request.done]

    def forget(self) -> None:
        """Let go of what was kept: nothing is."""

    def admit(self, waiting: deque[Request], rows: int, reuse: bool = True) -> None:
        """Let requests begin, in order, up to ``rows`` at once."""
        some = [waiting.popleft() for _ in range(min(len(waiting), rows - len(self.requests)))]
        if some:
            self._groups.append(_Group(some))

    def advance(self) -> Iterator[tuple[dict[str, Any], list[Request], Tensor]]:
        """A pass of each group: its metrics, the requests whose next token is due, and their logits float[n, V]."""
        for group in list(self._groups):
            yield from self._pass(group)

    def _pass(self, group: _Group) -> Iterator[tuple[dict[str, Any], list[Request], Tensor]]:
        try:
            group.state = self._begun(group) if group.state is None else self._decoded(group, group.state)
        except Exception as error:
            self._groups.remove(group)
            if len(group.requests) == 1:
                group.requests[0].fail(error)
                return
            # each alone, from its prompt and what it said so far: only the one at fault ends
            for request in group.requests:
                if not request.done:
                    self._groups.append(_Group([request]))
                    yield from self._pass(self._groups[-1])
            return
        yield self.model.metrics(group.state.ctx), list(group.requests), group.state.logits

    def _begun(self, group: _Group) -> DecodingState:
        grown = [_grown(request) for request in group.requests]
        batch = collate(grown, self.model.inputs, self.model.llm.positions)
        return self.model.prefill(batch.to(self.model.llm.device))

    def _decoded(self, group: _Group, state: DecodingState) -> DecodingState:
        going = [place for place, request in enumerate(group.requests) if not request.done]
        device = state.logits.device
        if len(going) < len(group.requests):
            # they would be fed and attended for as long as the longest answer lasts
            state = self.model.select(state, torch.tensor(going, device=device))
            group.requests = [group.requests[place] for place in going]
        return self.model.decode(state, torch.tensor([one.tokens[-1] for one in group.requests], device=device))

    def said(self, request: Request, token: int) -> None:
        """Note the token that was chosen: requests know theirs."""

    def sweep(self) -> None:
        """Let go of the groups that are done."""
        self._groups = [group for group in self._groups if not all(request.done for request in group.requests)]


def _grown(request: Request) -> Encoded:
    """The conversation with what was answered so far."""
    encoded, said = request.encoded, request.tokens
    if not said:
        return encoded
    turns = encoded.user_turn and [*encoded.user_turn, *([-1] * len(said))]
    return replace(
        encoded, ids=[*encoded.ids, *said], labels=[*encoded.labels, *([IGNORE_INDEX] * len(said))], user_turn=turns
    )
