"""The one engine behind evaluation, terminal, server and Python: conversations join and leave at every step.

Between ``generator``, which makes requests, and the model. :class:`~mmllm.generation.packed.Packed` reads prompts in
pieces, shares beginnings and encodes items once; models that cannot work so are answered by
:class:`~mmllm.generation.padded.Padded`, and a line of the log names what stands in the way.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from mmllm.generation.answers import Request, keep_probabilities, next_tokens
from mmllm.generation.memory import Sizes
from mmllm.generation.packed import Packed
from mmllm.generation.padded import Padded
from mmllm.model.metrics import added
from mmllm.model.reading import obstacles

if TYPE_CHECKING:
    from mmllm.model.model import MultimodalLM

LOG = logging.getLogger(__name__)


class Way(Protocol):
    """How conversations are read: :class:`Packed`, :class:`Padded`, or several of them that take turns."""

    @property
    def requests(self) -> list[Request]:
        """Those being answered."""
        ...

    def forget(self) -> None:
        """Let go of all that nobody reads on now."""
        ...

    def admit(self, waiting: deque[Request], rows: int, reuse: bool = True) -> None:
        """Let requests begin, in order, up to ``rows`` at once."""
        ...

    def advance(self) -> Iterator[tuple[dict[str, Any], list[Request], Tensor]]:
        """Run a pass: its metrics, the requests whose next token is due, and their logits float[n, V]."""
        ...

    def said(self, request: Request, token: int) -> None:
        """Note the token that was chosen."""
        ...

    def sweep(self) -> None:
        """Let go of the requests that are done."""
        ...


def way_of(model: MultimodalLM, sizes: Sizes) -> Packed | Padded:
    """How conversations with one model are read; a line of the log says what stands in the way of pieces."""
    why = obstacles(model)
    if why:
        LOG.info("answers are made in whole padded batches, without reuse of what was read: %s", "; ".join(why))
        return Padded(model)
    packed = Packed(model, sizes)
    if not packed.shelf.can_reuse:
        LOG.info("what was read is not reused: tokens of %s depend on the text", packed.readers_of_text)
    return packed


class Engine:
    """Answers requests of one model. Any thread may submit, cancel or step; one steps at a time."""

    def __init__(self, model: MultimodalLM | None, sizes: Sizes) -> None:
        """``model``: None where requests name theirs."""
        self.model, self.sizes = model, sizes
        self.metrics: dict[str, Any] = {}
        """Connector key -> metrics of all passes since they were last taken."""
        self.reuse = True
        """Whether conversations that begin alike may share what was read."""
        self._waiting: deque[Request] = deque()
        self._lock = threading.RLock()
        self._gate, self._guests = threading.Condition(), 0
        self._made: Way | None = None

    @property
    def way(self) -> Way:
        """How conversations are read; found out when the first is to be answered."""
        if self._made is None:
            self._made = self._new_way()
        return self._made

    def _new_way(self) -> Way:
        assert self.model is not None
        return way_of(self.model, self.sizes)

    @property
    def load(self) -> tuple[int, int]:
        """Number of conversations being answered, and of those waiting."""
        waiting = sum(not request.done for request in list(self._waiting))
        return (0 if self._made is None else len(self._made.requests)), waiting

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Keep steps from running inside: for whatever changes weights or hooks of the model."""
        with self._gate:
            self._guests += 1
        try:
            with self._lock:
                yield
        finally:
            with self._gate:
                self._guests -= 1
                self._gate.notify_all()

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)

    def forget(self) -> None:
        """Let go of everything that was read and encoded before, and of its memory."""
        with self._lock:
            self.way.forget()

    def cancel(self, request: Request) -> None:
        """Give a request up and free its place, at once where no step is running."""
        request.cancel()
        if self._lock.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self._lock.release()

    def fail(self, error: Exception) -> None:
        """End every request with what went wrong outside of any of them."""
        with self._lock:
            for request in [*self._waiting, *self.way.requests]:
                if not request.done:
                    request.fail(error)
            self._sweep()

    def restart(self, error: Exception) -> None:
        """End every request with ``error`` and begin anew: nothing that was read or stored before is used again."""
        for request in [*list(self._waiting), *([] if self._made is None else self._made.requests)]:
            if not request.done:
                request.fail(error)
        # without the lock's old holder, which may have ended inside a step
        self._lock, self._waiting, self._made = threading.RLock(), deque(), None

    def step(self, rows: int | None = None) -> bool:
        """Admit who may begin, run a pass and give each its token; False: there was nothing to do.

        ``rows``: most conversations at once, default: ``sizes.rows``.
        """
        with self._gate:  # guests go first: a lock alone would let the next step in before them, over and over
            self._gate.wait_for(lambda: not self._guests)
        with self._lock:
            self._sweep()
            self.way.admit(self._waiting, self.sizes.rows if rows is None else rows, self.reuse)
            ran = False
            for metrics, requests, logits in self.way.advance():
                ran = True
                self.metrics = added(self.metrics, metrics)
                tokens = next_tokens(requests, logits)
                keep_probabilities(requests, tokens, logits)
                for request, token in zip(requests, tokens, strict=True):
                    if not request.done:
                        self.way.said(request, token)
                        request.take(token)
            self._sweep()
            return ran or bool(self._waiting)

    def _sweep(self) -> None:
        for request in [request for request in list(self._waiting) if request.done]:
            self._waiting.remove(request)
        self.way.sweep()
