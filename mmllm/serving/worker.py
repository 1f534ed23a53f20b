"""The one thread that drives the engine: requests join and leave at every step, a short queue waits, cancelled ones go.

``api.py`` submits an encoded sample and awaits its deltas; nothing else in the server touches the model.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmllm.errors import ConstraintError, MmllmError
from mmllm.generation.answers import Delta, Request
from mmllm.generation.constraints import Constraint
from mmllm.generation.sampling import Sampling
from mmllm.serving.schema import ApiError
from mmllm.sets.engine import SetGoneError
from mmllm.types import Message, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmllm.generation.generator import Encoded, Generator
    from mmllm.serving.metrics import ModelMetrics

LOG = logging.getLogger("serve")

FAILURES = 3
"""Requests in a row that end by a fault of the server, after which the engine is taken for broken."""
STOPPED = "The model stopped; the server's log says why."


def gone(error: SetGoneError) -> ApiError:
    """Return what a request is told whose model was taken away."""
    return ApiError(404, str(error), code="model_not_found", param="model")


@dataclass(eq=False)
class Job:
    """One request between the event loop (which awaits deltas) and the worker's thread (which makes them)."""

    name: str
    loop: asyncio.AbstractEventLoop
    started: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    """How long it took, once it is over."""
    request: Request | None = None
    metrics: ModelMetrics | None = None
    _events: asyncio.Queue[Delta | Exception] = field(default_factory=asyncio.Queue)

    failed: bool = False
    """Whether it ended by a fault of the server."""
    answered: bool = False
    """Whether some of its answer came since this was last asked."""
    _begun: bool = False

    async def next(self, timeout: float | None = None) -> Delta | None:
        """Return the next delta; None when ``timeout`` seconds passed without one. Failures are raised as ApiError."""
        try:
            event = await asyncio.wait_for(self._events.get(), timeout)
        except TimeoutError:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        """Give the answer up: nobody waits for it any more, and its place is free at the next step."""
        if self.request is not None:
            self.request.cancel()

    def put(self, event: Delta | Exception) -> None:
        """Hand an event to the event loop (called on the worker's thread); a closed loop cancels the job."""
        if isinstance(event, ConstraintError):
            event = ApiError(400, f"The grammar cannot be followed: {event}.", code="invalid_schema")
        if isinstance(event, SetGoneError):
            event = gone(event)
        elif isinstance(event, MmllmError):
            event = ApiError(400, str(event), code="invalid_prompt", param="messages")
        elif isinstance(event, Exception) and not isinstance(event, ApiError):
            LOG.error("request %s failed", self.name, exc_info=event)
            self.failed = True
            event = ApiError(500, "The server failed to answer this request; its log says why.")
        else:
            self.answered = True
        if isinstance(event, Exception) or event.finish is not None:
            self.seconds = time.monotonic() - self.started
        self._count(event)
        try:
            self.loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            self.cancel()

    def _count(self, event: Delta | Exception) -> None:
        if self.metrics is None:
            return
        seconds = time.monotonic() - self.started
        if isinstance(event, Exception):
            return self.metrics.failed()
        if not self._begun:
            self._begun = True
            self.metrics.first(seconds)
        if event.finish is not None:
            self.metrics.finished(event, seconds)


