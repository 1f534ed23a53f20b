"""Answers to one question, a column each, read on a thread of their own: every click runs the page anew."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from serve.client import Answer, Server, ServerFault, room
from serve.page.conversation import Reply

ALONE = 20.0
"""Seconds after which answers are given up that no page looks at any more: its tab was closed or loaded anew."""


class Asking:
    """Answers that are being written into the replies of a question."""

    def __init__(self, turn: str, replies: Sequence[Reply], requests: Sequence[tuple[Server, dict[str, Any]]]) -> None:
        """``turn``: name of the question; ``requests``: server and body of each reply."""
        self.turn = turn
        self._columns = list(zip(replies, requests, strict=True))
        self._looked_at = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._run())
        self._thread = threading.Thread(target=self._drive, name="answers", daemon=True)
        self._thread.start()

    def is_over(self) -> bool:
        """Return whether all answers have ended; to be asked again and again, by a page that shows them."""
        self._looked_at = time.monotonic()
        return not self._thread.is_alive()

    def stop(self, wait: float = 5.0) -> None:
        """End them where they are: the servers are told by the end of the connection."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(wait)

    def _drive(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _run(self) -> None:
        alone = asyncio.create_task(self._give_up_alone())
        try:
            await asyncio.gather(*(self._read(reply, *request) for reply, request in self._columns))
        finally:
            alone.cancel()

    async def _give_up_alone(self) -> None:
        while time.monotonic() - self._looked_at < ALONE:
            await asyncio.sleep(1)
        self._task.cancel()

    async def _read(self, reply: Reply, server: Server, request: dict[str, Any]) -> None:
        """Write one answer into its reply as it comes, and what went wrong."""
        try:
            await self._stream(reply, Answer(server, request))
        except ServerFault as error:
            shorter = await self._shortened(error, server, request)
            if shorter is None:
                reply.fault = str(error)
                return
            try:
                await self._stream(reply, Answer(server, shorter))
            except ServerFault as another:
                reply.fault = str(another)

    async def _stream(self, reply: Reply, answer: Answer) -> None:
        try:
            async with aclosing(answer.deltas()) as arriving:
                async for _ in arriving:
                    reply.text = answer.text
        finally:
            if answer.text or answer.finish:
                reply.note, reply.tags = answer.note(), answer.tags

    async def _shortened(self, error: ServerFault, server: Server, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the request with as many tokens as the context has left, where fewer than asked for are."""
        if error.code != "context_length_exceeded" or "max_tokens" not in request:
            return None
        try:
            left = await asyncio.to_thread(room, server, request)
        except ServerFault:
            return None  # the first fault says what is wrong
        return {**request, "max_tokens": left} if 0 < left < request["max_tokens"] else None
