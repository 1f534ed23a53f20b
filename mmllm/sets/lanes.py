"""The engine's way with several sets: those that can share rows go together, every other one by itself, in turns.

:class:`Together` answers all mixable sets of one LLM in one packed row at each step; :class:`Alone` puts one set's
connectors in for its own passes. ``SetsEngine`` is the engine that evaluation and server know, over such lanes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any

from torch import Tensor

from mmllm.generation import content
from mmllm.generation.answers import Request
from mmllm.generation.engine import Way, way_of
from mmllm.generation.learned_set import LearnedSet
from mmllm.generation.memory import Sizes
from mmllm.generation.packed import Packed, Row
from mmllm.generation.shelf import Shelf
from mmllm.model.model import MultimodalLM
from mmllm.model.reading import Reader
from mmllm.sets.mixing import Mixture
from mmllm.sets.reading import SetsReader

Pass = tuple[dict[str, Any], list[Request], Tensor]


class SetsShelf(Shelf):
    """Keys and values of conversations of several sets, each found by conversations of a set of the same digest."""

    def is_stale(self) -> bool:
        """A set's weights never change: other weights are another set, with another digest."""
        return False

    def keys_of(self, request: Request) -> list[Hashable]:
        """Keys of the positions of its prompt."""
        learned = request.learned
        assert learned is not None
        keys = content.position_keys(request.encoded, request.digests, learned.reads_ahead)
        whose: Hashable = learned.digest if learned.can_reuse else object()
        keys[0] = (whose, request.tenant, keys[0])
        return keys


class Together(Packed):
    """Rows of all sets that can be mixed, over one LLM."""

    def __init__(self, mixture: Mixture, sizes: Sizes) -> None:
        super().__init__(MultimodalLM(mixture.llm, {}, {}, {}).eval(), sizes)
        self.mixture = mixture
        self.reader = SetsReader(self.model)
        self.shelf = SetsShelf(self.model, sizes.kv_bytes)

    def reader_of(self, request: Request) -> Reader:
        """Of the request's set."""
        assert request.learned is not None
        return request.learned.reader

    def _parts(self) -> list[tuple[Row, int]]:
        """As without sets, with each set's rows side by side."""
        parts = super()._parts()
        order = {one: n for n, one in enumerate(dict.fromkeys(row.talk.reader for row, _ in parts))}
        return sorted(parts, key=lambda part: order[part[0].talk.reader])

    def sweep(self) -> None:
        """Let go of the rows that are done, and of what their readers kept of the last pass."""
        readers = {row.talk.reader for row in self._rows}
        super().sweep()
        for reader in readers - {row.talk.reader for row in self._rows}:
            reader.forget()


class Alone:
    """One set whose rows cannot be mixed: its connectors are in the LLM during its own passes."""

    def __init__(self, learned: LearnedSet, sizes: Sizes) -> None:
        self.model = learned.model
        with self.model.attached():
            self.way = way_of(self.model, sizes)

    @property
    def requests(self) -> list[Request]:
        """Those being answered."""
        return self.way.requests

    def forget(self) -> None:
        """Let go of all that nobody reads on now."""
        self.way.forget()

    def admit(self, waiting: deque[Request], rows: int, reuse: bool = True) -> None:
        """Let requests begin, in order, up to ``rows`` at once."""
        with self.model.attached():
            self.way.admit(waiting, rows, reuse)

    def advance(self) -> Iterator[Pass]:
        """Run a pass of its own."""
        with self.model.attached():
            # all of it before anybody else's turn
            found = list(self.way.advance())
        yield from found

    def said(self, request: Request, token: int) -> None:
        """Note the token that was chosen."""
        self.way.said(request, token)

    def sweep(self) -> None:
        """Let go of the requests that are done."""
        self.way.sweep()


class Lanes:
    """Ways that take turns: one for each LLM's mixable sets, one for each other set."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._lanes: dict[Hashable, Way] = {}
        self._lane_of: dict[LearnedSet, Hashable] = {}

    @property
    def requests(self) -> list[Request]:
        """Those being answered."""
        # a list of them first: sets are added by other threads
        return [request for lane in list(self._lanes.values()) for request in lane.requests]

    def open(self, learned: LearnedSet, mixture: Mixture | None) -> None:
        """Give a set its lane: that of a mixture it is in, or one of its own."""
        key: Hashable = learned if mixture is None else mixture
        if key not in self._lanes:
            self._lanes[key] = Alone(learned, self.sizes) if mixture is None else Together(mixture, self.sizes)
        self._lane_of[learned] = key

    def close(self, learned: LearnedSet) -> None:
        """Take a set's lane from it, where nobody else has it."""
        key = self._lane_of.pop(learned, None)
        if key is not None and key not in self._lane_of.values():
            del self._lanes[key]

    def forget(self) -> None:
        """Let go of all that nobody reads on now."""
        for lane in self._lanes.values():
            lane.forget()

    def admit(self, waiting: deque[Request], rows: int, reuse: bool = True) -> None:
        """Let requests begin, in order; each lane has what the others leave of ``rows``."""
        for key in list(dict.fromkeys(self._key(request) for request in waiting)):
            own = deque(request for request in waiting if self._key(request) == key)
            before = list(own)
            others = len(self.requests) - len(self._lanes[key].requests)
            self._lanes[key].admit(own, rows - others, reuse)
            for request in before:
                if request not in own:
                    waiting.remove(request)

    def _key(self, request: Request) -> Hashable:
        assert request.learned is not None
        return self._lane_of[request.learned]

    def advance(self) -> Iterator[Pass]:
        """A pass of each lane."""
        for lane in list(self._lanes.values()):
            yield from lane.advance()

    def said(self, request: Request, token: int) -> None:
        """Note the token that was chosen."""
        self._lanes[self._key(request)].said(request, token)

    def sweep(self) -> None:
        """Let go of the requests that are done."""
        for lane in self._lanes.values():
            lane.sweep()
