"""Around every HTTP exchange: a request id on each answer, and limits on a body: its bytes and the time it takes."""

from __future__ import annotations

import asyncio
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmllm.serving.schema import ApiError

REQUEST_ID = "x-request-id"


class RequestId:
    """Middleware that gives each request an id (``scope["state"]["request_id"]``), sent back as ``x-request-id``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one exchange; only HTTP is touched."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        ident = f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = ident

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = ident
            await send(message)

        return await self.app(scope, receive, send_with_id)


_UNKNOWN = -1
"""Where a quote stands that was not looked for to the end."""


class TextRun:
    """How many bytes of a text have come of a JSON body that arrives in pieces, without parsing it.

    A text is a string under one of the names that texts have in requests; files are under other names. It may miss
    one, never invent one: a quote inside a text is escaped, so what looks like a name and a quote is one. A character
    takes 12 bytes at most (two ``\\uXXXX``).
    """

    _NAME = re.compile(rb'"(?:text|content|prompt|input|instructions)"\s{0,8}:\s{0,8}$')
    _QUOTES = 50
    """Most quotes of a piece that are looked at, from its end: a text full of them must not cost time."""

    def __init__(self) -> None:
        self._n_bytes = 0
        self._inside = False
        self._before = b""

    def feed(self, piece: bytes) -> int:
        """Take the next piece; returns how many bytes have come of the text that is not over, 0 where there is none."""
        seen = self._before + piece
        start = self._last_quote(seen, len(self._before))
        if start == _UNKNOWN:
            self._inside = False
        elif start is not None:
            self._inside = self._NAME.search(seen, max(0, start - 32), start) is not None
            self._n_bytes = len(seen) - start - 1
        elif self._inside:
            self._n_bytes += len(piece)
        self._before = seen[-64:]
        return self._n_bytes if self._inside else 0

    def _last_quote(self, seen: bytes, begin: int) -> int | None:
        """Return where the last quote stands that no backslash escapes, from ``begin`` on; None where there is none."""
        end = len(seen)
        for _ in range(self._QUOTES):
            end = seen.rfind(b'"', begin, end)
            if end < 0:
                return None
            before = seen[:end] if end < 64 else seen[end - 64 : end]
            if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
                return end
        return _UNKNOWN


class BodyLimit:
    """Middleware that refuses bodies of more than ``max_body`` bytes with 413, whatever Content-Length claims.

    One that stops arriving for ``idle`` seconds, or takes ``whole`` seconds, is 408. A text that is seen to have
    more than ``max_text`` characters is 400, and the rest is not kept: parsing would hold all of it three times.
    """

    def __init__(
        self, app: ASGIApp, max_body: int, max_text: int | None = None, idle: float = 20.0, whole: float = 300.0
    ) -> None:
        self.app = app
        self.max_body, self.max_text, self.idle, self.whole = max_body, max_text, idle, whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one exchange; the error is raised where the body is read and becomes the usual envelope there."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        claimed = Headers(scope=scope).get("content-length", "")
        # 19 digits hold any real length; a header of thousands of them would cost time, or Python's limit on
        # conversions
        seen = int(claimed) if claimed.isdecimal() and len(claimed) < 20 else 0
        arrived = 0
        begun = time.monotonic()
        complete = False
        text = None if self.max_text is None else TextRun()

        async def next_piece() -> Message:
            nonlocal arrived, complete
            try:
                left = begun + self.whole - time.monotonic()
                message = await asyncio.wait_for(receive(), max(0.0, min(self.idle, left)))
            except TimeoutError:
                raise ApiError(408, "The request did not arrive in time.", code="request_timeout") from None
            complete = not message.get("more_body", False)
            arrived += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if arrived > self.max_body:
                raise self._error()
            return message

        async def receive_within_limit() -> Message:
            if seen > self.max_body:
                raise self._error()
            if complete:  # what comes now is the client's leaving, however late
                return await receive()
            message = await next_piece()
            if text is not None and text.feed(message.get("body", b"")) > 12 * (self.max_text or 0):
                # the rest is let pass by: a client that is still sending would not read the refusal
                while not complete:
                    await next_piece()
                over = f"A text is over {self.max_text} characters, the most that the context holds; shorten it."
                raise ApiError(400, over, code="context_length_exceeded", param="messages")
            return message

        return await self.app(scope, receive_within_limit, send)

    def _error(self) -> ApiError:
        message = f"The request is larger than {self.max_body} bytes; send fewer or smaller files."
        return ApiError(413, message, code="request_too_large")
