"""Around every HTTP exchange: a request id on each answer, and limits on a body: its bytes and the time it takes."""

from __future__ import annotations

import asyncio
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


class BodyLimit:
    """Middleware that refuses bodies of more than ``max_body`` bytes with 413, whatever Content-Length claims.

    One that stops arriving for ``idle`` seconds, or takes ``whole`` seconds, is 408.
    """

    def __init__(self, app: ASGIApp, max_body: int, idle: float = 20.0, whole: float = 300.0) -> None:
        self.app = app
        self.max_body, self.idle, self.whole = max_body, idle, whole

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

        async def receive_within_limit() -> Message:
            nonlocal arrived, complete
            if seen > self.max_body:
                raise self._error()
            if complete:  # what comes now is the client's leaving, however late
                return await receive()
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

        return await self.app(scope, receive_within_limit, send)

    def _error(self) -> ApiError:
        message = f"The request is larger than {self.max_body} bytes; send fewer or smaller files."
        return ApiError(413, message, code="request_too_large")