class Worker:
    """Answers jobs on a thread of its own, as many at once as the engine has rows.

    At most ``max_waiting`` wait besides; one more is refused with 429.

    An engine that fails ``FAILURES`` requests in a row and then one of the server's own, or whose thread ends, fails
    all that are open at once and is started once more, with nothing of what it had stored. The second time it stays
    down: what is broken then (a device after an assertion, memory that is gone) takes a new process, whose manager
    learns of it by ``/health``.
    """

    def __init__(self, generator: Generator, max_waiting: int) -> None:
        self.generator = generator
        self.engine = generator.engine
        self.max_waiting = max_waiting
        self._jobs: list[Job] = []
        """Those that are not over."""
        self._changed = threading.Condition()
        self._closing = False
        self._broken = False
        self._restarted = False
        self._failures = 0
        """Requests in a row that failed."""
        # running mean of an answer's duration, for Retry-After
        self._seconds = 1.0
        self._thread = self._new_thread()

    @property
    def alive(self) -> bool:
        """Return whether requests can be answered."""
        return self._thread.is_alive() and not self._closing and not self._broken

    @property
    def load(self) -> tuple[int, int]:
        """Return the number of requests being answered and of requests waiting."""
        return self.engine.load

    def _new_thread(self) -> threading.Thread:
        # daemon: a process that has to end does not wait for a token that takes long
        return threading.Thread(target=self._run, name="generator", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Cancel what runs and waits, then end the thread (``timeout`` in seconds)."""
        with self._changed:
            self._closing = True
            for job in self._jobs:
                job.cancel()
            self._changed.notify_all()
        # it may never have been started
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def check_room(self, reading: int = 0) -> None:
        """Raise ApiError 429 when the queue is full, 503 when nothing is answered any more.

        ``reading``: requests that are being read, which will join the queue.
        """
        if not self.alive:
            raise ApiError(503, "The server is shutting down or its model stopped.", headers={"Retry-After": "30"})
        running, waiting = self.load
        rows = self.engine.sizes.rows
        if running + waiting + reading >= self.max_waiting + rows:
            turns = -(-(running + waiting + reading - rows + 1) // rows)
            wait = min(30, max(1, round(self._seconds * turns)))
            waits = max(0, running + waiting + reading - rows)
            message = f"The server is busy: {waits} requests wait already; try again in {wait} s."
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": str(wait)})

    def submit(
        self,
        encoded: Encoded,
        sampling: Sampling,
        tenant: str = "",
        constraint: Constraint | None = None,
        forced: Sequence[int] = (),
        *,
        generator: Generator | None = None,
        metrics: ModelMetrics | None = None,
        admitted: bool = False,
    ) -> Job:
        """Queue a request of ``tenant`` (called on the event loop); ApiError when there is no room.

        ``constraint``, ``forced``: see ``generation.answers.Request``. ``generator``: who encoded it, over the same
        engine; default: the worker's own. ``metrics``: what counts it. ``admitted``: room was asked for before.
        """
        if not admitted:
            self.check_room()
        job = Job(encoded.name, asyncio.get_running_loop(), metrics=metrics)
        with self._changed:
            if not self.alive:  # it may have ended since
                raise ApiError(503, STOPPED, headers={"Retry-After": "30"})
            try:
                job.request = (generator or self.generator).submit(
                    encoded, sampling, job.put, tenant, constraint, forced
                )
            except SetGoneError as error:
                raise gone(error) from error
            self._jobs.append(job)
            self._changed.notify_all()
        return job

    def _run(self) -> None:
        """Work until the server closes; whatever ends it before is the engine's end too."""
        try:
            if self._broken:  # just restarted
                if not self._works():
                    raise RuntimeError("the fresh engine fails too")
                self._broken = False
            self._work()
        except BaseException as error:  # also SystemExit, which would end a thread without a word
            LOG.critical("the model stopped", exc_info=error)
            self._restart()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or bool(self._jobs))
                if self._closing:
                    return
            try:
                self.engine.step()
            except Exception as error:  # not of one request: those end alone
                self.engine.fail(error)
            with self._changed:
                self._forget()
            if self._failures >= FAILURES:
                # three requests that are each at fault do not take the server down: the engine is asked itself
                if not self._works():
                    raise RuntimeError(
                        f"{self._failures} requests in a row failed, and so does one of the server's own"
                    )
                self._failures = 0

    def _works(self) -> bool:
        """Return whether a plain question gets its first token, in one of three tries.

        In three, since what fails a pass may be a request that came meanwhile.
        """
        return any(self._answers_itself() for _ in range(FAILURES))

    def _answers_itself(self) -> bool:
        request = None
        try:
            encoded = self.generator.encode(Sample("probe", (Message("user", "Hi"),)))
            request = self.generator.submit(encoded, Sampling(max_new_tokens=1), lambda _: None)
            while not request.done:
                self.engine.step()
        except Exception as error:
            LOG.error("the engine fails", exc_info=error)
            self.engine.fail(error)
        return request is not None and request.finish is not None

    def _restart(self) -> None:
        """Fail what is open; try once more with a fresh engine on a thread of its own, unless that was done before."""
        with self._changed:
            self._broken = True
            self.engine.restart(ApiError(503, STOPPED, headers={"Retry-After": "5"}))
            self._jobs, self._failures = [], 0
            if self._restarted:
                LOG.critical("it is not started once more: start the server anew")
            elif not self._closing:
                LOG.warning("it is started once more")
                self._restarted = True
                self._thread = self._new_thread()
                self._thread.start()

    def _forget(self) -> None:
        """Let go of the jobs that are over."""
        for job in self._jobs:
            if job.failed:
                self._failures += 1
            elif job.answered:
                job.answered, self._failures = False, 0
            if job.seconds is not None:
                self._seconds = 0.7 * self._seconds + 0.3 * job.seconds
        self._jobs = [job for job in self._jobs if job.request is not None and not job.request.done]
