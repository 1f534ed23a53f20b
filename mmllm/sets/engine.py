"""One engine for all sets: which of them share rows, and adding and removing sets between its steps."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from mmllm.errors import MmllmError
from mmllm.generation.answers import Request
from mmllm.generation.engine import Engine
from mmllm.generation.learned_set import LearnedSet
from mmllm.generation.memory import Sizes
from mmllm.sets.lanes import Lanes
from mmllm.sets.mixing import Mixture

if TYPE_CHECKING:
    from mmllm.llms.causal_lm import CausalLM

LOG = logging.getLogger("serve")


class SetGoneError(MmllmError):
    """A set cannot be asked any more."""


class SetsEngine(Engine):
    """Answers requests of several sets; each request names its own (``Request.learned``)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(None, sizes)
        self._mixtures: dict[CausalLM, Mixture] = {}
        self._sets: dict[LearnedSet, Mixture | None] = {}
        self._table = threading.Lock()

    @property
    def sets(self) -> list[LearnedSet]:
        """Those that can be asked, in the order in which they came."""
        return list(self._sets)

    def _new_way(self) -> Lanes:
        lanes = Lanes(self.sizes)
        for learned, mixture in self._sets.items():
            lanes.open(learned, mixture)
        return lanes

    @property
    def _lanes(self) -> Lanes:
        way = self.way
        assert isinstance(way, Lanes)
        return way

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn; SetGoneError where its set was removed."""
        with self._table:  # not while the set is being removed
            if request.learned not in self._sets:
                raise SetGoneError("The model does not exist.")
            super().submit(request)

    def add(self, learned: LearnedSet) -> None:
        """Let a set be asked; its connectors are out of the LLM and the encoders. Call it ``between_steps``."""
        llm = learned.model.llm
        mixture = self._mixtures.get(llm) or Mixture(llm)
        why = mixture.add(learned.model)
        if why is not None:
            LOG.info("%s is answered in passes of its own: %s", learned.name, why)
        else:
            self._mixtures[llm] = mixture
        lanes = self._lanes
        self._sets[learned] = None if why is not None else mixture
        lanes.open(learned, self._sets[learned])

    def remove(self, learned: LearnedSet, error: Exception | None = None) -> None:
        """Let a set go. ``error``: ends the requests that it has. Call it ``between_steps``."""
        with self._table:
            mixture = self._sets.pop(learned)
        for request in self._asking(learned):
            request.fail(error or SetGoneError("The model does not exist."))
        self._sweep()
        self._lanes.close(learned)
        if mixture is not None:
            mixture.remove(learned.model)
            if mixture not in self._sets.values():
                del self._mixtures[learned.model.llm]

    def is_asked(self, learned: LearnedSet) -> bool:
        """Whether a request of a set is being answered, or waits."""
        return bool(self._asking(learned))

    def waiting(self, learned: LearnedSet) -> int:
        """Number of a set's requests that wait for their turn."""
        return sum(one.learned is learned and not one.done for one in list(self._waiting))

    def _asking(self, learned: LearnedSet) -> list[Request]:
        every = [*list(self._waiting), *([] if self._made is None else self._made.requests)]
        return [request for request in every if request.learned is learned and not request.done]
