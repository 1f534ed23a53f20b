"""Streams of server-sent events: pieces of answers as they come, a comment while none does, and an end in any case."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from fastapi.responses import StreamingResponse

from mmllm.serving.jobs import KEEP_ALIVE, Jobs, Piece
from mmllm.serving.schema import ApiError

# nginx would collect events before it passes them on; X-Accel-Buffering turns that off for one answer
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

KEEP_OPEN = ": keep-alive\n\n"
"""A comment of server-sent events, which clients pass over."""

Event = dict[str, Any]


def stream(
    jobs: Jobs,
    first: Piece | None,
    begin: Iterable[Event],
    push: Callable[[Piece], Iterable[Event]],
    end: Callable[[], Iterable[Event]],
    *,
    named: bool = False,
    behind: Callable[[], Awaitable[Iterable[Event]]] | None = None,
) -> StreamingResponse:
    """Return the response that hands on what comes of ``jobs``, of which ``first`` came.

    ``begin``, ``push`` and ``end`` make its events: those before all, those of a piece, those after all. ``named``: an
    event's ``type`` is its name too, and no ``[DONE]`` ends the stream (OpenAI's responses). ``behind``: makes events
    of all that was said, which may take a while.
    """
    events = _events(jobs, first, begin, push, end, named, behind)
    return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)


async def _events(
    jobs: Jobs,
    first: Piece | None,
    begin: Iterable[Event],
    push: Callable[[Piece], Iterable[Event]],
    end: Callable[[], Iterable[Event]],
    named: bool,
    behind: Callable[[], Awaitable[Iterable[Event]]] | None,
) -> AsyncIterator[str]:
    """Yield the events; closing the stream cancels the jobs."""

    def line(event: Event) -> str:
        name = f"event: {event['type']}\n" if named else ""
        return f"{name}data: {json.dumps(event)}\n\n"

    piece = first
    n_events = 0
    later: asyncio.Future[Iterable[Event]] | None = None
    try:
        for event in begin:
            n_events += 1
            yield line(event)
        while True:
            if piece is None:
                yield KEEP_OPEN
            else:
                for event in push(piece):
                    n_events += 1
                    yield line(event)
            if jobs.over:
                break
            piece = await jobs.next(KEEP_ALIVE)
        if behind is not None:
            later = asyncio.ensure_future(behind())
            while not (await asyncio.wait({later}, timeout=KEEP_ALIVE))[0]:
                yield KEEP_OPEN
            for event in later.result():
                yield line(event)
        for event in end():
            yield line(event)
    except ApiError as error:
        body = error.body()
        yield line({**body["error"], "type": "error", "sequence_number": n_events} if named else body)
    finally:
        jobs.cancel()
        if later is not None:
            later.cancel()
    if not named:
        yield "data: [DONE]\n\n"
