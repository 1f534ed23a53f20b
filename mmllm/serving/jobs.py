"""Answers to one request side by side: their pieces as they come, whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request

from mmllm.serving.schema import ApiError, usage

if TYPE_CHECKING:
    from mmllm.generation.answers import Delta
    from mmllm.serving.worker import Job

KEEP_ALIVE = 15.0
"""Seconds without a delta after which a stream sends a comment, so that proxies do not close it."""

T = TypeVar("T")

Piece = tuple[int, "Delta"]
"""Number of an answer, from 0, and its next piece."""


class Jobs:
    """One job for each answer."""

    def __init__(self, jobs: Sequence[Job], prompts: Sequence[int]) -> None:
        """``prompts``: number of the prompt that each job answers."""
        self._jobs, self._prompts = jobs, prompts
        self._open = set(range(len(jobs)))
        self._coming: dict[asyncio.Task[Delta | None], int] = {}
        self._last: dict[int, Delta] = {}

    @property
    def over(self) -> bool:
        """Whether nothing comes any more."""
        return not self._open

    async def next(self, timeout: float | None = None) -> Piece | None:
        """Return the next piece; None when ``timeout`` seconds passed without one. Failures are raised as ApiError."""
        awaited = set(self._coming.values())
        for number in sorted(self._open - awaited):
            self._coming[asyncio.ensure_future(self._jobs[number].next())] = number
        done, _ = await asyncio.wait(self._coming, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        task = min(done, key=self._coming.__getitem__)
        number = self._coming.pop(task)
        delta = task.result()
        assert delta is not None  # no time limit was given
        self._last[number] = delta
        if delta.finish is not None:
            self._open.remove(number)
        return number, delta

    async def collect(self, request: Request, push: Callable[[int, Delta], Any]) -> None:
        """Hand every piece to ``push``; a client that closes its connection ends them."""
        leaving = asyncio.create_task(left(request))
        try:
            while not self.over:
                piece = await or_left(self.next(), leaving)
                assert piece is not None
                push(*piece)
        finally:
            leaving.cancel()
            self.cancel()

    async def first(self, request: Request) -> Piece | None:
        """Return the first piece, before the headers of a stream are sent: a fault can still be an HTTP error.

        None: none has come for a while. A client that closes its connection ends the jobs.
        """
        leaving = asyncio.create_task(left(request))
        try:
            return await or_left(self.next(KEEP_ALIVE), leaving)
        # also CancelledError, which is no Exception: the client left
        except BaseException:
            self.cancel()
            raise
        finally:
            # from here on the response itself listens for the client's leaving
            leaving.cancel()

    def cancel(self) -> None:
        """Give all of them up."""
        for task in self._coming:
            task.cancel()
        for job in self._jobs:
            job.cancel()

    @property
    def usage(self) -> dict[str, Any]:
        """Token counts of all answers so far; a prompt is counted once, however many answers it has."""
        first: dict[int, Delta] = {}
        for number in sorted(self._last):
            first.setdefault(self._prompts[number], self._last[number])
        said = sum(one.completion_tokens for one in self._last.values())
        read, known = (
            sum(count(one) for one in first.values())
            for count in (lambda one: one.prompt_tokens, lambda one: one.cached_tokens)
        )
        return usage(read, said, known)


async def left(request: Request) -> None:
    """Return when the client has closed its connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def or_left(coming: Coroutine[Any, Any, T], leaving: asyncio.Task[None]) -> T:
    """Return what is coming; ApiError where the client leaves before it comes."""
    awaited = asyncio.ensure_future(coming)
    try:
        await asyncio.wait({awaited, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            raise ApiError(499, "The client closed the connection.")  # nginx's number for it
        return awaited.result()
    finally:
        awaited.cancel()
