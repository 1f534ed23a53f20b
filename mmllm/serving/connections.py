"""Time limits of a connection: clients that open many and say nothing, or never read, hold no place for ever.

uvicorn limits how long a connection may be idle between two requests (``IDLE``); the rest is here. How long a body may
take is ``middleware.BodyLimit``'s, which knows where one ends.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE = 75
"""Seconds that a connection may be idle between two requests.

Longer than clients keep theirs (httpx and so the openai client 5, aiohttp 15, nginx 60): else some send a request at
the moment at which the server closes, and it is lost. uvicorn's own 5 are just as long as httpx's.
"""


class TimedConnection(H11Protocol):
    """HTTP/1.1 whose connections are closed when a request's head or the reading of an answer takes too long."""

    head_seconds = 15.0
    """From the opening of a connection, or the first byte of a later request, to the end of its headers."""
    write_seconds = 60.0
    """While the client takes nothing of an answer, whose pieces are then kept in memory."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head: asyncio.TimerHandle | None = None
        self._write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head that is not whole do not buy it more time."""
        super().data_received(data)
        self._time_head()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        # abort, not close: what it does not read is not waited for
        self._write = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: it has read."""
        super().resume_writing()
        _stop(self._write)
        self._write = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for anything."""
        _stop(self._head)
        _stop(self._write)
        super().connection_lost(exc)

    def _time_head(self) -> None:
        """Wait for the rest of a head, unless a request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            _stop(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self.head_seconds, self.transport.close)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
