"""The one thread that owns the Generator: answers requests one after the other, holds a short queue, stops on cancel.

``api.py`` submits an encoded sample and awaits its deltas; nothing else in the server touches the model.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmllm.errors import MmllmError
from mmllm.serving.schema import ApiError

if TYPE_CHECKING:
    from mmllm.generation.generator import Delta, Encoded, Generator
    from mmllm.generation.sampling import Sampling

LOG = logging.getLogger("serve")


@dataclass(eq=False)
class Job:
    """One request between the event loop (which awaits deltas) and the worker's thread (which makes them)."""

    encoded: Encoded
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    cancelled: threading.Event = field(default_factory=threading.Event)
    _events: asyncio.Queue[Delta | Exception] = field(default_factory=asyncio.Queue)

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
        """Give the answer up: nobody waits for it any more, and the worker stops at the next token."""
        self.cancelled.set()

    def put(self, event: Delta | Exception) -> None:
        """Hand an event to the event loop (called on the worker's thread); a closed loop cancels the job."""
        try:
            self.loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            self.cancel()


class Worker:
    """Answers jobs in order on a thread of its own. At most ``max_waiting`` wait; one more is refused with 429."""

    def __init__(self, generator: Generator, max_waiting: int) -> None:
        self.generator = generator
        self.max_waiting = max_waiting
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closing = False
        # running mean of an answer's duration, for Retry-After
        self._seconds = 1.0
        # daemon: a process that has to end does not wait for a token that takes long
        self._thread = threading.Thread(target=self._work, name="generator", daemon=True)

    @property
    def alive(self) -> bool:
        """Return whether requests can be answered."""
        return self._thread.is_alive() and not self._closing

    @property
    def load(self) -> tuple[int, int]:
        """Return the number of requests being answered (0 or 1) and of requests waiting."""
        with self._changed:
            return int(self._running is not None), sum(not job.cancelled.is_set() for job in self._waiting)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Cancel what runs and waits, then end the thread (``timeout`` in seconds)."""
        with self._changed:
            self._closing = True
            for job in [*self._waiting, *([self._running] if self._running else [])]:
                job.cancel()
            self._changed.notify_all()
        # it may never have been started
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def check_room(self, reading: int = 0) -> None:
        """Raise ApiError 429 when the queue is full, 503 when nothing is answered any more.

        ``reading``: requests whose media are being read, which will join the queue.
        """
        if not self.alive:
            raise ApiError(503, "The server is shutting down or its model stopped.", headers={"Retry-After": "30"})
        running, waiting = self.load
        if running + waiting + reading > self.max_waiting:
            wait = min(30, max(1, round(self._seconds * (waiting + reading + 1))))
            message = f"The server is busy: {waiting + reading} requests wait already; try again in {wait} s."
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": str(wait)})

    def submit(self, encoded: Encoded, sampling: Sampling) -> Job:
        """Queue a request (called on the event loop); ApiError when there is no room."""
        self.check_room()
        job = Job(encoded, sampling, asyncio.get_running_loop())
        with self._changed:
            # requests that were given up make room
            self._waiting = deque(other for other in self._waiting if not other.cancelled.is_set())
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.wait_for(lambda: self._closing or bool(self._waiting))
                if self._closing:
                    return
                job = self._running = self._waiting.popleft()
            if not job.cancelled.is_set():
                started = time.monotonic()
                self._answer(job)
                self._seconds = 0.7 * self._seconds + 0.3 * (time.monotonic() - started)

    def _answer(self, job: Job) -> None:
        """Run one job to its end; whatever happens, the client gets an event and the next job its turn."""
        try:
            for delta in self.generator.stream_encoded(job.encoded, job.sampling):
                job.put(delta)
                if job.cancelled.is_set():
                    return
        except MmllmError as error:
            job.put(ApiError(400, str(error), code="invalid_prompt", param="messages"))
        except Exception:
            LOG.exception("request %s failed", job.encoded.name)
            job.put(ApiError(500, "The server failed to answer this request; its log says why."))
